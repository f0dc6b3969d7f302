/* Panels hold eight tokens of a column together, two columns a register, as smmla wants them: 2 x 2 sums an instruction.
 * A tile is 8 x 12: 24 accumulators. The words in front of a panel are not used. */
#include "../hqk.h"
#include "neon.h"
#include "store.h"

#define A_WIDTH 8
#define B_WIDTH 12
#define A_PAIRS (A_WIDTH / 2)
#define B_PAIRS (B_WIDTH / 2)

void hqk_int8_geometry_neoni8mm(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = 8, geometry[3] = 1;
}

static inline void pack(const int8_t *x, size_t tokens, size_t stride, size_t cols, size_t width, uint8_t *out) {
    for (; cols > 0; x += width, cols -= hqk_int8_min(cols, width)) {
        out += width * 4;
        for (size_t t = 0; t < tokens; t += 8)
            for (size_t c = 0; c < width; c += 8) {
                int8x16_t early[2], late[2];
                hqk_int8_quads(x, t, tokens, stride, c, cols, early);
                hqk_int8_quads(x, t + 4, tokens, stride, c, cols, late);
                for (size_t h = 0; h < 2 && c + 4 * h < width; h++, out += 32) {
                    int32x4_t first = vreinterpretq_s32_s8(early[h]), second = vreinterpretq_s32_s8(late[h]);
                    vst1q_u8(out, vreinterpretq_u8_s32(vzip1q_s32(first, second)));
                    vst1q_u8(out + 16, vreinterpretq_u8_s32(vzip2q_s32(first, second)));
                }
            }
    }
}

void hqk_int8_pack_a_neoni8mm(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    pack(x, tokens, stride, cols, A_WIDTH, panels);
}

void hqk_int8_pack_b_neoni8mm(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    pack(x, tokens, stride, cols, B_WIDTH, panels);
}

void hqk_int8_pack_a_rows_neoni8mm(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += A_WIDTH, panels += A_WIDTH * (4 + (tokens + 7) / 8 * 8))
        hqk_int8_pack_rows(x + c * stride, tokens, stride, cols - c, A_WIDTH, 8, panels + A_WIDTH * 4);
}

void hqk_int8_pack_b_rows_neoni8mm(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += B_WIDTH, panels += B_WIDTH * (4 + (tokens + 7) / 8 * 8))
        hqk_int8_pack_rows(x + c * stride, tokens, stride, cols - c, B_WIDTH, 8, panels + B_WIDTH * 4);
}

/* sum += a * b, 2 x 2. Written out because gcc 12 copies the accumulators of the intrinsic. */
static inline void multiply_add(int32x4_t *sum, int8x16_t a, int8x16_t b) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(*sum) : "w"(a), "w"(b));
#else
    *sum = vmmlaq_s32(*sum, a, b);
#endif
}

void hqk_int8_product_neoni8mm(const uint8_t *a, const uint8_t *b, size_t tokens, size_t rows, size_t cols,
                               const float *scales, int accumulate, float *c, size_t c_stride) {
    int32x4_t sum[A_PAIRS][B_PAIRS];
    int32_t sums[A_WIDTH * B_WIDTH];
#pragma GCC unroll 4
    for (int i = 0; i < A_PAIRS; i++)
#pragma GCC unroll 6
        for (int j = 0; j < B_PAIRS; j++) sum[i][j] = vdupq_n_s32(0);
    a += A_WIDTH * 4, b += B_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 8, a += 8 * A_WIDTH, b += 8 * B_WIDTH) {
        int8x16_t left[A_PAIRS];
#pragma GCC unroll 4
        for (int i = 0; i < A_PAIRS; i++) left[i] = vreinterpretq_s8_u8(vld1q_u8(a + 16 * i));
#pragma GCC unroll 6
        for (int j = 0; j < B_PAIRS; j++) {
            int8x16_t right = vreinterpretq_s8_u8(vld1q_u8(b + 16 * j));
#pragma GCC unroll 4
            for (int i = 0; i < A_PAIRS; i++) multiply_add(&sum[i][j], left[i], right);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < A_PAIRS; i++)
#pragma GCC unroll 3
        for (int h = 0; h < 3; h++) {
            int64x2_t low = vreinterpretq_s64_s32(sum[i][2 * h]), high = vreinterpretq_s64_s32(sum[i][2 * h + 1]);
            int32_t *out = sums + 2 * i * B_WIDTH + 4 * h;
            vst1q_s32(out, vreinterpretq_s32_s64(vzip1q_s64(low, high)));
            vst1q_s32(out + B_WIDTH, vreinterpretq_s32_s64(vzip2q_s64(low, high)));
        }
    hqk_int8_store(sums, B_WIDTH, rows, cols, scales, accumulate, c, c_stride);
}
