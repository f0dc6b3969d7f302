/* What the int8 Newton-Schulz iteration does between its products, written once for every ISA: plain C that the compiler
 * vectorizes, with nothing contracted. Symmetric matrices are finished in blocks of rows, and each block's columns are
 * written as rows from a small copy of it. */
#include "../hqk.h"

#include <string.h>

#define BLOCK_ROWS 16
#define BLOCK_COLS 64

typedef struct {
    const float *scales, *a, *a_diagonal, *b, *b_diagonal;
    float of_product, of_a, of_b;
} combination;

/* `count` elements of row `i` from column `first` on: in place, and to `copy`. */
static void combine(const combination *c, size_t side, size_t i, size_t first, size_t count, float *sums, float *copy) {
    const float *scales = c->scales + first;
    if (!c->a) {
        for (size_t j = 0; j < count; j++) copy[j] = sums[j] = sums[j] * (c->of_product * scales[j]);
        return;
    }
    const float *a = c->a + i * side + first, *b = c->b + i * side + first, *diagonal = c->b_diagonal + first;
    float of_product = c->of_product, of_a = c->of_a, of_b = of_product * c->a_diagonal[i] + c->of_b;
    for (size_t j = 0; j < count; j++)
        copy[j] = sums[j] = sums[j] * (of_product * scales[j]) + a[j] * (of_product * diagonal[j] + of_a) + b[j] * of_b;
}

void HQK_NAME(hqk_newton_schulz_finish)(const float *scales, const float *a, const float *a_diagonal, const float *b,
                                        const float *b_diagonal, float of_product, float of_a, float of_b, size_t side,
                                        float *sums, float *diagonal) {
    combination c = {scales, a, a_diagonal, b, b_diagonal, of_product, of_a, of_b};
    float block[BLOCK_ROWS][BLOCK_COLS];
    for (size_t row = 0; row < side; row += BLOCK_ROWS) {
        size_t rows = side - row < BLOCK_ROWS ? side - row : BLOCK_ROWS;
        for (size_t column = 0; column < row; column += BLOCK_COLS) {
            size_t cols = row - column < BLOCK_COLS ? row - column : BLOCK_COLS;
            for (size_t i = 0; i < rows; i++)
                combine(&c, side, row + i, column, cols, sums + (row + i) * side + column, block[i]);
            for (size_t j = 0; j < cols; j++) {
                float *out = sums + (column + j) * side + row;
                for (size_t i = 0; i < rows; i++) out[i] = block[i][j];
            }
        }
        for (size_t i = row; i < row + rows; i++) {
            float own = sums[i * side + i] * (of_product * scales[i]);
            if (a) own += of_product * a_diagonal[i] * b_diagonal[i] + of_a * a_diagonal[i] + of_b * b_diagonal[i];
            diagonal[i] = own;
            sums[i * side + i] = 0.0f;
            combine(&c, side, i, row, i - row, sums + i * side + row, block[0]);
            for (size_t j = row; j < i; j++) sums[j * side + i] = block[0][j - row];
        }
    }
}

void HQK_NAME(hqk_newton_schulz_round_columns)(const float *x, size_t rows, size_t cols, const float *scales,
                                               int8_t *codes) {
    for (size_t first = 0; first < cols; first += BLOCK_COLS) {
        size_t count = cols - first < BLOCK_COLS ? cols - first : BLOCK_COLS;
        float factors[BLOCK_COLS];
        for (size_t j = 0; j < count; j++) factors[j] = scales[first + j] > 0.0f ? 1.0f / scales[first + j] : 0.0f;
        for (size_t i = 0; i < rows; i++) {
            const float *row = x + i * cols + first;
            int8_t *out = codes + i * cols + first;
            for (size_t j = 0; j < count; j++) {
                /* Half-to-even rounding is an addition of 1.5 * 2^23: the integer is then in the low bits of the sum. */
                float v = row[j] * factors[j] + 12582912.0f;
                uint32_t bits;
                memcpy(&bits, &v, 4);
                out[j] = (int8_t)(uint8_t)(bits - 0x4B400000u); /* wraps, whatever the scale */
            }
        }
    }
}

void HQK_NAME(hqk_newton_schulz_add_rows)(const float *sums, size_t rows, size_t cols, const float *of_sums,
                                          const float *of_x, float *x) {
    for (size_t i = 0; i < rows; i++, sums += cols, x += cols)
        for (size_t j = 0; j < cols; j++) x[j] = x[j] * of_x[j] + sums[j] * of_sums[j];
}
