/* Products in pairs of 16 bits (128 x 127 x 2 just fits), then in quads. */
#include "layout.h"

#include <immintrin.h>

static inline __m256i dot_quads(__m256i a, __m256i b) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1));
}

#include "body256.h"

MATVEC(hqk_q8_0_matvec_avx2)
