/* The packed forms through libhybridq against their byte layouts (csrc/README.md) read by plain loops: five levels at 3 bits,
 * GGUF's TQ1_0 and TQ2_0 blocks; and what NaN, infinity, wrong values and broken bytes give. */
#include "check.h"
#include <hybridq.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 256 };

static float draw(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state / 2147483648.0f;
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    CHECK(memory != NULL);
    return memory;
}

/* Level [row][col] of the five-level layout. */
static int level_at(const uint8_t *packed, size_t cols, size_t row, size_t col) {
    const uint8_t *step = packed + (row / 64 * ((cols + 15) / 16) + col / 16) * 384;
    size_t r = row % 64, c = col % 16, field = c / 4;
    int low = step[4 * r + c % 4] >> 2 * field & 3;
    size_t bit = 4 * (r % 16) + c % 4;
    int third = step[256 + 8 * (4 * (r / 16) + field) + bit / 8] >> bit % 8 & 1;
    return (third << 2 | low) - 2;
}

static void five_level(const hq_context *context, size_t rows, size_t cols, uint32_t granularity) {
    uint32_t state = 3;
    const size_t count = rows * cols, scale_count = granularity == HQ_SCALE_PER_ROW ? rows : 1;
    float *weights = allocate(count * sizeof *weights), *scales = allocate(scale_count * sizeof *scales);
    int8_t *levels = allocate(count);
    for (size_t i = 0; i < count; i++) weights[i] = draw(&state);
    size_t bytes = 0;
    CHECK(hq_five_level_packed_bytes(rows, cols, &bytes) == HQ_OK);
    CHECK(bytes == (rows + 63) / 64 * ((cols + 15) / 16) * 384);
    uint8_t *packed = allocate(bytes), *again = allocate(bytes);
    CHECK(hq_five_level_pack(context, weights, rows, cols, granularity, packed, bytes, scales, scale_count) == HQ_OK);
    CHECK(hq_five_level_unpack(context, packed, bytes, rows, cols, levels) == HQ_OK);
    for (size_t row = 0; row < rows; row++) {
        double mean = 0.0;
        for (size_t i = 0; i < (scale_count == 1 ? count : cols); i++)
            mean += fabs((double)weights[scale_count == 1 ? i : row * cols + i]) / (double)(scale_count == 1 ? count : cols);
        const double scale = scales[scale_count == 1 ? 0 : row];
        CHECK(fabs(scale - 2.1 * mean) <= 1e-6 * scale);
        for (size_t col = 0; col < cols; col++) {
            CHECK(levels[row * cols + col] == level_at(packed, cols, row, col));
            double exact = 2.0 * fmin(fabs((double)weights[row * cols + col]) / scale, 1.0);
            CHECK(fabs(fabs((double)levels[row * cols + col]) - exact) <= 0.5 + 1e-6);
        }
    }
    CHECK(hq_five_level_pack_levels(context, levels, rows, cols, again, bytes) == HQ_OK);
    CHECK(memcmp(packed, again, bytes) == 0);
    if (count > 4) {
        levels[4] = 3;
        CHECK(hq_five_level_pack_levels(context, levels, rows, cols, again, bytes) == HQ_INVALID_VALUE);
        CHECK(strstr(hq_last_error(), "levels[4]"));
        packed[256] = 0xff; /* third bits of row 0: codes 4 and above */
        packed[0] = 0xff;
        CHECK(hq_five_level_unpack(context, packed, bytes, rows, cols, levels) == HQ_INVALID_VALUE);
        CHECK(strstr(hq_last_error(), "packed[0]"));
        weights[4] = -INFINITY;
        CHECK(hq_five_level_pack(context, weights, rows, cols, granularity, packed, bytes, scales, scale_count) ==
              HQ_NOT_FINITE);
        CHECK(strstr(hq_last_error(), "element 4"));
        CHECK(hq_five_level_pack(context, weights, rows, cols, granularity, packed, bytes - 1, scales, scale_count) ==
              HQ_SHAPE);
    }
    free(weights), free(scales), free(levels), free(packed), free(again);
}

/* Value number `i` of a block: -1, 0 or 1. */
static int trit_at(uint32_t format, const uint8_t *block, int i) {
    static const int powers[5] = {1, 3, 9, 27, 81};
    if (format == HQ_GGUF_TQ2_0) return (block[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3) - 1;
    int byte = i < 160 ? i % 32 : i < 240 ? 32 + (i - 160) % 16 : 48 + (i - 240) % 4;
    int digit = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
    return ((powers[digit] * block[byte] % 256) * 3 >> 8) - 1;
}

/* The half-precision scale at the end of a block; here always a normal number or zero. */
static double scale_of(const uint8_t *end) {
    unsigned bits = (unsigned)end[0] | (unsigned)end[1] << 8;
    return bits == 0 ? 0.0 : ldexp(1024 + (bits & 1023), (int)(bits >> 10 & 31) - 25);
}

static void gguf(const hq_context *context, uint32_t format, size_t blocks) {
    uint32_t state = 5;
    const size_t count = blocks * BLOCK, size = format == HQ_GGUF_TQ1_0 ? 54 : 66;
    float *weights = allocate(count * sizeof *weights), *values = allocate(count * sizeof *values);
    float *scales = allocate(blocks * sizeof *scales);
    int8_t *trits = allocate(count);
    for (size_t i = 0; i < count; i++) weights[i] = draw(&state) * (float)(i / BLOCK);
    size_t bytes = 0;
    CHECK(hq_gguf_ternary_bytes(format, count, &bytes) == HQ_OK && bytes == blocks * size);
    CHECK(hq_gguf_ternary_bytes(format, count + 1, &bytes) == HQ_SHAPE);
    uint8_t *packed = allocate(bytes), *again = allocate(bytes);
    CHECK(hq_gguf_ternary_quantize(context, format, weights, count, packed, bytes) == HQ_OK);
    CHECK(hq_gguf_ternary_unpack(context, format, packed, bytes, count, trits, scales, blocks) == HQ_OK);
    CHECK(hq_gguf_ternary_dequantize(context, format, packed, bytes, count, values) == HQ_OK);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *block = packed + i / BLOCK * size;
        const double scale = scale_of(block + size - 2);
        CHECK(scales[i / BLOCK] == scale && trits[i] == trit_at(format, block, (int)(i % BLOCK)));
        CHECK(values[i] == (float)(trits[i] * scale));
        CHECK(fabs(weights[i] - values[i]) <= 0.501 * scale + 1e-6);
    }
    CHECK(hq_gguf_ternary_pack(context, format, trits, count, scales, blocks, again, bytes) == HQ_OK);
    CHECK(memcmp(packed, again, bytes) == 0);
    if (blocks > 1) {
        CHECK(hq_gguf_ternary_pack(context, format, trits, count, scales, blocks - 1, again, bytes) ==
              (blocks == 2 ? HQ_OK : HQ_SHAPE));
        trits[300] = 2;
        CHECK(hq_gguf_ternary_pack(context, format, trits, count, scales, blocks, again, bytes) == HQ_INVALID_VALUE);
        CHECK(strstr(hq_last_error(), "trits[300]"));
        trits[300] = 0;
        scales[1] = 1e9f;
        CHECK(hq_gguf_ternary_pack(context, format, trits, count, scales, blocks, again, bytes) == HQ_INVALID_VALUE);
        CHECK(strstr(hq_last_error(), "scales[1]"));
        weights[257] = NAN;
        CHECK(hq_gguf_ternary_quantize(context, format, weights, count, packed, bytes) == HQ_NOT_FINITE);
        CHECK(strstr(hq_last_error(), "element 257"));
        weights[257] = 70000.0f;
        CHECK(hq_gguf_ternary_quantize(context, format, weights, count, packed, bytes) == HQ_INVALID_VALUE);
        packed[2 * size - 1] = 0x7c; /* an infinite scale */
        CHECK(hq_gguf_ternary_dequantize(context, format, packed, bytes, count, values) == HQ_INVALID_VALUE);
        CHECK(hq_gguf_ternary_unpack(context, format, packed, bytes, count, trits, scales, blocks) == HQ_INVALID_VALUE);
    }
    CHECK(hq_gguf_ternary_bytes(2, BLOCK, &bytes) == HQ_INVALID_VALUE);
    free(weights), free(values), free(scales), free(trits), free(packed), free(again);
}

/* int8 rows and columns: an element that is not finite is an error that names it, never a silent zero. */
static void rows_that_are_not_finite(const hq_context *context) {
    enum { ROWS = 3, COLS = 70 };
    float x[ROWS * COLS], scales[COLS], factors[ROWS] = {1, 1, 1};
    int8_t values[ROWS * COLS];
    int32_t sums[ROWS];
    uint32_t state = 1;
    const float wrong[3] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < ROWS * COLS; i++) x[i] = draw(&state);
    for (int at = 0; at < ROWS * COLS; at += 23) {
        const float kept = x[at];
        char expected[32];
        x[at] = wrong[at % 3];
        snprintf(expected, sizeof expected, "element %d ", at);
        CHECK(hq_quantize_rows(context, x, ROWS, COLS, values, scales, sums) == HQ_NOT_FINITE);
        CHECK(strstr(hq_last_error(), expected));
        CHECK(isnan(scales[at / COLS]) && !isnan(scales[(at / COLS + 1) % ROWS]));
        CHECK(hq_quantize_rows_stochastic(context, x, ROWS, COLS, 1, 2, 3, values, scales, sums) == HQ_NOT_FINITE);
        CHECK(strstr(hq_last_error(), expected));
        CHECK(hq_quantize_columns_stochastic(context, x, ROWS, COLS, factors, 1, 2, 3, values, scales) == HQ_NOT_FINITE);
        CHECK(strstr(hq_last_error(), expected));
        x[at] = kept;
    }
    CHECK(hq_quantize_rows(context, x, ROWS, COLS, values, scales, sums) == HQ_OK);
    CHECK(hq_quantize_columns_stochastic(context, x, ROWS, COLS, factors, 1, 2, 3, values, scales) == HQ_OK);
    x[COLS + 5] = factors[1] = 1e30f;
    CHECK(hq_quantize_columns_stochastic(context, x, ROWS, COLS, factors, 1, 2, 3, values, scales) == HQ_NOT_FINITE);
    CHECK(strstr(hq_last_error(), "column 5"));
    factors[1] = NAN;
    CHECK(hq_quantize_columns_stochastic(context, x, ROWS, COLS, factors, 1, 2, 3, values, scales) == HQ_NOT_FINITE);
    CHECK(strstr(hq_last_error(), "row_factors: element 1"));
}

int main(void) {
    hq_context *context = NULL;
    CHECK(hq_context_new(NULL, &context) == HQ_OK);
    const size_t shapes[][2] = {{1, 1}, {5, 17}, {64, 16}, {67, 131}, {130, 48}, {3, 0}, {0, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        if (shapes[i][0] * shapes[i][1] == 0) {
            size_t bytes = 1;
            CHECK(hq_five_level_packed_bytes(shapes[i][0], shapes[i][1], &bytes) == HQ_OK && bytes == 0);
            continue;
        }
        five_level(context, shapes[i][0], shapes[i][1], HQ_SCALE_PER_TENSOR);
        five_level(context, shapes[i][0], shapes[i][1], HQ_SCALE_PER_ROW);
    }
    for (size_t blocks = 0; blocks < 6; blocks++) {
        gguf(context, HQ_GGUF_TQ1_0, blocks);
        gguf(context, HQ_GGUF_TQ2_0, blocks);
    }
    gguf(context, HQ_GGUF_TQ2_0, 700);
    rows_that_are_not_finite(context);
    hq_context_free(context);
    puts("all checks passed");
    return 0;
}
