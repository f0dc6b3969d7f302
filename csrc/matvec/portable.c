/* Plain C: digits one by one, sums row by row. */
#include "../hqk.h"
#include "../ternary/layout.h"

/* acc[r] += sum over the 16 columns of a step, for its 64 rows. Byte `b` holds row b / 4. */
static void add_two_bits(const uint8_t *step, const int8_t *x, int32_t *acc) {
    for (size_t r = 0; r < HQK_BLOCK_ROWS; r++)
        for (size_t j = 0; j < 4; j++) {
            unsigned byte = step[4 * r + j];
            acc[r] += (int)(byte & 3) * x[j] + (int)(byte >> 2 & 3) * x[4 + j] + (int)(byte >> 4 & 3) * x[8 + j] +
                      (int)(byte >> 6) * x[12 + j];
        }
}

/* The same for the 20 columns of a step: each multiplication of the fraction by 3 pushes out a digit. */
static void add_five_trits(const uint8_t *step, const int8_t *x, int32_t *acc) {
    for (size_t r = 0; r < HQK_BLOCK_ROWS; r++)
        HQK_UNROLL(4) for (size_t j = 0; j < 4; j++) {
            unsigned fraction = step[4 * r + j];
            HQK_UNROLL(5) for (size_t f = 0; f < 5; f++) {
                fraction *= 3;
                acc[r] += (int)(fraction >> 8) * x[4 * f + j];
                fraction &= 255;
            }
        }
}

/* Sums over codes {0, 1, 2} of one block; gives the first byte of the next. */
static const uint8_t *add_block(const uint8_t *block, size_t cols, const int8_t *x, size_t step_cols, int32_t *acc) {
    memset(acc, 0, HQK_BLOCK_ROWS * sizeof *acc);
    for (size_t c = 0; c < cols; c += step_cols, block += HQK_STEP_BYTES) {
        int8_t part[HQK_FIVE_TRITS_COLS] = {0};
        memcpy(part, x + c, hqk_min(cols - c, step_cols));
        if (step_cols == HQK_FIVE_TRITS_COLS)
            add_five_trits(block, part, acc);
        else
            add_two_bits(block, part, acc);
    }
    return block;
}

static void multiply_i32(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, int32_t x_sum,
                         size_t step_cols, int32_t *y) {
    int32_t acc[HQK_BLOCK_ROWS];
    for (size_t r = 0; r < rows; r += HQK_BLOCK_ROWS) {
        packed = add_block(packed, cols, x, step_cols, acc);
        for (size_t i = 0; i < hqk_min(rows - r, HQK_BLOCK_ROWS); i++) y[r + i] = hqk_centered(acc[i], x_sum);
    }
}

static void multiply(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, float x_scale, int32_t x_sum,
                     const float *weight_scales, size_t weight_scale_stride, size_t step_cols, float *y) {
    int32_t acc[HQK_BLOCK_ROWS];
    for (size_t r = 0; r < rows; r += HQK_BLOCK_ROWS) {
        packed = add_block(packed, cols, x, step_cols, acc);
        for (size_t i = 0; i < hqk_min(rows - r, HQK_BLOCK_ROWS); i++)
            y[r + i] = (float)hqk_centered(acc[i], x_sum) * (x_scale * weight_scales[(r + i) * weight_scale_stride]);
    }
}

void hqk_ternary_matvec_i32_portable(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, int32_t x_sum,
                                     int32_t *y) {
    multiply_i32(packed, rows, cols, x, x_sum, HQK_STEP_COLS, y);
}

void hqk_ternary_matvec_portable(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, float x_scale,
                                 int32_t x_sum, const float *weight_scales, size_t weight_scale_stride, float *y) {
    multiply(packed, rows, cols, x, x_scale, x_sum, weight_scales, weight_scale_stride, HQK_STEP_COLS, y);
}

void hqk_pack5_matvec_i32_portable(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, int32_t x_sum,
                                   int32_t *y) {
    multiply_i32(packed, rows, cols, x, x_sum, HQK_FIVE_TRITS_COLS, y);
}

void hqk_pack5_matvec_portable(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, float x_scale,
                               int32_t x_sum, const float *weight_scales, size_t weight_scale_stride, float *y) {
    multiply(packed, rows, cols, x, x_scale, x_sum, weight_scales, weight_scale_stride, HQK_FIVE_TRITS_COLS, y);
}
