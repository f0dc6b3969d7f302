/* 6 rows x 16 columns: 12 accumulators, two loads and six broadcasts for 12 fused multiply-adds. */
#include <immintrin.h>

#define HQK_NAME(op) op##_avx2
#define VECTORS 2
#define LANES 8
typedef __m256 vector;
typedef __m256i mask;

static inline mask first_lanes(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vector load(const float *p, mask m) { return _mm256_maskload_ps(p, m); }
static inline void store(float *p, mask m, vector v) { _mm256_maskstore_ps(p, m, v); }
static inline vector broadcast(const float *p) { return _mm256_broadcast_ss(p); }
static inline vector zero(void) { return _mm256_setzero_ps(); }
static inline vector fma_lanes(vector a, vector b, vector c) { return _mm256_fmadd_ps(a, b, c); }

#include "tile.h"
#include "body.h"
