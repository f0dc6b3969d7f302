/* 512-bit registers for products: sixteen outputs each. */
#ifndef HQK_TERNARY_VECTOR512_H
#define HQK_TERNARY_VECTOR512_H

#include "layout.h"
#include "target.h"

#include <immintrin.h>

#define LANES 16
typedef __m512i vector;

HQK_ALWAYS_INLINE vector load(const uint8_t *p) { return _mm512_loadu_si512(p); }

HQK_ALWAYS_INLINE vector zero(void) { return _mm512_setzero_si512(); }

HQK_ALWAYS_INLINE vector add(vector a, vector b) { return _mm512_add_epi32(a, b); }

HQK_ALWAYS_INLINE vector broadcast(int32_t word) { return _mm512_set1_epi32(word); }

/* Field `f` of each byte. */
HQK_ALWAYS_INLINE vector field(vector bytes, int f) {
    return _mm512_and_si512(f ? _mm512_srli_epi16(bytes, 2 * (unsigned)f) : bytes, _mm512_set1_epi8(3));
}

HQK_ALWAYS_INLINE __mmask16 lanes_before(size_t end, size_t first) {
    return end <= first ? 0 : end - first >= LANES ? 0xFFFF : (__mmask16)((1u << (end - first)) - 1);
}

/* Writes 16 sums of token `t`, outputs from `first` on. */
HQK_ALWAYS_INLINE void store_sums(const target *to, size_t t, size_t first, vector acc) {
    __mmask16 mask = lanes_before(to->outputs, first);
    __m512i sum = _mm512_sub_epi32(acc, _mm512_set1_epi32(to->x_sums[t]));
    if (to->y_i32) {
        _mm512_mask_storeu_epi32(to->y_i32 + t * to->y_stride + first, mask, sum);
        return;
    }
    __m512 scale = _mm512_set1_ps(to->weight_scales[0]);
    if (to->weight_scale_stride) scale = _mm512_maskz_loadu_ps(mask, to->weight_scales + first);
    scale = _mm512_mul_ps(_mm512_set1_ps(to->x_scales[t]), scale);
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
    float *at = to->y_f32 + t * to->y_stride + first;
    if (mask == 0xFFFF)
        _mm512_storeu_ps(at, y);
    else
        _mm512_mask_storeu_ps(at, mask, y);
}

#endif
