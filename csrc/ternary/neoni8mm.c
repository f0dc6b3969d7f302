/* smmla multiplies 2 tokens x 8 k by 2 outputs x 8 k. Two tokens' bytes are laid beside each other once for all 64
 * outputs, at most CHUNK_K values of k at a time; a zip of panels q and q + 1 gives the outputs, and serves 12 tokens.
 * A tile is 12 tokens x 8 outputs: 24 accumulators. One token gains nothing from smmla: it stays with sdot. */
#include "../hqk.h"
#include "neon.h"

/* Pairs of tokens. */
#define PAIRS_AT_ONCE 6
/* 12 KiB of activations. */
#define CHUNK_K 1024
/* Tiles of 8 outputs in a panel, registers of two outputs in a tile. */
#define TILES 8
#define WIDTH 4

/* acc += x * w, 2 x 2. Written out because gcc 12 copies the accumulators of the intrinsic. */
#if defined(__GNUC__)
#define MULTIPLY_ADD(acc, x, w) __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(x), "w"(w))
#else
#define MULTIPLY_ADD(acc, x, w) (acc = vmmlaq_s32(acc, x, w))
#endif

/* `k` values of each token, a multiple of 16 or the last: pairs of tokens, 8 k of each. What is missing is zero. */
static void pair_up(const int8_t *x, size_t x_stride, size_t tokens, size_t pairs, size_t k, int8_t *out) {
    for (size_t p = 0; p < pairs; p++)
        for (size_t i = 0; i < k; i += HQK_STEP_COLS) {
            int64x2_t values[2];
            for (size_t t = 0; t < 2; t++) {
                int8_t part[HQK_STEP_COLS] = {0};
                const int8_t *at = x + (2 * p + t) * x_stride + i;
                if (2 * p + t >= tokens || i + HQK_STEP_COLS > k) {
                    if (2 * p + t < tokens) memcpy(part, at, k - i);
                    at = part;
                }
                values[t] = vreinterpretq_s64_s8(vld1q_s8(at));
            }
            int8_t *to = out + (i / 8 * pairs + p) * 16;
            vst1q_s8(to, vreinterpretq_s8_s64(vzip1q_s64(values[0], values[1])));
            vst1q_s8(to + pairs * 16, vreinterpretq_s8_s64(vzip2q_s64(values[0], values[1])));
        }
}

/* 8 outputs (`panels` is the first panel's part of them) x `steps` times 8 k, added to the sums. */
HQK_ALWAYS_INLINE void multiply_tile(const uint8_t *panels, const int8_t *x, size_t steps, int pairs,
                                     int32x4_t sums[PAIRS_AT_ONCE][WIDTH]) {
    int32x4_t acc[PAIRS_AT_ONCE][WIDTH];
    HQK_UNROLL(6) for (int p = 0; p < pairs; p++)
        HQK_UNROLL(4) for (int v = 0; v < WIDTH; v++) acc[p][v] = vdupq_n_s32(0);
    for (; steps > 0; steps--, panels += 2 * HQK_PANEL_BYTES, x += 16 * pairs) {
        int8x16_t w[WIDTH];
        HQK_UNROLL(2) for (int h = 0; h < 2; h++) {
            int32x4_t low = vreinterpretq_s32_u8(vld1q_u8(panels + 16 * h));
            int32x4_t high = vreinterpretq_s32_u8(vld1q_u8(panels + HQK_PANEL_BYTES + 16 * h));
            w[2 * h] = vreinterpretq_s8_s32(vzip1q_s32(low, high));
            w[2 * h + 1] = vreinterpretq_s8_s32(vzip2q_s32(low, high));
        }
        HQK_UNROLL(6) for (int p = 0; p < pairs; p++) {
            int8x16_t values = vld1q_s8(x + 16 * p);
            HQK_UNROLL(4) for (int v = 0; v < WIDTH; v++) MULTIPLY_ADD(acc[p][v], values, w[v]);
        }
    }
    HQK_UNROLL(6) for (int p = 0; p < pairs; p++)
        HQK_UNROLL(4) for (int v = 0; v < WIDTH; v++) sums[p][v] = vaddq_s32(sums[p][v], acc[p][v]);
}

HQK_ALWAYS_INLINE void multiply(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                                int pairs, size_t first_token, const hqk_target *to) {
    int8_t values[16 * PAIRS_AT_ONCE * CHUNK_K / 8];
    int32x4_t sums[TILES][PAIRS_AT_ONCE][WIDTH];
    size_t tiles = (to->outputs + 7) / 8;
    for (size_t tile = 0; tile < tiles; tile++)
        for (int p = 0; p < pairs; p++)
            for (int v = 0; v < WIDTH; v++) sums[tile][p][v] = vdupq_n_s32(0);
    for (size_t i = 0; i < k; i += CHUNK_K, panels += CHUNK_K / 4 * HQK_PANEL_BYTES) {
        size_t chunk = hqk_min(k - i, CHUNK_K);
        pair_up(x + i, x_stride, tokens, (size_t)pairs, chunk, values);
        for (size_t tile = 0; tile < tiles; tile++)
            multiply_tile(panels + 32 * tile, values, 2 * hqk_steps(chunk), pairs, sums[tile]);
    }
    for (size_t tile = 0; tile < tiles; tile++) {
        int32x4_t rows[2 * PAIRS_AT_ONCE][2];
        for (int p = 0; p < pairs; p++)
            for (int h = 0; h < 2; h++) {
                int64x2_t a = vreinterpretq_s64_s32(sums[tile][p][2 * h]);
                int64x2_t b = vreinterpretq_s64_s32(sums[tile][p][2 * h + 1]);
                rows[2 * p][h] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
                rows[2 * p + 1][h] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
            }
        hqk_store_tile(to, first_token, tokens, 8 * tile, 2, &rows[0][0]);
    }
}

static void multiply_all(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                         const hqk_target *to) {
    size_t t = 0;
    for (; t + 2 * PAIRS_AT_ONCE <= tokens; t += 2 * PAIRS_AT_ONCE, x += 2 * PAIRS_AT_ONCE * x_stride)
        multiply(panels, k, x, x_stride, 2 * PAIRS_AT_ONCE, PAIRS_AT_ONCE, t, to);
    size_t left = tokens - t;
    switch ((left + 1) / 2) {
        case 6: multiply(panels, k, x, x_stride, left, 6, t, to); break;
        case 5: multiply(panels, k, x, x_stride, left, 5, t, to); break;
        case 4: multiply(panels, k, x, x_stride, left, 4, t, to); break;
        case 3: multiply(panels, k, x, x_stride, left, 3, t, to); break;
        case 2: multiply(panels, k, x, x_stride, left, 2, t, to); break;
        case 1: multiply(panels, k, x, x_stride, left, 1, t, to); break;
    }
}

void hqk_panel_matmul_neoni8mm(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                               size_t tokens, const float *x_scales, const int32_t *x_sums,
                               const float *weight_scales, size_t weight_scale_stride, float *y, size_t y_stride) {
    hqk_target to = {x_scales, x_sums, weight_scales, weight_scale_stride, y, y_stride, outputs};
    multiply_all(panels, k, x, x_stride, tokens, &to);
}

void hqk_panel_matmul_i32_neoni8mm(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                                   size_t tokens, const int32_t *x_sums, int32_t *y, size_t y_stride) {
    hqk_target to = {NULL, x_sums, NULL, 0, y, y_stride, outputs};
    multiply_all(panels, k, x, x_stride, tokens, &to);
}
