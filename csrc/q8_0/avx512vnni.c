/* vpdpbusd in its EVEX form. */
#include "layout.h"

#include <immintrin.h>

static inline __m256i dot_quads(__m256i a, __m256i b) { return _mm256_dpbusd_epi32(_mm256_setzero_si256(), a, b); }

#include "body256.h"

MATVEC(hqk_q8_0_matvec_avx512vnni)
