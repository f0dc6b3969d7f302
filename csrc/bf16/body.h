/* Panels of f32, a tile of plain C that the compiler vectorizes over columns. */
#include "../hqk.h"

#define A_WIDTH 4
#define B_WIDTH 16
#define WORDS 0
typedef float value;

#include "pack.h"

void HQK_NAME(hqk_bf16_product)(const uint8_t *a_panel, const uint8_t *b_panel, size_t tokens, size_t rows, size_t cols,
                                int32_t accumulate, float *c, size_t c_stride) {
    const float *a = (const float *)(const void *)a_panel, *b = (const float *)(const void *)b_panel;
    float sums[A_WIDTH * B_WIDTH] = {0};
    for (size_t t = 0; t < tokens + tokens % 2; t++, a += A_WIDTH, b += B_WIDTH)
        for (int i = 0; i < A_WIDTH; i++)
            for (int j = 0; j < B_WIDTH; j++) sums[i * B_WIDTH + j] += a[i] * b[j]; /* the product is exact */
    hqk_bf16_store(sums, rows, cols, accumulate, c, c_stride);
}
