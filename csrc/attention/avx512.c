/* 6 rows x 64 columns: 24 accumulators, four loads and six broadcasts for 24 fused multiply-adds. */
#include <immintrin.h>

#define HQK_NAME(op) op##_avx512
#define VECTORS 4
#define LANES 16
typedef __m512 vector;
typedef __mmask16 mask;

static inline mask first_lanes(size_t n) { return (mask)((1u << n) - 1); }
static inline vector load(const float *p, mask m) { return _mm512_maskz_loadu_ps(m, p); }
static inline void store(float *p, mask m, vector v) { _mm512_mask_storeu_ps(p, m, v); }
static inline vector broadcast(const float *p) { return _mm512_set1_ps(*p); }
static inline vector zero(void) { return _mm512_setzero_ps(); }
static inline vector fma_lanes(vector a, vector b, vector c) { return _mm512_fmadd_ps(a, b, c); }

#include "tile.h"
#include "body.h"
