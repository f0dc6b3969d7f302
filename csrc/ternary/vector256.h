/* 256-bit registers for products: eight outputs each. */
#ifndef HQK_TERNARY_VECTOR256_H
#define HQK_TERNARY_VECTOR256_H

#include "layout.h"
#include "target.h"

#include <immintrin.h>

#define LANES 8
typedef __m256i vector;

HQK_ALWAYS_INLINE vector load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

static inline void store(uint8_t *p, vector v) { _mm256_storeu_si256((__m256i *)p, v); }

HQK_ALWAYS_INLINE vector zero(void) { return _mm256_setzero_si256(); }

HQK_ALWAYS_INLINE vector add(vector a, vector b) { return _mm256_add_epi32(a, b); }

HQK_ALWAYS_INLINE vector broadcast(int32_t word) { return _mm256_set1_epi32(word); }

/* Field `f` of each byte. */
HQK_ALWAYS_INLINE vector field(vector bytes, int f) {
    return _mm256_and_si256(f ? _mm256_srli_epi16(bytes, 2 * f) : bytes, _mm256_set1_epi8(3));
}

/* Writes 8 sums of token `t`, outputs from `first` on. */
static inline void store_sums(const target *to, size_t t, size_t first, vector acc) {
    if (first >= to->outputs) return;
    size_t count = hqk_min(to->outputs - first, LANES), at = t * to->y_stride + first;
    __m256i sum = _mm256_sub_epi32(acc, _mm256_set1_epi32(to->x_sums[t]));
    if (to->y_i32) {
        int32_t part[LANES];
        _mm256_storeu_si256((__m256i *)part, sum);
        memcpy(to->y_i32 + at, part, count * sizeof *part);
        return;
    }
    float part[LANES] = {0};
    __m256 scale = _mm256_set1_ps(to->weight_scales[0]);
    if (to->weight_scale_stride) {
        memcpy(part, to->weight_scales + first, count * sizeof *part);
        scale = _mm256_loadu_ps(part);
    }
    scale = _mm256_mul_ps(_mm256_set1_ps(to->x_scales[t]), scale);
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
    if (count == LANES) {
        _mm256_storeu_ps(to->y_f32 + at, y);
        return;
    }
    _mm256_storeu_ps(part, y);
    memcpy(to->y_f32 + at, part, count * sizeof *part);
}

#endif
