/* AVX-512 VNNI: one vpdpbusd for 64 products. */
#define HQK_NAME(op) op##_avx512vnni
#include <immintrin.h>

#define DOT8(a, u, v) _mm512_dpbusd_epi32(a, u, v)
#define DOT8_WIDENED DOT8
#include "wide.h"
