/* Packing for the NEON files: four tokens of eight columns become eight quads. */
#ifndef HQK_INT8_NEON_H
#define HQK_INT8_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <string.h>

static inline size_t hqk_int8_min(size_t a, size_t b) { return a < b ? a : b; }

/* Columns c to c + 7 of token `t`; zeros beyond `tokens` and `cols`. */
static inline int8x16_t hqk_int8_row(const int8_t *x, size_t t, size_t tokens, size_t stride, size_t c, size_t cols) {
    int8_t part[8] = {0};
    if (t < tokens && c < cols) {
        const int8_t *at = x + t * stride + c;
        size_t left = cols - c;
        if (left >= 8) return vcombine_s8(vld1_s8(at), vdup_n_s8(0));
        if (left == 4)
            memcpy(part, at, 4);
        else
            memcpy(part, at, left);
    }
    return vcombine_s8(vld1_s8(part), vdup_n_s8(0));
}

/* Tokens t to t + 3 of columns c to c + 7: quads of the first four and of the others. */
static inline void hqk_int8_quads(const int8_t *x, size_t t, size_t tokens, size_t stride, size_t c, size_t cols,
                                  int8x16_t quads[2]) {
    int8x16_t row[4];
    for (size_t i = 0; i < 4; i++) row[i] = hqk_int8_row(x, t + i, tokens, stride, c, cols);
    int16x8_t first = vreinterpretq_s16_s8(vzip1q_s8(row[0], row[1]));
    int16x8_t second = vreinterpretq_s16_s8(vzip1q_s8(row[2], row[3]));
    quads[0] = vreinterpretq_s8_s16(vzip1q_s16(first, second));
    quads[1] = vreinterpretq_s8_s16(vzip2q_s16(first, second));
}

/* One panel of `width` columns, of which `cols` exist, that lie one after the other in memory: `step` tokens of each column
 * together. Gives the least value. */
static inline int8_t hqk_int8_pack_rows(const int8_t *x, size_t tokens, size_t stride, size_t cols, size_t width,
                                        size_t step, uint8_t *out) {
    int8_t least = 0;
    for (size_t t = 0; t < tokens; t += step)
        for (size_t c = 0; c < width; c++, out += step) {
            memset(out, 0, step);
            if (c >= cols) continue;
            size_t count = hqk_int8_min(step, tokens - t);
            const int8_t *at = x + c * stride + t;
            memcpy(out, at, count);
            for (size_t i = 0; i < count; i++) least = at[i] < least ? at[i] : least;
        }
    return least;
}

#endif
