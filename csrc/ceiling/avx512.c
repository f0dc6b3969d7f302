/* AVX-512 without VNNI: as AVX2, twice as wide. */
#define HQK_NAME(op) op##_avx512
#include <immintrin.h>

#define DOT8(a, u, v) _mm512_add_epi16(a, _mm512_maddubs_epi16(u, v))
#define DOT8_WIDENED(a, u, v) _mm512_add_epi32(a, _mm512_madd_epi16(_mm512_maddubs_epi16(u, v), v))
#include "wide.h"
