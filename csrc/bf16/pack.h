/* Rounding and packing, in plain C for every ISA.
 *
 * The file that includes this has defined A_WIDTH, B_WIDTH, the columns of a panel, and what a panel is made of: WORDS 1, value
 * uint32_t, two tokens of a column, the even one in the low half; WORDS 0, value float, one token, the odd one of a pair first. */
#ifndef HQK_BF16_PACK_H
#define HQK_BF16_PACK_H

#include <string.h>

/* The bits of x rounded to bf16, half to even, as those of an f32. */
static inline uint32_t hqk_bf16_round(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
    return (is_nan ? bits | 0x400000 : rounded) & 0xFFFF0000;
}

#if !WORDS
static inline float hqk_bf16_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
#endif

#define PAIR_VALUES (2 - WORDS) /* values of a column for two tokens */

/* A column's values at two tokens, into a panel of `width` columns. */
static inline void hqk_bf16_put(uint32_t even, uint32_t odd, size_t width, value *pair) {
#if WORDS
    (void)width;
    pair[0] = odd | even >> 16;
#else
    pair[0] = hqk_bf16_float(odd);
    pair[width] = hqk_bf16_float(even);
#endif
}

static void hqk_bf16_pack_floats(const float *x, size_t tokens, size_t stride, const float *factors, size_t cols,
                                 size_t width, value *panel) {
    for (size_t t = 0; t < tokens; t += 2, x += 2 * stride, panel += PAIR_VALUES * width) {
        size_t has_odd = t + 1 < tokens;
        for (size_t c = 0; c < width; c++) {
            uint32_t even = c < cols ? hqk_bf16_round(x[c] * factors[t]) : 0;
            uint32_t odd = has_odd && c < cols ? hqk_bf16_round(x[stride + c] * factors[t + 1]) : 0;
            hqk_bf16_put(even, odd, width, panel + c);
        }
    }
}

/* int8 values are bf16 as they are. */
static void hqk_bf16_pack_int8(const int8_t *x, size_t tokens, size_t stride, size_t cols, size_t width, value *panel) {
    for (size_t t = 0; t < tokens; t += 2, x += 2 * stride, panel += PAIR_VALUES * width) {
        size_t has_odd = t + 1 < tokens;
        for (size_t c = 0; c < width; c++) {
            uint32_t even = hqk_bf16_round(c < cols ? x[c] : 0);
            uint32_t odd = hqk_bf16_round(has_odd && c < cols ? x[stride + c] : 0);
            hqk_bf16_put(even, odd, width, panel + c);
        }
    }
}

void HQK_NAME(hqk_bf16_geometry)(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = 4 * PAIR_VALUES;
}

void HQK_NAME(hqk_bf16_pack_a)(const float *x, size_t tokens, size_t stride, const float *factors, size_t cols,
                               uint8_t *panel) {
    hqk_bf16_pack_floats(x, tokens, stride, factors, cols, A_WIDTH, (value *)(void *)panel);
}

void HQK_NAME(hqk_bf16_pack_b)(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    hqk_bf16_pack_int8(x, tokens, stride, cols, B_WIDTH, (value *)(void *)panel);
}

/* Sums of a tile, rows of B_WIDTH, to the output. */
static inline void hqk_bf16_store(const float *sums, size_t rows, size_t cols, int accumulate, float *c, size_t c_stride) {
    for (size_t i = 0; i < rows; i++, c += c_stride, sums += B_WIDTH) {
        if (accumulate)
            for (size_t j = 0; j < cols; j++) c[j] += sums[j];
        else
            memcpy(c, sums, cols * sizeof *c);
    }
}

#endif
