/* Panels are the columns widened to 16 bits, token after token: the tile of products then vectorizes over columns. */
#include "../hqk.h"
#include "store.h"

#define A_WIDTH 4
#define B_WIDTH 16

void hqk_int8_geometry_portable(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = 1, geometry[3] = 2;
}

static void pack(const int8_t *x, size_t tokens, size_t stride, size_t cols, size_t width, uint8_t *panels) {
    int16_t *packed = (int16_t *)(void *)panels;
    for (size_t first = 0; first < cols; first += width) {
        packed += width * 2;
        for (size_t t = 0; t < tokens; t++, packed += width)
            for (size_t c = 0; c < width; c++) packed[c] = first + c < cols ? x[t * stride + first + c] : 0;
    }
}

void hqk_int8_pack_a_portable(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    pack(x, tokens, stride, cols, A_WIDTH, panels);
}

void hqk_int8_pack_b_portable(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    pack(x, tokens, stride, cols, B_WIDTH, panels);
}

static void pack_rows(const int8_t *x, size_t tokens, size_t stride, size_t cols, size_t width, uint8_t *panels) {
    int16_t *packed = (int16_t *)(void *)panels;
    for (size_t first = 0; first < cols; first += width) {
        packed += width * 2;
        for (size_t t = 0; t < tokens; t++, packed += width)
            for (size_t c = 0; c < width; c++) packed[c] = first + c < cols ? x[(first + c) * stride + t] : 0;
    }
}

void hqk_int8_pack_a_rows_portable(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    pack_rows(x, tokens, stride, cols, A_WIDTH, panels);
}

void hqk_int8_pack_b_rows_portable(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    pack_rows(x, tokens, stride, cols, B_WIDTH, panels);
}

void hqk_int8_product_portable(const uint8_t *a_panel, const uint8_t *b_panel, size_t tokens, size_t rows,
                               size_t cols, const float *scales, int accumulate, float *c, size_t c_stride) {
    const int16_t *a = (const int16_t *)(const void *)(a_panel + A_WIDTH * 4);
    const int16_t *b = (const int16_t *)(const void *)(b_panel + B_WIDTH * 4);
    int32_t sums[A_WIDTH * B_WIDTH] = {0};
    for (size_t t = 0; t < tokens; t++, a += A_WIDTH, b += B_WIDTH)
        for (int i = 0; i < A_WIDTH; i++)
            for (int j = 0; j < B_WIDTH; j++) sums[i * B_WIDTH + j] += (int32_t)a[i] * b[j];
    hqk_int8_store(sums, B_WIDTH, rows, cols, scales, accumulate, c, c_stride);
}
