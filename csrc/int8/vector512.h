/* 512-bit registers of sixteen sums. */
#ifndef HQK_INT8_VECTOR512_H
#define HQK_INT8_VECTOR512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define B_VECTORS 4
typedef __m512i vector;

static inline vector load(const uint8_t *p) { return _mm512_loadu_si512(p); }

static inline void store(int32_t *p, vector v) { _mm512_storeu_si512(p, v); }

static inline vector broadcast(const uint8_t *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}

#endif
