/* Four floats of four rows narrow to one field, 16 codes; four fields shifted into each other are 16 bytes of a tile. */
#define HQK_NAME(op) op##_neon
#include "body.h"
#include "../lanes.h"
#include "../prefetch.h"

#include <arm_neon.h>

/* Quantizes 4 rows of 16 floats into 16 bytes of a tile; `lanes` (or NULL: 8 pairs of f64 sums) takes the magnitudes above
 * the thresholds. */
HQK_ALWAYS_INLINE void pack_floats(const float *w, size_t stride, const float limits[4], uint8_t *out,
                                   float64x2_t *lanes) {
    uint8x16_t field[4];
    for (size_t i = 0; i < 4; i++) hqk_prefetch(w + i * stride, 4 * stride * sizeof *w); /* the next four rows */
    HQK_UNROLL(4) for (size_t f = 0; f < 4; f++) {
        uint32x4_t code[4];
        HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) {
            float32x4_t v = vld1q_f32(w + i * stride + 4 * f), limit = vdupq_n_f32(limits[i]);
            uint32x4_t above = vcgtq_f32(v, limit), below = vcltq_f32(v, vnegq_f32(limit));
            code[i] = vsubq_u32(below, above);
            if (lanes) {
                uint32x4_t bits = vandq_u32(vreinterpretq_u32_f32(vabsq_f32(v)), vorrq_u32(above, below));
                float32x4_t kept = vreinterpretq_f32_u32(bits);
                lanes[2 * f] = vaddq_f64(lanes[2 * f], vcvt_f64_f32(vget_low_f32(kept)));
                lanes[2 * f + 1] = vaddq_f64(lanes[2 * f + 1], vcvt_high_f64_f32(kept));
            }
        }
        uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(code[0]), vreinterpretq_u16_u32(code[1]));
        uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(code[2]), vreinterpretq_u16_u32(code[3]));
        field[f] = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
        field[f] = vaddq_u8(field[f], vdupq_n_u8(1));
    }
    vst1q_u8(out, vsliq_n_u8(field[0], vsliq_n_u8(field[1], vsliq_n_u8(field[2], field[3], 2), 2), 2));
}

HQK_ALWAYS_INLINE void quantize_pack(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                     size_t threshold_stride, uint8_t *packed, float64x2_t *lanes) {
    fill_padding(rows, cols, packed);
    for (size_t r = 0; r < rows; r += 4) {
        size_t count = hqk_min(rows - r, 4), c = 0;
        const float *w = weights + r * cols;
        float limits[4] = {0};
        for (size_t i = 0; i < count; i++) limits[i] = thresholds[(r + i) * threshold_stride];
        uint8_t *out = row_start(packed, r, cols);
        if (count == 4)
            for (; c + HQK_STEP_COLS <= cols; c += HQK_STEP_COLS, out += HQK_STEP_BYTES)
                pack_floats(w + c, cols, limits, out, lanes);
        for (; c < cols; c += HQK_STEP_COLS, out += HQK_STEP_BYTES) {
            float part[4 * HQK_STEP_COLS] = {0};
            for (size_t i = 0; i < count; i++)
                memcpy(part + i * HQK_STEP_COLS, w + i * cols + c, hqk_min(cols - c, HQK_STEP_COLS) * sizeof *part);
            pack_floats(part, HQK_STEP_COLS, limits, out, lanes);
        }
    }
}

void hqk_ternary_quantize_pack_neon(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                    size_t threshold_stride, uint8_t *packed) {
    quantize_pack(weights, rows, cols, thresholds, threshold_stride, packed, NULL);
}

void hqk_ternary_quantize_pack_sum_neon(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                        size_t threshold_stride, uint8_t *packed, double *kept) {
    float64x2_t lanes[HQK_LANES / 2];
    for (size_t i = 0; i < HQK_LANES / 2; i++) lanes[i] = vdupq_n_f64(0.0);
    quantize_pack(weights, rows, cols, thresholds, threshold_stride, packed, lanes);
    double lane[HQK_LANES];
    for (size_t i = 0; i < HQK_LANES / 2; i++) vst1q_f64(lane + 2 * i, lanes[i]);
    *kept = hqk_sum_lanes(lane);
}
