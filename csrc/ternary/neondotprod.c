/* sdot multiplies 4 outputs x 4 k by one quad of a token, taken from a register of 16 k by its lane: a lane is an
 * output, so nothing is ever added across lanes. Codes 0 to 2 are the same signed and unsigned.
 *
 * Many tokens: 6 tokens x 16 outputs are 24 accumulators.
 * One token: fields 0, 1 and 2 of a byte are masked, not shifted, and count 1, 4 and 16 times; field 3 would be signed
 * under its mask, and comes down by a shift instead. 32 rows (half of each step) are 24 accumulators, one a field but
 * that 0 and 3 share theirs. Both halves of 32 steps are read before the next steps, so that the packed matrix is one
 * linear stream. */
#include "../hqk.h"
#include "neon.h"

#define TOKENS_AT_ONCE 6
#define STEPS_AT_ONCE 32
/* Registers of 4 rows in half a step. */
#define HALF 8

/* acc += codes * quad `lane` of values. Written out because gcc 12 copies the accumulators of the intrinsic. */
#if defined(__GNUC__)
#define DOT(acc, codes, values, lane) \
    __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(acc) : "w"(codes), "w"(values))
#else
#define DOT(acc, codes, values, lane) (acc = vdotq_laneq_s32(acc, vreinterpretq_s8_u8(codes), values, lane))
#endif

/* One step: 16 outputs x 16 k for `tokens` tokens. */
HQK_ALWAYS_INLINE void multiply_step(const uint8_t *panels, const int8_t *x, size_t x_stride, int tokens,
                                     int32x4_t acc[TOKENS_AT_ONCE][HQK_VECTORS]) {
    int8x16_t values[TOKENS_AT_ONCE];
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++) values[t] = vld1q_s8(x + t * x_stride);
#define MULTIPLY_PANEL(q)                                                            \
    HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) {                            \
        uint8x16_t w = vld1q_u8(panels + q * HQK_PANEL_BYTES + 16 * v);              \
        HQK_UNROLL(6) for (int t = 0; t < tokens; t++) DOT(acc[t][v], w, values[t], q); \
    }
    MULTIPLY_PANEL(0)
    MULTIPLY_PANEL(1)
    MULTIPLY_PANEL(2)
    MULTIPLY_PANEL(3)
#undef MULTIPLY_PANEL
}

/* 16 outputs (a quarter of each panel). */
HQK_ALWAYS_INLINE void multiply(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, int tokens,
                                const int8_t *tails, int32x4_t sums[TOKENS_AT_ONCE][HQK_VECTORS]) {
    int32x4_t acc[TOKENS_AT_ONCE][HQK_VECTORS];
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++)
        HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) acc[t][v] = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + HQK_STEP_COLS <= k; i += HQK_STEP_COLS, panels += 4 * HQK_PANEL_BYTES)
        multiply_step(panels, x + i, x_stride, tokens, acc);
    if (i < k) multiply_step(panels, tails, HQK_STEP_COLS, tokens, acc);
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++)
        HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) sums[t][v] = acc[t][v];
}

HQK_ALWAYS_INLINE void multiply_and_store(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride,
                                          int tokens, size_t first_token, const hqk_target *to) {
    int8_t tails[TOKENS_AT_ONCE * HQK_STEP_COLS];
    size_t rest = k % HQK_STEP_COLS;
    if (rest) hqk_copy_tails(x + k - rest, x_stride, (size_t)tokens, rest, tails);
    for (size_t first = 0; first < to->outputs; first += HQK_OUTPUTS_AT_ONCE) {
        int32x4_t sums[TOKENS_AT_ONCE][HQK_VECTORS];
        multiply(panels + 4 * first, k, x, x_stride, tokens, tails, sums);
        hqk_store_tile(to, first_token, (size_t)tokens, first, HQK_VECTORS, &sums[0][0]);
    }
}

static void multiply_all(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                         const hqk_target *to) {
    size_t t = 0;
    for (; t + TOKENS_AT_ONCE <= tokens; t += TOKENS_AT_ONCE, x += TOKENS_AT_ONCE * x_stride)
        multiply_and_store(panels, k, x, x_stride, TOKENS_AT_ONCE, t, to);
    switch (tokens - t) {
        case 5: multiply_and_store(panels, k, x, x_stride, 5, t, to); break;
        case 4: multiply_and_store(panels, k, x, x_stride, 4, t, to); break;
        case 3: multiply_and_store(panels, k, x, x_stride, 3, t, to); break;
        case 2: multiply_and_store(panels, k, x, x_stride, 2, t, to); break;
        case 1: multiply_and_store(panels, k, x, x_stride, 1, t, to); break;
    }
}

void hqk_panel_matmul_neondotprod(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                                  size_t tokens, const float *x_scales, const int32_t *x_sums,
                                  const float *weight_scales, size_t weight_scale_stride, float *y, size_t y_stride) {
    hqk_target to = {x_scales, x_sums, weight_scales, weight_scale_stride, y, y_stride, outputs};
    multiply_all(panels, k, x, x_stride, tokens, &to);
}

void hqk_panel_matmul_i32_neondotprod(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x,
                                      size_t x_stride, size_t tokens, const int32_t *x_sums, int32_t *y,
                                      size_t y_stride) {
    hqk_target to = {NULL, x_sums, NULL, 0, y, y_stride, outputs};
    multiply_all(panels, k, x, x_stride, tokens, &to);
}

/* Half a step: 32 rows x 16 k. acc[v][f]: field f counts 4^f times. */
HQK_ALWAYS_INLINE void multiply_half(const uint8_t *half, int8x16_t x, int32x4_t acc[HALF][3]) {
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) {
        uint8x16_t bytes = vld1q_u8(half + 16 * v);
        DOT(acc[v][0], vandq_u8(bytes, vdupq_n_u8(3)), x, 0);
        DOT(acc[v][1], vandq_u8(bytes, vdupq_n_u8(3 << 2)), x, 1);
        DOT(acc[v][2], vandq_u8(bytes, vdupq_n_u8(3 << 4)), x, 2);
        DOT(acc[v][0], vshrq_n_u8(bytes, 6), x, 3);
    }
}

static void matvec(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, const hqk_target *to) {
    size_t steps = cols / HQK_STEP_COLS, rest = cols % HQK_STEP_COLS;
    int8_t tail[HQK_STEP_COLS];
    hqk_copy_tails(x + cols - rest, 0, 1, rest, tail);
    for (size_t r = 0; r < rows; r += HQK_BLOCK_ROWS, packed += hqk_block_bytes(cols)) {
        int32x4_t sums[2][HALF];
        for (int h = 0; h < 2; h++)
            for (int v = 0; v < HALF; v++) sums[h][v] = vdupq_n_s32(0);
        for (size_t s = 0; s < hqk_steps(cols); s += STEPS_AT_ONCE) {
            for (size_t h = 0; h < 2 && r + 32 * h < rows; h++) {
                int32x4_t acc[HALF][3];
                HQK_UNROLL(8) for (int v = 0; v < HALF; v++) acc[v][0] = acc[v][1] = acc[v][2] = vdupq_n_s32(0);
                const uint8_t *half = packed + s * HQK_STEP_BYTES + h * (HQK_STEP_BYTES / 2);
                size_t i = s;
                for (; i < hqk_min(steps, s + STEPS_AT_ONCE); i++, half += HQK_STEP_BYTES)
                    multiply_half(half, vld1q_s8(x + i * HQK_STEP_COLS), acc);
                if (i < s + STEPS_AT_ONCE && rest) multiply_half(half, vld1q_s8(tail), acc);
                HQK_UNROLL(8) for (int v = 0; v < HALF; v++) {
                    int32x4_t sum = vsraq_n_s32(acc[v][0], acc[v][1], 2);
                    sums[h][v] = vaddq_s32(sums[h][v], vsraq_n_s32(sum, acc[v][2], 4));
                }
            }
        }
        hqk_store_tile(to, 0, 1, r, 2 * HALF, &sums[0][0]);
    }
}

void hqk_ternary_matvec_neondotprod(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, float x_scale,
                                    int32_t x_sum, const float *weight_scales, size_t weight_scale_stride, float *y) {
    hqk_target to = {&x_scale, &x_sum, weight_scales, weight_scale_stride, y, 0, rows};
    matvec(packed, rows, cols, x, &to);
}

void hqk_ternary_matvec_i32_neondotprod(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,
                                        int32_t x_sum, int32_t *y) {
    hqk_target to = {NULL, &x_sum, NULL, 0, y, 0, rows};
    matvec(packed, rows, cols, x, &to);
}
