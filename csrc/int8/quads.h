/* Words of four tokens, for vpdpbusd. Its first factor is unsigned: the right panel holds b + 128, and every sum begins at
 * -128 times the sum of its column of A; sums wrap on the way and end exact. */
#ifndef HQK_INT8_QUADS_H
#define HQK_INT8_QUADS_H

#include <immintrin.h>

#define STEP 4
#define OFFSET 128

static inline __m256i words(const __m128i *rows) {
    __m128i first = _mm_unpacklo_epi8(rows[0], rows[1]), second = _mm_unpacklo_epi8(rows[2], rows[3]);
    return _mm256_set_m128i(_mm_unpackhi_epi16(first, second), _mm_unpacklo_epi16(first, second));
}

#endif
