/* 256-bit registers of eight sums. */
#ifndef HQK_INT8_VECTOR256_H
#define HQK_INT8_VECTOR256_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define B_VECTORS 2
typedef __m256i vector;

static inline vector load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* c = scale * sum or c += scale * sum, of at most LANES columns. */
static inline void put(float *c, size_t cols, vector sum, float scale, int accumulate) {
    __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scale));
    if (cols >= LANES) {
        if (accumulate) value = _mm256_add_ps(_mm256_loadu_ps(c), value);
        _mm256_storeu_ps(c, value);
        return;
    }
    __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)cols), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    if (accumulate) value = _mm256_add_ps(_mm256_maskload_ps(c, mask), value);
    _mm256_maskstore_ps(c, mask, value);
}

static inline vector broadcast(const uint8_t *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
}

#endif
