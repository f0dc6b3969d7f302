/* Products and k-means. */
#include "harness.h"

#include <string.h>

/* Packed bytes of any values: every byte is sound input to a product. */
static uint8_t *packed_matrix(size_t rows, size_t cols) {
    size_t n = round_up(rows, 64) / 64 * (round_up(cols, 16) / 16) * 256;
    uint8_t *packed = unset(n);
    for (size_t i = 0; i < n; i++) packed[i] = (uint8_t)(draw() & 0xAA);
    return packed;
}

static void panels(size_t outputs, size_t k, size_t tokens) {
    size_t x_stride = k + 3, y_stride = outputs + 2;
    uint8_t *block = packed_matrix(64, k), *panels = unset(64 * round_up(k, 16));
    RUN(ternary_panels, block, k, panels);
    for (size_t i = 0; i < 64 * round_up(k, 16); i++) panels[i] = (uint8_t)(draw() % 3);
    int8_t *x = bytes(tokens ? (tokens - 1) * x_stride + k : 0);
    float *x_scales = floats(tokens), *scales = floats(outputs), *one = floats(1);
    int32_t *sums = NEW(int32_t, tokens);
    for (size_t t = 0; t < tokens; t++) sums[t] = (int32_t)draw();
    size_t y_len = tokens && outputs ? (tokens - 1) * y_stride + outputs : 0;
    float *y = floats(y_len);
    int32_t *y_i32 = NEW(int32_t, y_len);
    RUN(panel_matmul, panels, outputs, k, x, x_stride, tokens, x_scales, sums, one, 0, y, y_stride);
    RUN(panel_matmul, panels, outputs, k, x, x_stride, tokens, x_scales, sums, scales, 1, y, y_stride);
    RUN(panel_matmul_i32, panels, outputs, k, x, x_stride, tokens, sums, y_i32, y_stride);
    free_all();
}

static void matrix(size_t rows, size_t cols) {
    uint8_t *packed = packed_matrix(rows, cols), *panels = unset(64 * round_up(rows, 16));
    int8_t *x = bytes(cols);
    float *scales = floats(rows), *one = floats(1), *y = floats(rows);
    int32_t *y_i32 = NEW(int32_t, rows);
    for (size_t c = 0; c < cols; c += 64) RUN(ternary_panels_transposed, packed, rows, cols, c, panels);
    RUN(ternary_matvec, packed, rows, cols, x, 0.5f, 17, one, 0, y);
    RUN(ternary_matvec, packed, rows, cols, x, 0.5f, 17, scales, 1, y);
    RUN(ternary_matvec_i32, packed, rows, cols, x, 17, y_i32);
    uint8_t *five = (uint8_t *)bytes(round_up(rows, 64) / 64 * (round_up(cols, 20) / 20) * 256);
    RUN(pack5_matvec, five, rows, cols, x, 0.5f, 17, one, 0, y);
    RUN(pack5_matvec, five, rows, cols, x, 0.5f, 17, scales, 1, y);
    RUN(pack5_matvec_i32, five, rows, cols, x, 17, y_i32);
    free_all();
}

static void direct(size_t rows, size_t cols, size_t tokens) {
    size_t x_stride = cols + 3, y_stride = rows + 2, y_len = tokens && rows ? (tokens - 1) * y_stride + rows : 0;
    uint8_t *packed = packed_matrix(rows, cols);
    int8_t *x = bytes(tokens ? (tokens - 1) * x_stride + cols : 0);
    float *x_scales = floats(tokens), *scales = floats(rows), *one = floats(1), *y = floats(y_len);
    int32_t *sums = NEW(int32_t, tokens), *y_i32 = NEW(int32_t, y_len);
    for (size_t t = 0; t < tokens; t++) sums[t] = (int32_t)draw();
    RUN(ternary_matmul, packed, rows, cols, x, x_stride, tokens, x_scales, sums, one, 0, y, y_stride);
    RUN(ternary_matmul, packed, rows, cols, x, x_stride, tokens, x_scales, sums, scales, 1, y, y_stride);
    RUN(ternary_matmul_i32, packed, rows, cols, x, x_stride, tokens, sums, y_i32, y_stride);
    free_all();
}

static void direct_transposed(size_t rows, size_t cols, size_t tokens) {
    size_t x_stride = rows + 3, y_stride = cols + 2;
    uint8_t *packed = packed_matrix(rows, cols);
    int8_t *x = bytes(tokens ? (tokens - 1) * x_stride + rows : 0);
    float *x_scales = floats(tokens), *y = floats(tokens && cols ? (tokens - 1) * y_stride + cols : 0);
    int32_t *sums = NEW(int32_t, tokens);
    for (size_t t = 0; t < tokens; t++) sums[t] = (int32_t)draw();
    RUN(ternary_matmul_transposed, packed, rows, cols, 0, cols, x, x_stride, tokens, x_scales, sums, y, y_stride);
    free_all();
}

static void q8_0(size_t rows, size_t blocks) {
    size_t cols = 32 * blocks;
    uint8_t *weights = (uint8_t *)bytes(rows * blocks * 34);
    int8_t *x = bytes(cols);
    float *x_scales = floats(blocks), *y = floats(rows);
    RUN(q8_0_matvec, weights, rows, cols, x, x_scales, y);
    free_all();
}

static void bf16_product(size_t tokens) {
    size_t geometry[3] = {0};
    RUN(bf16_geometry, geometry);
    if (!geometry[2]) return; /* this ISA leaves the family to a lower one */
    size_t pairs = (tokens + 1) / 2 * geometry[2];
    for (size_t rows = 0; rows <= geometry[0]; rows++)
        for (size_t cols = 0; cols <= geometry[1]; cols += cols < 4 ? 1 : 7) {
            size_t stride = (rows > cols ? rows : cols) + 3, c_stride = cols + 2;
            float *a = floats(tokens ? (tokens - 1) * stride + rows : 0), *factors = floats(tokens);
            int8_t *b = bytes(tokens ? (tokens - 1) * stride + cols : 0);
            uint8_t *a_panel = unset(geometry[0] * pairs), *b_panel = unset(geometry[1] * pairs);
            float *c = floats(rows && cols ? (rows - 1) * c_stride + cols : 0);
            RUN(bf16_pack_a, a, tokens, stride, factors, rows, a_panel);
            RUN(bf16_pack_b, b, tokens, stride, cols, b_panel);
            RUN(bf16_product, a_panel, b_panel, tokens, rows, cols, 0, c, c_stride);
            RUN(bf16_product, a_panel, b_panel, tokens, rows, cols, 1, c, c_stride);
            free_all();
        }
}

static void int8_product(size_t tokens) {
    size_t geometry[4] = {0};
    RUN(int8_geometry, geometry);
    size_t step = geometry[2];
    if (!step) return; /* this ISA leaves the family to a lower one */
    size_t widths[2] = {geometry[0], geometry[1]}, values = round_up(tokens, step) * geometry[3];
    for (size_t rows = 0; rows <= widths[0]; rows++)
        for (size_t cols = 0; cols <= widths[1]; cols += cols < 4 ? 1 : 7) {
            size_t stride = (rows > cols ? rows : cols) + 3, c_stride = cols + 2;
            int8_t *a = bytes(tokens ? (tokens - 1) * stride + rows : 0);
            int8_t *b = bytes(tokens ? (tokens - 1) * stride + cols : 0);
            uint8_t *a_panel = unset(widths[0] * (4 + values)), *b_panel = unset(widths[1] * (4 + values));
            /* No columns fill no panel, and the product adds up what it finds. */
            if (!rows) memset(a_panel, 0, widths[0] * (4 + values));
            if (!cols) memset(b_panel, 0, widths[1] * (4 + values));
            float *scales = floats(rows), *c = floats(rows && cols ? (rows - 1) * c_stride + cols : 0);
            RUN(int8_pack_a, a, tokens, stride, rows, a_panel);
            RUN(int8_pack_b, b, tokens, stride, cols, b_panel);
            size_t length = tokens + 3;
            RUN(int8_pack_a_rows, bytes(rows ? (rows - 1) * length + tokens : 0), tokens, length, rows, a_panel);
            RUN(int8_pack_b_rows, bytes(cols ? (cols - 1) * length + tokens : 0), tokens, length, cols, b_panel);
            for (int accumulate = 0; accumulate < 2; accumulate++)
                RUN(int8_product, a_panel, b_panel, tokens, rows, cols, scales, accumulate, c, c_stride);
            free_all();
        }
    for (size_t cols = 0; cols < 3 * widths[1]; cols += 11) {
        size_t panel = 4 + values, a_panels = (cols + widths[0] - 1) / widths[0], b_panels = (cols + widths[1] - 1) / widths[1];
        int8_t *x = bytes(tokens * cols);
        RUN(int8_pack_a, x, tokens, cols, cols, unset(a_panels * widths[0] * panel));
        RUN(int8_pack_b, x, tokens, cols, cols, unset(b_panels * widths[1] * panel));
        RUN(int8_pack_a_rows, x, tokens, tokens, cols, unset(a_panels * widths[0] * panel));
        RUN(int8_pack_b_rows, x, tokens, tokens, cols, unset(b_panels * widths[1] * panel));
        free_all();
    }
}

static void kmeans(size_t n, size_t dim, size_t k, size_t groups) {
    if (!find_kernel("hqk_kmeans_pack")) return; /* this ISA leaves the family to a lower one */
    static const uint32_t no_label = UINT32_MAX;
    float *points = floats(n * dim), *centroids = floats(k * dim), *packed = floats(k * dim), *half_norms = floats(k);
    float *norms = floats(n), *scratch = floats(16 + 32 * (dim + k)), *distances = floats(n), *moved = floats(k);
    float *upper = floats(n), *lower = floats(n), *group_lower = floats(groups > 1 ? n * groups : 0);
    float *group_moved = floats(groups), *centroid = floats(dim), *reach = floats(k);
    uint32_t *labels = NEW(uint32_t, n), *before = NEW(uint32_t, n), *rows = NEW(uint32_t, n);
    uint32_t *every_other = NEW(uint32_t, (n + 1) / 2);
    double max_norm = 0.0, *sums = NEW(double, k * dim);
    int64_t *counts = NEW(int64_t, k);
    uint8_t *touched = unset(k);
    size_t count = 0;
    for (size_t i = 0; i < k; i++) moved[i] = 0.0f, counts[i] = (int64_t)n;
    for (size_t i = 0; i < groups; i++) group_moved[i] = 0.0f;
    for (size_t i = 0; i < k * dim; i++) sums[i] = 0.0;
    for (size_t i = 0; i < n; i++) labels[i] = no_label, before[i] = i % 3 ? (uint32_t)(draw() % k) : no_label;
    for (size_t i = 0; i < n; i += 2) every_other[i / 2] = (uint32_t)i;
    RUN(kmeans_pack, centroids, k, dim, groups, packed, half_norms, &max_norm);
    RUN(kmeans_norms, points, n, dim, norms);
    hqk_kmeans_centroids to = {centroids, k, dim, groups, packed, half_norms, max_norm};
    hqk_kmeans_bounds bounds = {upper, lower, group_lower, moved, group_moved, 0.0f};
    RUN(kmeans_assign, points, norms, NULL, n, &to, &bounds, scratch, labels);
    RUN(kmeans_assign, points, norms, every_other, (n + 1) / 2, &to, &bounds, scratch, labels);
    RUN(kmeans_assign, points, norms, NULL, n, &to, NULL, scratch, labels);
    for (int measure = 0; measure < 2; measure++)
        RUN(kmeans_filter, points, n, &to, &bounds, labels, measure, rows, &count);
    RUN(kmeans_distances, points, n, dim, centroids, labels, distances);
    RUN(kmeans_nearer, points, n, dim, centroid, (uint32_t)(k - 1), reach, labels, distances);
    RUN(kmeans_move, points, n, dim, before, labels, sums, counts, touched);
    free_all();
}

void run_products(void) {
    static const size_t outputs[] = {0, 1, 2, 15, 16, 17, 31, 33, 63, 64};
    static const size_t lengths[] = {0, 1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 130, 257};
    static const size_t rows[] = {0, 1, 15, 16, 17, 63, 64, 65, 127, 131, 193};
    static const size_t few[] = {0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 65};
    for (size_t o = 0; o < COUNT(outputs); o++)
        for (size_t k = 0; k < COUNT(lengths); k++)
            for (size_t tokens = 0; tokens < 14; tokens++) panels(outputs[o], lengths[k], tokens);
    for (size_t r = 0; r < COUNT(rows); r++)
        for (size_t c = 0; c < COUNT(lengths); c++) {
            matrix(rows[r], lengths[c]);
            for (size_t tokens = 0; tokens < 14; tokens++) {
                direct(rows[r], lengths[c], tokens);
                direct_transposed(lengths[c], rows[r], tokens);
            }
        }
    for (size_t r = 0; r < COUNT(rows); r++)
        for (size_t blocks = 0; blocks < 10; blocks++) q8_0(rows[r], blocks);
    for (size_t i = 0; i < COUNT(few); i++) {
        int8_product(few[i]);
        bf16_product(few[i]);
        for (size_t d = 0; d < COUNT(few); d++)
            for (size_t k = 1; k < 40; k += k < 4 ? 1 : 12) {
                kmeans(few[i], few[d], k, 1);
                kmeans(few[i], few[d], k, (k + 2) / 3);
            }
    }
}
