/* 4 rows x 8 columns. A smaller tile is computed as a whole one: rows beyond the last repeat it, columns beyond the last are
 * zeros. A fused multiply-add is made in double precision, where the product is exact; the sum is rounded twice, which
 * gives another float than one rounding about once in 2^29 times. */
#include <stddef.h>

#define HQK_NAME(op) op##_portable
#define TILE_ROWS 4
#define TILE_COLUMNS 8

static void tile(size_t rows, size_t columns, size_t k, const float *a, size_t a_row, size_t a_step, const float *b,
                 size_t b_stride, float *c, size_t c_stride, int accumulate) {
    float sum[TILE_ROWS][TILE_COLUMNS] = {{0}}, copy[TILE_COLUMNS] = {0};
    if (accumulate)
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < columns; j++) sum[r][j] = c[r * c_stride + j];
    float s0[TILE_COLUMNS], s1[TILE_COLUMNS], s2[TILE_COLUMNS], s3[TILE_COLUMNS];
    for (size_t j = 0; j < TILE_COLUMNS; j++) s0[j] = sum[0][j], s1[j] = sum[1][j], s2[j] = sum[2][j], s3[j] = sum[3][j];
    const size_t last = rows - 1, row1 = last < 1 ? 0 : a_row, row2 = (last < 2 ? last : 2) * a_row, row3 = last * a_row;
    for (size_t i = 0; i < k; i++, a += a_step, b += b_stride) {
        const float *row = b;
        if (columns < TILE_COLUMNS) {
            for (size_t j = 0; j < columns; j++) copy[j] = b[j];
            row = copy;
        }
        const double a0 = a[0], a1 = a[row1], a2 = a[row2], a3 = a[row3];
        for (size_t j = 0; j < TILE_COLUMNS; j++) s0[j] = (float)(a0 * row[j] + s0[j]);
        for (size_t j = 0; j < TILE_COLUMNS; j++) s1[j] = (float)(a1 * row[j] + s1[j]);
        for (size_t j = 0; j < TILE_COLUMNS; j++) s2[j] = (float)(a2 * row[j] + s2[j]);
        for (size_t j = 0; j < TILE_COLUMNS; j++) s3[j] = (float)(a3 * row[j] + s3[j]);
    }
    for (size_t j = 0; j < TILE_COLUMNS; j++) sum[0][j] = s0[j], sum[1][j] = s1[j], sum[2][j] = s2[j], sum[3][j] = s3[j];
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < columns; j++) c[r * c_stride + j] = sum[r][j];
}

#include "body.h"
