/* Packed forms: the 2-bit layout, five trits a byte, five levels, GGUF's blocks. */
#include "harness.h"

static void ternary_pack(size_t rows, size_t cols) {
    size_t packed_bytes = round_up(rows, 64) / 64 * (round_up(cols, 16) / 16) * 256, found;
    uint8_t *packed = unset(packed_bytes), *other = unset(packed_bytes);
    int8_t *values = trits(rows * cols);
    float *weights = floats(rows * cols), *one = floats(1), *thresholds = floats(rows);
    for (size_t r = 0; r < rows; r++) thresholds[r] = 0.5f;
    double kept;
    RUN(ternary_pack, values, rows, cols, packed);
    RUN(ternary_unpack, packed, rows, cols, values);
    RUN(ternary_quantize_pack, weights, rows, cols, one, 0, other);
    RUN(ternary_quantize_pack, weights, rows, cols, thresholds, 1, other);
    RUN(ternary_quantize_pack_sum, weights, rows, cols, one, 0, other, &kept);
    RUN(ternary_quantize_pack_sum, weights, rows, cols, thresholds, 1, other, &kept);
    RUN(ternary_count_changed, packed, other, packed_bytes, &found);
    RUN(ternary_count_nonzero, packed, packed_bytes, &found);
    RUN(ternary_find_invalid, packed, packed_bytes, &found);
    free_all();
}

static void five_level(size_t rows, size_t cols) {
    size_t steps = round_up(rows, 64) / 64 * (round_up(cols, 16) / 16), found;
    uint8_t *packed = unset(384 * steps);
    int8_t *levels = bytes(rows * cols);
    float *weights = floats(rows * cols), *limits = floats(2 * rows), *one = floats(2);
    for (size_t i = 0; i < 2 * rows; i++) limits[i] = i % 2 ? 1.5f : 0.5f;
    one[0] = 0.5f, one[1] = 1.5f;
    RUN(five_level_quantize_pack, weights, rows, cols, one, 0, packed);
    RUN(five_level_quantize_pack, weights, rows, cols, limits, 2, packed);
    RUN(five_level_pack, levels, rows, cols, packed);
    RUN(five_level_unpack, packed, rows, cols, levels);
    RUN(five_level_find_invalid, packed, steps, &found);
    free_all();
}

static void five_trits(size_t rows, size_t cols) {
    uint8_t *packed = unset(round_up(rows, 64) / 64 * (round_up(cols, 20) / 20) * 256);
    int8_t *values = trits(rows * cols);
    RUN(pack5, values, rows, cols, packed);
    RUN(unpack5, packed, rows, cols, values);
    free_all();
}

static void counting(size_t n) {
    uint8_t *a = (uint8_t *)bytes(n), *b = (uint8_t *)bytes(n);
    size_t found;
    RUN(ternary_count_changed, a, b, n, &found);
    RUN(ternary_count_nonzero, a, n, &found);
    RUN(ternary_find_invalid, a, n, &found);
    for (size_t i = 0; i < n; i++) a[i] = 0x55;
    RUN(ternary_find_invalid, a, n, &found);
    free_all();
}

static void gguf(size_t blocks) {
    float *x = floats(256 * blocks), *y = floats(256 * blocks), *scales = floats(blocks), *one = floats(1);
    int8_t *values = trits(256 * blocks);
    uint8_t *tq1 = unset(54 * blocks), *tq2 = unset(66 * blocks);
    RUN(tq1_0_quantize, x, blocks, tq1);
    RUN(tq2_0_quantize, x, blocks, tq2);
    RUN(tq1_0_dequantize, tq1, blocks, y);
    RUN(tq2_0_dequantize, tq2, blocks, y);
    RUN(tq1_0_pack, values, one, 0, blocks, tq1);
    RUN(tq2_0_pack, values, scales, 1, blocks, tq2);
    RUN(tq1_0_unpack, tq1, blocks, values, scales);
    RUN(tq2_0_unpack, tq2, blocks, values, scales);
    free_all();
}

void run_packing(void) {
    static const size_t rows[] = {0, 1, 2, 3, 4, 5, 15, 17, 63, 64, 65, 131};
    static const size_t cols[] = {0, 1, 3, 4, 15, 16, 17, 19, 20, 21, 31, 33, 63, 65, 127, 257};
    static const size_t sizes[] = {ODD_SIZES};
    for (size_t r = 0; r < COUNT(rows); r++)
        for (size_t c = 0; c < COUNT(cols); c++) {
            ternary_pack(rows[r], cols[c]);
            five_level(rows[r], cols[c]);
            five_trits(rows[r], cols[c]);
        }
    for (size_t i = 0; i < COUNT(sizes); i++) counting(sizes[i]);
    for (size_t blocks = 0; blocks < 4; blocks++) gguf(blocks);
}
