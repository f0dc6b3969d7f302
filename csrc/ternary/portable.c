/* Plain C: the layout's definition turned into loops. int8 trits move between rows and fields four at a time, the four
 * columns of a byte group; what is left is loops over the 64 bytes of a tile, which compilers vectorize well enough for
 * no ISA to have its own. */
#include "../hqk.h"
#include "layout.h"

#include <math.h>

#define FIELDS 4

static void fill_zero_weights(size_t rows, size_t cols, uint8_t *packed) {
    size_t blocks = (rows + HQK_BLOCK_ROWS - 1) / HQK_BLOCK_ROWS;
    memset(packed, HQK_ZERO_BYTE, blocks * hqk_block_bytes(cols));
}

static inline void store_code(uint8_t *packed, size_t row, size_t col, size_t cols, unsigned code) {
    uint8_t *byte = packed + hqk_byte_of(row, col, cols);
    unsigned shift = hqk_shift_of(col);
    *byte = (uint8_t)((*byte & ~(3u << shift)) | code << shift);
}

static inline unsigned load_code(const uint8_t *packed, size_t row, size_t col, size_t cols) {
    return packed[hqk_byte_of(row, col, cols)] >> hqk_shift_of(col) & 3;
}

static inline void bytes_of(int8_t values[FIELDS][HQK_TILE_BYTES], uint8_t *tile) {
    for (int b = 0; b < HQK_TILE_BYTES; b++) {
        unsigned byte = 0;
        for (int f = 0; f < FIELDS; f++)
            byte |= (unsigned)(1 + (values[f][b] > 0) - (values[f][b] < 0)) << 2 * f;
        tile[b] = (uint8_t)byte;
    }
}

void hqk_ternary_pack_portable(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed) {
    size_t steps = hqk_steps(cols);
    for (size_t r0 = 0; r0 < rows; r0 += HQK_BLOCK_ROWS, packed += steps * HQK_STEP_BYTES)
        for (size_t t = 0; t < HQK_STEP_BYTES / HQK_TILE_BYTES; t++) {
            size_t first = r0 + t * HQK_TILE_ROWS, count = first < rows ? hqk_min(rows - first, HQK_TILE_ROWS) : 0;
            for (size_t s = 0; s < steps; s++) {
                int8_t values[FIELDS][HQK_TILE_BYTES] = {{0}};
                size_t c = s * HQK_STEP_COLS, width = hqk_min(cols - c, HQK_STEP_COLS);
                for (size_t r = 0; r < count; r++) {
                    const int8_t *row = trits + (first + r) * cols + c;
                    if (width == HQK_STEP_COLS)
                        for (size_t f = 0; f < FIELDS; f++) memcpy(&values[f][4 * r], row + 4 * f, 4);
                    else
                        for (size_t i = 0; i < width; i++) values[i / 4][4 * r + i % 4] = row[i];
                }
                bytes_of(values, packed + s * HQK_STEP_BYTES + t * HQK_TILE_BYTES);
            }
        }
}

void hqk_ternary_quantize_pack_portable(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                        size_t threshold_stride, uint8_t *packed) {
    fill_zero_weights(rows, cols, packed);
    for (size_t r = 0; r < rows; r++) {
        float threshold = thresholds[r * threshold_stride];
        for (size_t c = 0; c < cols; c++) {
            float w = weights[r * cols + c];
            store_code(packed, r, c, cols, 1u + (w > threshold) - (w < -threshold));
        }
    }
}

static inline void trits_of(const uint8_t *tile, int8_t trits[FIELDS][HQK_TILE_BYTES]) {
    for (int f = 0; f < FIELDS; f++)
        for (int b = 0; b < HQK_TILE_BYTES; b++) trits[f][b] = (int8_t)((tile[b] >> 2 * f & 3) - 1);
}

void hqk_ternary_unpack_portable(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits) {
    size_t steps = hqk_steps(cols);
    for (size_t r0 = 0; r0 < rows; r0 += HQK_BLOCK_ROWS, packed += steps * HQK_STEP_BYTES)
        for (size_t first = r0; first < hqk_min(rows, r0 + HQK_BLOCK_ROWS); first += HQK_TILE_ROWS) {
            size_t count = hqk_min(rows - first, HQK_TILE_ROWS);
            const uint8_t *tile = packed + (first - r0) / HQK_TILE_ROWS * HQK_TILE_BYTES;
            for (size_t s = 0; s < steps; s++, tile += HQK_STEP_BYTES) {
                int8_t values[FIELDS][HQK_TILE_BYTES];
                trits_of(tile, values);
                size_t c = s * HQK_STEP_COLS, width = hqk_min(cols - c, HQK_STEP_COLS);
                for (size_t r = 0; r < count; r++) {
                    int8_t *row = trits + (first + r) * cols + c;
                    if (width == HQK_STEP_COLS)
                        for (size_t f = 0; f < FIELDS; f++) memcpy(row + 4 * f, &values[f][4 * r], 4);
                    else
                        for (size_t i = 0; i < width; i++) row[i] = values[i / 4][4 * r + i % 4];
                }
            }
        }
}

void hqk_ternary_count_changed_portable(const uint8_t *a, const uint8_t *b, size_t bytes, size_t *changed) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        unsigned differs = a[i] ^ b[i];
        differs = (differs | differs >> 1) & 0x55;
        differs = (differs & 0x33) + (differs >> 2 & 0x33);
        count += (differs & 15) + (differs >> 4);
    }
    *changed = count;
}

void hqk_ternary_panels_portable(const uint8_t *block, size_t cols, uint8_t *panels) {
    for (size_t s = 0; s < hqk_steps(cols); s++, block += HQK_STEP_BYTES)
        for (unsigned f = 0; f < 4; f++, panels += HQK_PANEL_BYTES)
            for (size_t i = 0; i < HQK_STEP_BYTES; i++) panels[i] = block[i] >> 2 * f & 3;
}

void hqk_ternary_panels_transposed_portable(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,
                                            uint8_t *panels) {
    size_t outputs = hqk_min(cols - first_col, HQK_BLOCK_ROWS);
    for (size_t q = 0; q < (rows + 3) / 4; q++, panels += HQK_PANEL_BYTES) {
        memset(panels, 1, HQK_PANEL_BYTES);
        for (size_t i = 0; i < hqk_min(rows - 4 * q, 4); i++)
            for (size_t o = 0; o < outputs; o++)
                panels[4 * o + i] = (uint8_t)load_code(packed, 4 * q + i, first_col + o, cols);
    }
}

/* acc[o] = sum over k of panel code * x, for one token. */
static void accumulate(const uint8_t *panels, size_t k, const int8_t *x, int32_t *acc) {
    memset(acc, 0, HQK_BLOCK_ROWS * sizeof *acc);
    for (size_t q = 0; q < (k + 3) / 4; q++, panels += HQK_PANEL_BYTES) {
        int8_t quad[4];
        int32_t word = hqk_quad(x + 4 * q, k - 4 * q);
        memcpy(quad, &word, 4);
        for (size_t o = 0; o < HQK_BLOCK_ROWS; o++) {
            const uint8_t *w = panels + 4 * o;
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
