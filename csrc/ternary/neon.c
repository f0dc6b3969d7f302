/* smlal on codes {0, 1, 2}: a 16-bit lane grows by at most 2 * 128 a time, so the sums of 31 steps (124 additions) are
 * taken before they are widened. Signed products serve codes below 128.
 *
 * 3 tokens x 16 outputs are 24 accumulators; a register of weights serves three tokens, a broadcast quad of a token four
 * registers. Packed weights cost six operations for 16 registers' worth of products more than panels. */
#include "../hqk.h"
#include "neon_pairs.h"

#define TOKENS_AT_ONCE 3
#define STEPS_BEFORE_WIDENING 31

/* One step: 16 outputs x 16 k for `tokens` tokens; `weights` are four quads of a panel tile or one packed step. */
HQK_ALWAYS_INLINE void multiply_step(const uint8_t *weights, int packed, const int8_t *x, size_t x_stride, int tokens,
                                     int16x8_t acc[TOKENS_AT_ONCE][HQK_VECTORS][2]) {
    HQK_UNROLL(4) for (int q = 0; q < 4; q++) {
        uint8x16_t w[HQK_VECTORS];
        HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) {
            w[v] = vld1q_u8(weights + (packed ? 0 : q * HQK_QUAD_BYTES) + 16 * v);
            if (packed) w[v] = hqk_field(w[v], q);
        }
        HQK_UNROLL(3) for (int t = 0; t < tokens; t++) {
            int8x16_t quad = hqk_broadcast_quad(x + t * x_stride + 4 * q);
            HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) hqk_add_products(acc[t][v], w[v], quad);
        }
    }
}

/* 16 outputs. */
HQK_ALWAYS_INLINE void multiply(const uint8_t *weights, int packed, size_t k, const int8_t *x, size_t x_stride,
                                int tokens, const int8_t *tails, int32x4_t sums[TOKENS_AT_ONCE][HQK_VECTORS]) {
    size_t whole = k / HQK_STEP_COLS * HQK_STEP_COLS, step_bytes = packed ? HQK_STEP_BYTES : 4 * HQK_QUAD_BYTES;
    HQK_UNROLL(3) for (int t = 0; t < tokens; t++)
        HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) sums[t][v] = vdupq_n_s32(0);
    for (size_t i = 0; i < k;) {
        int16x8_t acc[TOKENS_AT_ONCE][HQK_VECTORS][2];
        HQK_UNROLL(3) for (int t = 0; t < tokens; t++)
            HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) acc[t][v][0] = acc[t][v][1] = vdupq_n_s16(0);
        if (i < whole) {
            size_t end = hqk_min(whole, i + STEPS_BEFORE_WIDENING * HQK_STEP_COLS);
            for (; i < end; i += HQK_STEP_COLS, weights += step_bytes)
                multiply_step(weights, packed, x + i, x_stride, tokens, acc);
        } else {
            multiply_step(weights, packed, tails, HQK_STEP_COLS, tokens, acc);
            i = k;
        }
        HQK_UNROLL(3) for (int t = 0; t < tokens; t++)
            HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++)
                sums[t][v] = vaddq_s32(sums[t][v], hqk_widen(acc[t][v]));
    }
}

HQK_ALWAYS_INLINE void multiply_and_store(const uint8_t *weights, int packed, size_t k, const int8_t *x,
                                          size_t x_stride, int tokens, size_t first_token, const hqk_target *to) {
    int8_t tails[TOKENS_AT_ONCE * HQK_STEP_COLS];
    size_t rest = k % HQK_STEP_COLS;
    if (rest) hqk_copy_tails(x + k - rest, x_stride, (size_t)tokens, rest, tails);
    for (size_t first = 0; first < to->outputs; first += HQK_OUTPUTS_AT_ONCE) {
        const uint8_t *tile = hqk_weights_of(weights, packed, k, first);
        int32x4_t sums[TOKENS_AT_ONCE][HQK_VECTORS];
        multiply(tile, packed, k, x, x_stride, tokens, tails, sums);
        hqk_store_tile(to, first_token, (size_t)tokens, first, HQK_VECTORS, &sums[0][0]);
    }
}

HQK_ALWAYS_INLINE void multiply_all(const uint8_t *weights, int packed, size_t k, const int8_t *x, size_t x_stride,
                                    size_t tokens, const hqk_target *to) {
    size_t t = 0;
    for (; t + TOKENS_AT_ONCE <= tokens; t += TOKENS_AT_ONCE, x += TOKENS_AT_ONCE * x_stride)
        multiply_and_store(weights, packed, k, x, x_stride, TOKENS_AT_ONCE, t, to);
    switch (tokens - t) {
        case 2: multiply_and_store(weights, packed, k, x, x_stride, 2, t, to); break;
        case 1: multiply_and_store(weights, packed, k, x, x_stride, 1, t, to); break;
    }
}

static void multiply_panels(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                            const hqk_target *to) {
    multiply_all(panels, 0, k, x, x_stride, tokens, to);
}

static void multiply_packed(const uint8_t *packed, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                            const hqk_target *to) {
    multiply_all(packed, 1, k, x, x_stride, tokens, to);
}

#define NAME(kernel) hqk_##kernel##_neon
#include "neon_entries.h"

HQK_ALWAYS_INLINE void split_fields(uint8x16_t bytes, uint8x16_t field[4]) {
    HQK_UNROLL(4) for (int f = 0; f < 4; f++) field[f] = hqk_field(bytes, f);
}

void hqk_ternary_panels_neon(const uint8_t *block, size_t cols, uint8_t *panels) {
    size_t tile_bytes = hqk_panel_tile_bytes(cols);
    for (size_t s = 0; s < hqk_steps(cols); s++, block += HQK_STEP_BYTES, panels += 4 * HQK_QUAD_BYTES)
        for (size_t v = 0; v < HQK_STEP_BYTES; v += 16) {
            uint8x16_t field[4];
            uint8_t *out = panels + v / HQK_TILE_BYTES * tile_bytes + v % HQK_TILE_BYTES;
            split_fields(vld1q_u8(block + v), field);
            for (size_t f = 0; f < 4; f++) vst1q_u8(out + f * HQK_QUAD_BYTES, field[f]);
        }
}

void hqk_ternary_panels_transposed_neon(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,
                                        uint8_t *panels) {
    static const uint8_t turned[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    uint8x16_t turn = vld1q_u8(turned);
    size_t steps = hqk_min(hqk_steps(cols) - first_col / HQK_STEP_COLS, 4), tile_bytes = hqk_panel_tile_bytes(rows);
    for (size_t r = 0; r < rows; r += HQK_TILE_ROWS, panels += 4 * HQK_QUAD_BYTES) {
        const uint8_t *tile = packed + hqk_byte_of(r, first_col, cols);
        for (size_t s = 0; s < 4; s++)
            for (size_t u = 0; u < 4; u++) {
                /* Rows 4u to 4u + 3 of the tile; its four fields are the 16 columns of quad u. */
                uint8x16_t bytes = vdupq_n_u8(HQK_ZERO_BYTE), field[4];
                if (s < steps) bytes = vqtbl1q_u8(vld1q_u8(tile + s * HQK_STEP_BYTES + 16 * u), turn);
                split_fields(bytes, field);
                for (size_t f = 0; f < 4; f++) vst1q_u8(panels + s * tile_bytes + u * HQK_QUAD_BYTES + 16 * f, field[f]);
            }
    }
}
