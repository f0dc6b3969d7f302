/* Plain C: the layout's definition turned into loops. */
#include "../hqk.h"
#include "layout.h"

static inline unsigned load_code(const uint8_t *packed, size_t row, size_t col, size_t cols) {
    return packed[hqk_byte_of(row, col, cols)] >> hqk_shift_of(col) & 3;
}

/* Where the code of output `o` and element `i` lies in panels. */
static inline size_t panel_byte_of(size_t o, size_t i, size_t tile_bytes) {
    return o / HQK_TILE_ROWS * tile_bytes + i / 4 * HQK_QUAD_BYTES + o % HQK_TILE_ROWS * 4 + i % 4;
}

void hqk_ternary_panels_portable(const uint8_t *block, size_t cols, uint8_t *panels) {
    size_t tile_bytes = hqk_panel_tile_bytes(cols);
    for (size_t s = 0; s < hqk_steps(cols); s++)
        for (size_t tile = 0; tile < 4; tile++, block += HQK_TILE_BYTES)
            for (unsigned f = 0; f < 4; f++) {
                uint8_t *quad = panels + tile * tile_bytes + (4 * s + f) * HQK_QUAD_BYTES;
                for (size_t i = 0; i < HQK_TILE_BYTES; i++) quad[i] = block[i] >> 2 * f & 3;
            }
}

void hqk_ternary_panels_transposed_portable(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,
                                            uint8_t *panels) {
    size_t outputs = hqk_min(cols - first_col, HQK_BLOCK_ROWS), tile_bytes = hqk_panel_tile_bytes(rows);
    memset(panels, 1, 4 * tile_bytes);
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < outputs; o++)
            panels[panel_byte_of(o, r, tile_bytes)] = (uint8_t)load_code(packed, r, first_col + o, cols);
}

/* acc[o] = sum over k of panel code * x, for one token. */
static void accumulate(const uint8_t *panels, size_t k, const int8_t *x, int32_t *acc) {
    size_t tile_bytes = hqk_panel_tile_bytes(k);
    memset(acc, 0, HQK_BLOCK_ROWS * sizeof *acc);
    for (size_t q = 0; q < (k + 3) / 4; q++) {
        int8_t quad[4];
        int32_t word = hqk_quad(x + 4 * q, k - 4 * q);
        memcpy(quad, &word, 4);
        for (size_t o = 0; o < HQK_BLOCK_ROWS; o++) {
            const uint8_t *w = panels + panel_byte_of(o, 4 * q, tile_bytes);
            acc[o] += w[0] * quad[0] + w[1] * quad[1] + w[2] * quad[2] + w[3] * quad[3];
        }
    }
}

void hqk_panel_matmul_i32_portable(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                                   size_t tokens, const int32_t *x_sums, int32_t *y, size_t y_stride) {
    for (size_t t = 0; t < tokens; t++) {
        int32_t acc[HQK_BLOCK_ROWS];
        accumulate(panels, k, x + t * x_stride, acc);
        for (size_t o = 0; o < outputs; o++) y[t * y_stride + o] = hqk_centered(acc[o], x_sums[t]);
    }
}

void hqk_panel_matmul_portable(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                               size_t tokens, const float *x_scales, const int32_t *x_sums,
                               const float *weight_scales, size_t weight_scale_stride, float *y, size_t y_stride) {
    for (size_t t = 0; t < tokens; t++) {
        int32_t acc[HQK_BLOCK_ROWS];
        accumulate(panels, k, x + t * x_stride, acc);
        for (size_t o = 0; o < outputs; o++) {
            float scale = x_scales[t] * weight_scales[o * weight_scale_stride];
            y[t * y_stride + o] = (float)hqk_centered(acc[o], x_sums[t]) * scale;
        }
    }
}

void hqk_ternary_matmul_i32_portable(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, size_t x_stride,
                                     size_t tokens, const int32_t *x_sums, int32_t *y, size_t y_stride) {
    for (size_t t = 0; t < tokens; t++)
        hqk_ternary_matvec_i32_portable(packed, rows, cols, x + t * x_stride, x_sums[t], y + t * y_stride);
}

void hqk_ternary_matmul_portable(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, size_t x_stride,
                                 size_t tokens, const float *x_scales, const int32_t *x_sums,
                                 const float *weight_scales, size_t weight_scale_stride, float *y, size_t y_stride) {
    for (size_t t = 0; t < tokens; t++)
        hqk_ternary_matvec_portable(packed, rows, cols, x + t * x_stride, x_scales[t], x_sums[t], weight_scales,
                                    weight_scale_stride, y + t * y_stride);
}

void hqk_ternary_matmul_transposed_portable(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,
                                            size_t outputs, const int8_t *x, size_t x_stride, size_t tokens,
                                            const float *x_scales, const int32_t *x_sums, float *y, size_t y_stride) {
    for (size_t t = 0; t < tokens; t++)
        for (size_t o = 0; o < outputs; o++) {
            int32_t acc = 0;
            for (size_t r = 0; r < rows; r++) acc += (int32_t)load_code(packed, r, first_col + o, cols) * x[t * x_stride + r];
            y[t * y_stride + o] = (float)hqk_centered(acc, x_sums[t]) * x_scales[t];
        }
}
