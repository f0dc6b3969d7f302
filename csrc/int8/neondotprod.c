/* Panels hold quads of tokens, column after column, as sdot wants them; a row's quad is taken by its lane. A tile is
 * 8 x 12: 24 accumulators. The words in front of a panel are not used. */
#include "../hqk.h"
#include "neon.h"
#include "store.h"

#define A_WIDTH 8
#define B_WIDTH 12

void hqk_int8_geometry_neondotprod(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = 4, geometry[3] = 1;
}

static inline void pack(const int8_t *x, size_t tokens, size_t stride, size_t cols, size_t width, uint8_t *out) {
    for (; cols > 0; x += width, cols -= hqk_int8_min(cols, width)) {
        out += width * 4;
        for (size_t t = 0; t < tokens; t += 4)
            for (size_t c = 0; c < width; c += 8) {
                int8x16_t quads[2];
                hqk_int8_quads(x, t, tokens, stride, c, cols, quads);
                for (size_t h = 0; h < 2 && c + 4 * h < width; h++, out += 16)
                    vst1q_u8(out, vreinterpretq_u8_s8(quads[h]));
            }
    }
}

void hqk_int8_pack_a_neondotprod(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    pack(x, tokens, stride, cols, A_WIDTH, panels);
}

void hqk_int8_pack_b_neondotprod(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    pack(x, tokens, stride, cols, B_WIDTH, panels);
}

void hqk_int8_pack_a_rows_neondotprod(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += A_WIDTH, panels += A_WIDTH * (4 + (tokens + 3) / 4 * 4))
        hqk_int8_pack_rows(x + c * stride, tokens, stride, cols - c, A_WIDTH, 4, panels + A_WIDTH * 4);
}

void hqk_int8_pack_b_rows_neondotprod(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += B_WIDTH, panels += B_WIDTH * (4 + (tokens + 3) / 4 * 4))
        hqk_int8_pack_rows(x + c * stride, tokens, stride, cols - c, B_WIDTH, 4, panels + B_WIDTH * 4);
}

/* Row `i` of the tile. Written out because gcc 12 copies the accumulators of the intrinsic. */
#if defined(__GNUC__) && !defined(__clang__)
#define DOT(sum, b, a, lane) __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(sum) : "w"(b), "w"(a))
#else
#define DOT(sum, b, a, lane) (sum = vdotq_laneq_s32(sum, b, a, lane))
#endif
#define MULTIPLY_ROW(i, a, lane) \
    DOT(sum[i][0], b0, a, lane); \
    DOT(sum[i][1], b1, a, lane); \
    DOT(sum[i][2], b2, a, lane);

void hqk_int8_product_neondotprod(const uint8_t *a, const uint8_t *b, size_t tokens, size_t rows, size_t cols,
                                  const float *scales, int accumulate, float *c, size_t c_stride) {
    int32x4_t sum[A_WIDTH][3];
    int32_t sums[A_WIDTH * B_WIDTH];
#pragma GCC unroll 8
    for (int i = 0; i < A_WIDTH; i++) sum[i][0] = sum[i][1] = sum[i][2] = vdupq_n_s32(0);
    a += A_WIDTH * 4, b += B_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 4, a += 4 * A_WIDTH, b += 4 * B_WIDTH) {
        int8x16_t a0 = vreinterpretq_s8_u8(vld1q_u8(a)), a1 = vreinterpretq_s8_u8(vld1q_u8(a + 16));
        int8x16_t b0 = vreinterpretq_s8_u8(vld1q_u8(b)), b1 = vreinterpretq_s8_u8(vld1q_u8(b + 16));
        int8x16_t b2 = vreinterpretq_s8_u8(vld1q_u8(b + 32));
        MULTIPLY_ROW(0, a0, 0)
        MULTIPLY_ROW(1, a0, 1)
        MULTIPLY_ROW(2, a0, 2)
        MULTIPLY_ROW(3, a0, 3)
        MULTIPLY_ROW(4, a1, 0)
        MULTIPLY_ROW(5, a1, 1)
        MULTIPLY_ROW(6, a1, 2)
        MULTIPLY_ROW(7, a1, 3)
    }
#pragma GCC unroll 8
    for (int i = 0; i < A_WIDTH; i++)
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) vst1q_s32(sums + i * B_WIDTH + 4 * j, sum[i][j]);
    hqk_int8_store(sums, B_WIDTH, rows, cols, scales, accumulate, c, c_stride);
}
