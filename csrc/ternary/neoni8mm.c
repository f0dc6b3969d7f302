/* smmla multiplies 2 tokens x 8 k by 2 outputs x 8 k. Two tokens' bytes are laid beside each other once for all 64
 * outputs, at most CHUNK_K values of k at a time; a zip of quads q and q + 1 (or of two fields of packed bytes) gives the
 * outputs, and serves 12 tokens.
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

/* 8 outputs x `steps` steps of 16 k, added to the sums; `weights` are the tile's part of panels or of packed steps. */
HQK_ALWAYS_INLINE void multiply_tile(const uint8_t *weights, int packed, const int8_t *x, size_t steps, int pairs,
                                     int32x4_t sums[PAIRS_AT_ONCE][WIDTH]) {
    int32x4_t acc[PAIRS_AT_ONCE][WIDTH];
    HQK_UNROLL(6) for (int p = 0; p < pairs; p++)
        HQK_UNROLL(4) for (int v = 0; v < WIDTH; v++) acc[p][v] = vdupq_n_s32(0);
    for (; steps > 0; steps--, weights += packed ? HQK_STEP_BYTES : 4 * HQK_QUAD_BYTES, x += 32 * pairs) {
        HQK_UNROLL(2) for (int q = 0; q < 4; q += 2) {
            int8x16_t w[WIDTH];
            HQK_UNROLL(2) for (int h = 0; h < 2; h++) {
                const uint8_t *at = weights + (packed ? 0 : q * HQK_QUAD_BYTES) + 16 * h;
                uint8x16_t low = vld1q_u8(at), high = packed ? low : vld1q_u8(at + HQK_QUAD_BYTES);
                if (packed) {
                    low = hqk_field(low, q);
                    high = hqk_field(high, q + 1);
                }
                int32x4_t first = vreinterpretq_s32_u8(low), second = vreinterpretq_s32_u8(high);
                w[2 * h] = vreinterpretq_s8_s32(vzip1q_s32(first, second));
                w[2 * h + 1] = vreinterpretq_s8_s32(vzip2q_s32(first, second));
            }
            HQK_UNROLL(6) for (int p = 0; p < pairs; p++) {
                int8x16_t values = vld1q_s8(x + 16 * (q / 2 * pairs + p));
                HQK_UNROLL(4) for (int v = 0; v < WIDTH; v++) MULTIPLY_ADD(acc[p][v], values, w[v]);
            }
        }
    }
    HQK_UNROLL(6) for (int p = 0; p < pairs; p++)
        HQK_UNROLL(4) for (int v = 0; v < WIDTH; v++) sums[p][v] = vaddq_s32(sums[p][v], acc[p][v]);
}

/* 64 outputs from `first` on. */
HQK_ALWAYS_INLINE void multiply(const uint8_t *weights, int packed, size_t k, const int8_t *x, size_t x_stride,
                                size_t tokens, int pairs, size_t first_token, size_t first, const hqk_target *to) {
    int8_t values[16 * PAIRS_AT_ONCE * CHUNK_K / 8];
    int32x4_t sums[TILES][PAIRS_AT_ONCE][WIDTH];
    size_t tiles = (hqk_min(to->outputs - first, HQK_BLOCK_ROWS) + 7) / 8, tile_bytes = hqk_panel_tile_bytes(k);
    for (size_t tile = 0; tile < tiles; tile++)
        for (int p = 0; p < pairs; p++)
            for (int v = 0; v < WIDTH; v++) sums[tile][p][v] = vdupq_n_s32(0);
    for (size_t i = 0; i < k; i += CHUNK_K, weights += packed ? CHUNK_K / 16 * HQK_STEP_BYTES : CHUNK_K / 4 * HQK_QUAD_BYTES) {
        size_t chunk = hqk_min(k - i, CHUNK_K);
        pair_up(x + i, x_stride, tokens, (size_t)pairs, chunk, values);
        for (size_t tile = 0; tile < tiles; tile++) {
            size_t at = packed ? 32 * tile : tile / 2 * tile_bytes + tile % 2 * 32;
            multiply_tile(weights + at, packed, values, hqk_steps(chunk), pairs, sums[tile]);
        }
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
        hqk_store_tile(to, first_token, tokens, first + 8 * tile, 2, &rows[0][0]);
    }
}

HQK_ALWAYS_INLINE void multiply_all(const uint8_t *weights, int packed, size_t k, const int8_t *x, size_t x_stride,
                                    size_t tokens, size_t first, const hqk_target *to) {
    for (size_t t = 0, count; t < tokens; t += count, x += count * x_stride) {
        count = hqk_min(tokens - t, 2 * PAIRS_AT_ONCE);
        switch ((count + 1) / 2) {
            case 6: multiply(weights, packed, k, x, x_stride, count, 6, t, first, to); break;
            case 5: multiply(weights, packed, k, x, x_stride, count, 5, t, first, to); break;
            case 4: multiply(weights, packed, k, x, x_stride, count, 4, t, first, to); break;
            case 3: multiply(weights, packed, k, x, x_stride, count, 3, t, first, to); break;
            case 2: multiply(weights, packed, k, x, x_stride, count, 2, t, first, to); break;
            case 1: multiply(weights, packed, k, x, x_stride, count, 1, t, first, to); break;
        }
    }
}

static void multiply_panels(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                            const hqk_target *to) {
    if (to->outputs > 0) multiply_all(panels, 0, k, x, x_stride, tokens, 0, to);
}

static void multiply_packed(const uint8_t *packed, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                            const hqk_target *to) {
    for (size_t first = 0; first < to->outputs; first += HQK_BLOCK_ROWS, packed += hqk_block_bytes(k))
        multiply_all(packed, 1, k, x, x_stride, tokens, first, to);
}

#define NAME(kernel) hqk_##kernel##_neoni8mm
#include "neon_entries.h"
