/* The AVX-VNNI products against the portable ones, for builds of csrc/{ternary,int8}/avxvnni.c in either encoding. */
#include <hqk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static uint32_t draw(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes);
    CHECK(memory != NULL);
    return memory;
}

/* `fill` 0: random values, else all weights +1 and all activations `fill`. */
static void ternary(size_t rows, size_t cols, size_t tokens, int fill) {
    size_t block = (cols + 15) / 16 * 256, blocks = (rows + 63) / 64, outputs = tokens * rows * sizeof(int32_t);
    int8_t *weights = allocate(rows * cols), *x = allocate(tokens * cols);
    uint8_t *packed = allocate(blocks * block), *panels = allocate(4 * block);
    int32_t *sums = calloc(tokens, sizeof *sums), *y = allocate(outputs), *expected = allocate(outputs);
    CHECK(sums != NULL);
    for (size_t i = 0; i < rows * cols; i++) weights[i] = fill ? 1 : (int8_t)(draw() % 3) - 1;
    for (size_t i = 0; i < tokens * cols; i++) {
        x[i] = fill ? (int8_t)fill : (int8_t)(draw() % 256 - 128);
        sums[i / cols] += x[i];
    }
    hqk_ternary_pack_portable(weights, rows, cols, packed);
    hqk_ternary_matmul_i32_portable(packed, rows, cols, x, cols, tokens, sums, expected, rows);
    hqk_ternary_matmul_i32_avxvnni(packed, rows, cols, x, cols, tokens, sums, y, rows);
    CHECK(memcmp(y, expected, outputs) == 0);
    memset(y, 0, outputs);
    for (size_t r = 0; r < rows; r += 64) {
        size_t count = rows - r < 64 ? rows - r : 64;
        hqk_ternary_panels_portable(packed + r / 64 * block, cols, panels);
        hqk_panel_matmul_i32_avxvnni(panels, count, cols, x, cols, tokens, sums, y + r, rows);
    }
    CHECK(memcmp(y, expected, outputs) == 0);
    free(weights), free(x), free(packed), free(panels), free(sums), free(y), free(expected);
}

/* One tile of the int8 product; `fill_a` and `fill_b` as above. */
static void int8(size_t tokens, size_t rows, size_t cols, int fill_a, int fill_b) {
    size_t geometry[4];
    hqk_int8_geometry_avxvnni(geometry);
    CHECK(rows <= geometry[0] && cols <= geometry[1]);
    size_t column = 4 + (tokens + geometry[2] - 1) / geometry[2] * geometry[2] * geometry[3];
    int8_t *a = allocate(tokens * rows), *b = allocate(tokens * cols);
    uint8_t *a_panel = allocate(geometry[0] * column), *b_panel = allocate(geometry[1] * column);
    float *c = allocate(rows * cols * sizeof *c), *scales = allocate(rows * sizeof *scales);
    for (size_t i = 0; i < tokens * rows; i++) a[i] = fill_a ? (int8_t)fill_a : (int8_t)(draw() % 256 - 128);
    for (size_t i = 0; i < tokens * cols; i++) b[i] = fill_b ? (int8_t)fill_b : (int8_t)(draw() % 256 - 128);
    for (size_t i = 0; i < rows; i++) scales[i] = 1.0f;
    hqk_int8_pack_a_avxvnni(a, tokens, rows, rows, a_panel);
    hqk_int8_pack_b_avxvnni(b, tokens, cols, cols, b_panel);
    hqk_int8_product_avxvnni(a_panel, b_panel, tokens, rows, cols, scales, 0, c, cols);
    for (size_t i = 0; i < rows * cols; i++) {
        int32_t sum = 0;
        for (size_t t = 0; t < tokens; t++) sum += a[t * rows + i / cols] * b[t * cols + i % cols];
        CHECK(c[i] == (float)sum);
    }
    free(a), free(b), free(a_panel), free(b_panel), free(c), free(scales);
}

int main(void) {
    for (size_t tokens = 1; tokens < 14; tokens++) {
        ternary(64, 64, tokens, 0);
        ternary(1, 3, tokens, 0);
        ternary(67, 133, tokens, 0);
        for (size_t cols = 1; cols <= 16; cols++) int8(tokens, 1 + cols % 6, cols, 0, 0);
    }
    ternary(3, 1 << 18, 2, 127);
    ternary(3, 1 << 18, 2, -128);
    int8(131071, 2, 3, -128, -128);
    int8(131071, 2, 3, -128, 127);
    int8(131071, 2, 3, 127, -128);
    puts("all checks passed");
    return 0;
}
