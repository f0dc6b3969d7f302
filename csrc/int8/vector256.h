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

static inline void store(int32_t *p, vector v) { _mm256_storeu_si256((__m256i *)p, v); }

static inline vector broadcast(const uint8_t *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
}

#endif
