/* vdpbf16ps on words of two tokens: 6 x 64, 24 sums. The instruction adds the product of the high halves, then that of the
 * low ones, each sum rounded; what is below 2^-126 it takes for zero. */
#include "../hqk.h"

#include <immintrin.h>

#define HQK_NAME(op) op##_avx512bf16
#define LANES 16
#define B_VECTORS 4
#define WORDS 1
typedef uint32_t value;
typedef __m512 vector;

static inline vector zero(void) { return _mm512_setzero_ps(); }
static inline vector load(const value *p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
static inline vector broadcast(const value *p) { return _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)*p)); }
static inline void store(float *p, vector v) { _mm512_storeu_ps(p, v); }

static inline vector dot(vector sum, vector a, vector b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

#include "tile.h"
