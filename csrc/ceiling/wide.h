/* What the 512-bit versions have alike. */
#define ACCUMULATORS 16
#define REGISTER "v"
#define VECTOR __m512i
#define FLOATS __m512
#define SPLAT(x) _mm512_set1_epi8((char)(x))
#define SPLAT_F32(x) _mm512_set1_ps(x)
#define DOT8_TERMS 64
#define DOT8_WIDENED_TERMS 64
#define MULTIPLY_ADD(a, u, v) _mm512_fmadd_ps(u, v, a)
#define ADD(a, b) _mm512_add_epi64(a, b)
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, x) _mm512_storeu_si512(p, x)
#include "body.h"
