/* Panels hold quads of tokens. Two products of int8 fit 16 bits unless all four factors are -128, so smull and smlal2
 * take two tokens each before sadalp widens: three instructions for 16 products. The first word in front of a panel
 * tells whether it holds a -128; where both panels do, every product is widened alone.
 *
 * A register of the B panel is 4 columns x 4 tokens, tokens 0 and 1 in its low half, 2 and 3 in its high half. A tile is
 * 4 x 16: 16 accumulators. */
#include "../hqk.h"
#include "neon.h"
#include "store.h"

#define A_WIDTH 4
#define B_WIDTH 16

void hqk_int8_geometry_neon(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = 4, geometry[3] = 1;
}

static inline void store_flag(uint8_t *panel, int8x16_t least) {
    int32_t flag = vminvq_s8(least) == -128;
    memcpy(panel, &flag, sizeof flag);
}

static inline int32_t load_flag(const uint8_t *panel) {
    int32_t flag;
    memcpy(&flag, panel, sizeof flag);
    return flag;
}

static void pack_one_a(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    int8x16_t least = vdupq_n_s8(0), quads[2];
    uint8_t *out = panel + A_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 4, out += 4 * A_WIDTH) {
        hqk_int8_quads(x, t, tokens, stride, 0, cols, quads);
        least = vminq_s8(least, quads[0]);
        vst1q_u8(out, vreinterpretq_u8_s8(quads[0]));
    }
    store_flag(panel, least);
}

/* Four quads to the halves of a register of the B panel. */
static const uint8_t halved[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};

static void pack_one_b(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    uint8x16_t pairs = vld1q_u8(halved);
    int8x16_t least = vdupq_n_s8(0), quads[2];
    uint8_t *out = panel + B_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 4)
        for (size_t c = 0; c < B_WIDTH; c += 8, out += 32) {
            hqk_int8_quads(x, t, tokens, stride, c, cols, quads);
            least = vminq_s8(least, vminq_s8(quads[0], quads[1]));
            vst1q_u8(out, vreinterpretq_u8_s8(vqtbl1q_s8(quads[0], pairs)));
            vst1q_u8(out + 16, vreinterpretq_u8_s8(vqtbl1q_s8(quads[1], pairs)));
        }
    store_flag(panel, least);
}

void hqk_int8_pack_a_neon(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += A_WIDTH, panels += A_WIDTH * (4 + (tokens + 3) / 4 * 4))
        pack_one_a(x + c, tokens, stride, cols - c, panels);
}

void hqk_int8_pack_b_neon(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += B_WIDTH, panels += B_WIDTH * (4 + (tokens + 3) / 4 * 4))
        pack_one_b(x + c, tokens, stride, cols - c, panels);
}

void hqk_int8_pack_a_rows_neon(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += A_WIDTH, panels += A_WIDTH * (4 + (tokens + 3) / 4 * 4)) {
        int8_t least =
            hqk_int8_pack_rows(x + c * stride, tokens, stride, cols - c, A_WIDTH, 4, panels + A_WIDTH * 4);
        store_flag(panels, vdupq_n_s8(least));
    }
}

void hqk_int8_pack_b_rows_neon(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += B_WIDTH, panels += B_WIDTH * (4 + (tokens + 3) / 4 * 4)) {
        uint8_t *out = panels + B_WIDTH * 4;
        int8_t least = hqk_int8_pack_rows(x + c * stride, tokens, stride, cols - c, B_WIDTH, 4, out);
        for (size_t i = 0; i < (tokens + 3) / 4 * 4; i++, out += 16) vst1q_u8(out, vqtbl1q_u8(vld1q_u8(out), vld1q_u8(halved)));
        store_flag(panels, vdupq_n_s8(least));
    }
}

/* sum += products, neighbours together. Written out because gcc 12 copies the accumulators of the intrinsic. */
static inline void add_pairs(int32x4_t *sum, int16x8_t products) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("sadalp %0.4s, %1.8h" : "+w"(*sum) : "w"(products));
#else
    *sum = vpadalq_s16(*sum, products);
#endif
}

static inline void multiply(const uint8_t *a, const uint8_t *b, size_t tokens, int widen_each,
                            int32_t sums[A_WIDTH * B_WIDTH]) {
    static const uint8_t rows[A_WIDTH][16] = {
        {0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3},
        {4, 5, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7},
        {8, 9, 8, 9, 8, 9, 8, 9, 10, 11, 10, 11, 10, 11, 10, 11},
        {12, 13, 12, 13, 12, 13, 12, 13, 14, 15, 14, 15, 14, 15, 14, 15},
    };
    int32x4_t sum[A_WIDTH][4];
    uint8x16_t row[A_WIDTH];
#pragma GCC unroll 4
    for (int i = 0; i < A_WIDTH; i++) {
        row[i] = vld1q_u8(rows[i]);
        sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = vdupq_n_s32(0);
    }
    for (size_t t = 0; t < tokens; t += 4, a += 4 * A_WIDTH, b += 4 * B_WIDTH) {
        int8x16_t quads = vreinterpretq_s8_u8(vld1q_u8(a));
#pragma GCC unroll 4
        for (int i = 0; i < A_WIDTH; i++) {
            int8x16_t left = vqtbl1q_s8(quads, row[i]);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                int8x16_t right = vreinterpretq_s8_u8(vld1q_u8(b + 16 * j));
                int16x8_t products = vmull_s8(vget_low_s8(left), vget_low_s8(right));
                if (widen_each) {
                    add_pairs(&sum[i][j], products);
                    products = vmull_high_s8(left, right);
                } else
                    products = vmlal_high_s8(products, left, right);
                add_pairs(&sum[i][j], products);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < A_WIDTH; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) vst1q_s32(sums + i * B_WIDTH + 4 * j, sum[i][j]);
}

void hqk_int8_product_neon(const uint8_t *a, const uint8_t *b, size_t tokens, size_t rows, size_t cols,
                           const float *scales, int accumulate, float *c, size_t c_stride) {
    int32_t sums[A_WIDTH * B_WIDTH];
    if (load_flag(a) && load_flag(b))
        multiply(a + A_WIDTH * 4, b + B_WIDTH * 4, tokens, 1, sums);
    else
        multiply(a + A_WIDTH * 4, b + B_WIDTH * 4, tokens, 0, sums);
    hqk_int8_store(sums, B_WIDTH, rows, cols, scales, accumulate, c, c_stride);
}
