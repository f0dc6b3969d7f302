/* Words of two tokens widened to 16 bits, for vpmaddwd: it never saturates, -128 times -128 included. */
#ifndef HQK_INT8_PAIRS_H
#define HQK_INT8_PAIRS_H

#include <immintrin.h>

#define STEP 2
#define OFFSET 0

static inline __m256i words(const __m128i *rows) { return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(rows[0], rows[1])); }

#endif
