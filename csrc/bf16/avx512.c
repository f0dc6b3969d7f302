/* f32 panels and multiply-adds: 6 x 64, 24 sums. The product of two bf16 is exact, so fusing changes nothing. */
#include "../hqk.h"

#include <immintrin.h>

#define HQK_NAME(op) op##_avx512
#define LANES 16
#define B_VECTORS 4
#define WORDS 0
typedef float value;
typedef __m512 vector;

static inline vector zero(void) { return _mm512_setzero_ps(); }
static inline vector load(const value *p) { return _mm512_loadu_ps(p); }
static inline vector broadcast(const value *p) { return _mm512_set1_ps(*p); }
static inline void store(float *p, vector v) { _mm512_storeu_ps(p, v); }
static inline vector dot(vector sum, vector a, vector b) { return _mm512_fmadd_ps(a, b, sum); }

#include "tile.h"
