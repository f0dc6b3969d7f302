/* What the NEON files share: where sums go, and the last step of a token. */
#ifndef HQK_TERNARY_NEON_H
#define HQK_TERNARY_NEON_H

#include "layout.h"

#include <arm_neon.h>

/* Registers of 16 bytes = 4 outputs x 4 k in a panel, and those that one tile of outputs takes. */
#define HQK_OUTPUTS_AT_ONCE 16
#define HQK_VECTORS (HQK_OUTPUTS_AT_ONCE / 4)

/* Where sums go: scaled to f32, or as they are (i32) where `x_scales` is NULL. */
typedef struct {
    const float *x_scales;
    const int32_t *x_sums;
    const float *weight_scales;
    size_t weight_scale_stride;
    void *y;
    size_t y_stride;
    size_t outputs;
} hqk_target;

/* Writes sums over codes, sums[token][register of 4 outputs], outputs from `first` on (at most 64, one at least). */
static inline void hqk_store_tile(const hqk_target *to, size_t first_token, size_t tokens, size_t first,
                                  size_t registers, const int32x4_t *sums) {
    size_t count = hqk_min(to->outputs - first, 4 * registers);
    float scales[HQK_BLOCK_ROWS];
    uint8_t part[4 * HQK_BLOCK_ROWS];
    if (to->x_scales) {
        if (count < 4 * registers) memset(scales, 0, sizeof scales);
        if (to->weight_scale_stride)
            memcpy(scales, to->weight_scales + first, count * sizeof *scales);
        else
            for (size_t o = 0; o < count; o++) scales[o] = to->weight_scales[0];
    }
    for (size_t t = first_token; t < first_token + tokens; t++) {
        uint8_t *y = (uint8_t *)to->y + 4 * (t * to->y_stride + first), *out = count == 4 * registers ? y : part;
        for (size_t v = 0; v < registers; v++) {
            int32x4_t sum = vsubq_s32(*sums++, vdupq_n_s32(to->x_sums[t]));
            if (to->x_scales) {
                float32x4_t scale = vmulq_f32(vdupq_n_f32(to->x_scales[t]), vld1q_f32(scales + 4 * v));
                sum = vreinterpretq_s32_f32(vmulq_f32(vcvtq_f32_s32(sum), scale));
            }
            vst1q_u8(out + 16 * v, vreinterpretq_u8_s32(sum));
        }
        if (out == part) memcpy(y, part, 4 * count);
    }
}

/* Field `f` (0 to 3) of packed bytes. */
HQK_ALWAYS_INLINE uint8x16_t hqk_field(uint8x16_t bytes, int f) {
    uint8x16_t mask = vdupq_n_u8(3);
    switch (f) {
        case 0: return vandq_u8(bytes, mask);
        case 1: return vandq_u8(vshrq_n_u8(bytes, 2), mask);
        case 2: return vandq_u8(vshrq_n_u8(bytes, 4), mask);
        default: return vshrq_n_u8(bytes, 6);
    }
}

/* Four values in every word. */
static inline int8x16_t hqk_broadcast_quad(const int8_t *x) {
    int32_t word;
    memcpy(&word, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

/* The weights of 16 outputs from `first` on: of packed blocks, or of the panels of one. */
static inline const uint8_t *hqk_weights_of(const uint8_t *weights, int packed, size_t k, size_t first) {
    if (!packed) return weights + first / HQK_OUTPUTS_AT_ONCE * hqk_panel_tile_bytes(k);
    return weights + first / HQK_BLOCK_ROWS * hqk_block_bytes(k) + first % HQK_BLOCK_ROWS * 4;
}

/* The last `count` < 16 values of `tokens` tokens, zeros behind them: rows of 16. */
HQK_ALWAYS_INLINE void hqk_copy_tails(const int8_t *x, size_t x_stride, size_t tokens, size_t count, int8_t *tails) {
    memset(tails, 0, tokens * HQK_STEP_COLS);
    for (size_t t = 0; t < tokens; t++) memcpy(tails + t * HQK_STEP_COLS, x + t * x_stride, count);
}

#endif
