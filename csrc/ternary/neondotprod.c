/* sdot multiplies 4 outputs x 4 k by one quad of a token, taken from a register of 16 k by its lane: a lane of the sums is
 * an output, so nothing is ever added across lanes. Codes 0 to 2 are the same signed and unsigned.
 * 6 tokens x 16 outputs are 24 accumulators. */
#include "../hqk.h"
#include "neon_dot.h"

#define TOKENS_AT_ONCE 6

/* One step: 16 outputs x 16 k for `tokens` tokens; `weights` are four quads of a panel tile or one packed step. */
HQK_ALWAYS_INLINE void multiply_step(const uint8_t *weights, int packed, const int8_t *x, size_t x_stride, int tokens,
                                     int32x4_t acc[TOKENS_AT_ONCE][HQK_VECTORS]) {
    int8x16_t values[TOKENS_AT_ONCE];
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++) values[t] = vld1q_s8(x + t * x_stride);
#define MULTIPLY_QUAD(q)                                                                   \
    HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) {                                  \
        uint8x16_t w = vld1q_u8(weights + (packed ? 0 : q * HQK_QUAD_BYTES) + 16 * v);    \
        if (packed) w = hqk_field(w, q);                                                   \
        HQK_UNROLL(6) for (int t = 0; t < tokens; t++) HQK_DOT(acc[t][v], w, values[t], q); \
    }
    MULTIPLY_QUAD(0)
    MULTIPLY_QUAD(1)
    MULTIPLY_QUAD(2)
    MULTIPLY_QUAD(3)
#undef MULTIPLY_QUAD
}

/* 16 outputs. */
HQK_ALWAYS_INLINE void multiply(const uint8_t *weights, int packed, size_t k, const int8_t *x, size_t x_stride,
                                int tokens, const int8_t *tails, int32x4_t sums[TOKENS_AT_ONCE][HQK_VECTORS]) {
    size_t step_bytes = packed ? HQK_STEP_BYTES : 4 * HQK_QUAD_BYTES, i = 0;
    int32x4_t acc[TOKENS_AT_ONCE][HQK_VECTORS];
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++)
        HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) acc[t][v] = vdupq_n_s32(0);
    for (; i + HQK_STEP_COLS <= k; i += HQK_STEP_COLS, weights += step_bytes)
        multiply_step(weights, packed, x + i, x_stride, tokens, acc);
    if (i < k) multiply_step(weights, packed, tails, HQK_STEP_COLS, tokens, acc);
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++)
        HQK_UNROLL(4) for (int v = 0; v < HQK_VECTORS; v++) sums[t][v] = acc[t][v];
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
    const int at_once = packed ? 5 : TOKENS_AT_ONCE; /* fields need a register more */
    for (; t + at_once <= tokens; t += at_once, x += at_once * x_stride)
        multiply_and_store(weights, packed, k, x, x_stride, at_once, t, to);
    switch (tokens - t) {
        case 5: multiply_and_store(weights, packed, k, x, x_stride, 5, t, to); break;
        case 4: multiply_and_store(weights, packed, k, x, x_stride, 4, t, to); break;
        case 3: multiply_and_store(weights, packed, k, x, x_stride, 3, t, to); break;
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

#define NAME(kernel) hqk_##kernel##_neondotprod
#include "neon_entries.h"
