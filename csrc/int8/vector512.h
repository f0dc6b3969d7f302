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

/* c = scale * sum or c += scale * sum, of at most LANES columns. */
static inline void put(float *c, size_t cols, vector sum, float scale, int accumulate) {
    __mmask16 mask = cols < LANES ? (__mmask16)((1u << cols) - 1) : (__mmask16)0xFFFF;
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale));
    if (accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), value);
    _mm512_mask_storeu_ps(c, mask, value);
}

static inline vector broadcast(const uint8_t *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}

#endif
