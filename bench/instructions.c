/* One call of every kernel of an ISA (the argument), for callgrind to count; bench/instructions.sh builds and runs it. Prints a
 * line for each: name, shape, units of work. */
#define _GNU_SOURCE
#include <hqk.h>

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *isa;

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!memory) exit(1);
    return memset(memory, 0, bytes);
}

static uint32_t draw(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static float *floats(size_t n) {
    float *x = allocate(4 * n);
    for (size_t i = 0; i < n; i++) x[i] = (float)(draw() % 4001) / 1000.0f - 2.0f;
    return x;
}

static int8_t *bytes(size_t n) {
    int8_t *x = allocate(n);
    for (size_t i = 0; i < n; i++) x[i] = (int8_t)draw();
    return x;
}

static void *find(const char *kernel) {
    char name[96];
    snprintf(name, sizeof name, "hqk_%s_%s", kernel, isa);
    return dlsym(RTLD_DEFAULT, name);
}

#define COUNT(kernel, shape, work, ...)                                               \
    do {                                                                              \
        __typeof__(&hqk_##kernel##_portable) call = (__typeof__(call))find(#kernel);  \
        if (call) call(__VA_ARGS__), printf("%s;%s;%zu\n", #kernel, shape, (size_t)(work)); \
    } while (0)

enum { N = 4096, ROWS = 64, COLS = 320, AREA = ROWS * COLS, TOKENS = 12, POINTS = 128, DIM = 64, K = 48 };

static void elements(void) {
    float *x = floats(N), *y = floats(N), *z = floats(N), *u = floats(N), *v = floats(N);
    double sums[8];
    const uint32_t key[2] = {1, 2};
    for (size_t i = 0; i < N; i++) v[i] = v[i] * v[i];
    COUNT(abs_sum, "4096", N, x, N, sums);
    COUNT(sum_squares, "4096", N, x, N, sums);
    COUNT(abs_and_square_sums, "4096", N, x, N, sums);
    COUNT(dot, "4096", N, x, y, N, sums);
    COUNT(dot_i8, "4096", N, bytes(N), y, N, sums);
    COUNT(scale, "4096", N, z, N, 0.5f);
    const hqk_adamw_settings adamw = {0.1f, 0.99f, 0.01f, 1e-8f, 1.5f, 1.5f, 1.6f, 1.6f, 0.1f};
    COUNT(adamw_moments, "4096", N, x, y, N, &adamw, u, v, sums);
    COUNT(adamw_apply, "4096", N, x, u, v, N, &adamw, 0.99f, 1e-3f, y);
    const hqk_sgd_settings sgd = {0.9f, 0.01f, 10.0f, 0.1f};
    COUNT(sgd_velocity, "4096", N, x, y, N, &sgd, u, sums);
    COUNT(sgd_apply, "4096", N, x, u, N, &sgd, 1e-3f, y);
    COUNT(exp_values, "4096", N, x, N, z);
    COUNT(log_values, "4096", N, v, N, z);
    COUNT(tanh_values, "4096", N, x, N, z);
    COUNT(sigmoid_values, "4096", N, x, N, z);
    COUNT(gelu, "4096", N, x, N, z);
    COUNT(gelu_backward, "4096", N, x, y, N, z);
    COUNT(silu_gate, "4096", N, x, y, N, z);
    COUNT(silu_gate_backward, "4096", N, x, y, u, N, z, v);
    COUNT(relu2, "4096", N, x, N, z);
    COUNT(relu2_backward, "4096", N, x, y, N, z);
    COUNT(relu2_gate, "4096", N, x, y, N, z);
    COUNT(relu2_gate_backward, "4096", N, x, y, u, N, z, v);
    COUNT(dropout, "4096", N, x, N, key, 3, 4, 0, 1u << 30, 1.25f, z);
}

static void row_kernels(void) {
    float *x = floats(AREA), *dy = floats(AREA), *y = floats(AREA), *gain = floats(COLS), *bias = floats(COLS);
    float *inverses = floats(2 * ROWS), *scales = floats(COLS), *of_gain = floats(COLS), *of_bias = floats(COLS);
    float *factors = floats(ROWS), *losses = floats(ROWS);
    int8_t *values = bytes(AREA);
    int32_t *sums = allocate(4 * ROWS);
    uint32_t *targets = allocate(4 * ROWS);
    const uint32_t draws[4] = {1, 2, 3, 4};
    COUNT(quantize_rows, "64 x 320", AREA, x, ROWS, COLS, values, scales, sums);
    COUNT(quantize_rows_stochastic, "64 x 320", AREA, x, ROWS, COLS, 0, draws, values, scales, sums);
    COUNT(column_scales, "64 x 320", AREA, x, ROWS, COLS, COLS, factors, scales);
    for (size_t i = 0; i < COLS; i++) scales[i] = 0.01f;
    COUNT(quantize_columns_stochastic, "64 x 320", AREA, x, ROWS, COLS, 0, factors, scales, draws, values);
    float *of_rows = floats(ROWS), *of_columns = floats(COLS);
    COUNT(gradient_maxima, "64 x 320", AREA, x, ROWS, COLS, factors, gain, of_rows, of_columns);
    COUNT(quantize_gradient, "64 x 320", AREA, x, ROWS, COLS, COLS, 0, factors, gain, of_rows, scales, draws, values,
          bytes(AREA), sums);
    COUNT(rms_norm_rows, "64 x 320", AREA, x, gain, ROWS, COLS, 1e-5f, y, inverses);
    COUNT(rms_norm_quantize_rows, "64 x 320", AREA, x, gain, ROWS, COLS, 1e-5f, values, scales, sums, inverses);
    COUNT(rms_norm_backward_rows, "64 x 320", AREA, x, gain, inverses, dy, ROWS, COLS, y, of_gain);
    COUNT(layer_norm_rows, "64 x 320", AREA, x, gain, bias, ROWS, COLS, 1e-5f, y, inverses);
    COUNT(layer_norm_backward_rows, "64 x 320", AREA, x, gain, inverses, dy, ROWS, COLS, y, of_gain, of_bias);
    COUNT(cross_entropy_losses_rows, "64 x 320", AREA, x, ROWS, COLS, targets, losses);
    COUNT(cross_entropy_rows, "64 x 320", AREA, x, ROWS, COLS, targets, 0.1f, losses);
    enum { LENGTH = 64, HEAD = 64 };
    const hqk_attention_shape shape = {LENGTH, LENGTH, HEAD, 0, LENGTH, 1, 0.125f, HEAD, HEAD, HEAD, HEAD};
    float *q = floats(LENGTH * HEAD), *k = floats(LENGTH * HEAD), *v = floats(LENGTH * HEAD);
    float *d = floats(LENGTH * HEAD), *dq = floats(LENGTH * HEAD), *dk = floats(LENGTH * HEAD);
    float *dv = floats(LENGTH * HEAD), *scratch = floats(2 * (HEAD + 24) * LENGTH);
    COUNT(attention_forward, "64 x 64 causal", LENGTH * LENGTH * HEAD, &shape, q, k, v, scratch, y);
    COUNT(attention_backward, "64 x 64 causal", LENGTH * LENGTH * HEAD, &shape, q, k, v, d, scratch, dq, dk, dv);
}

static void packing(void) {
    enum { BLOCKS = AREA / 256 };
    float *x = floats(AREA), *y = floats(AREA);
    const float thresholds[2] = {0.5f, 1.5f};
    int8_t *trits = bytes(AREA);
    for (size_t i = 0; i < AREA; i++) trits[i] = (int8_t)(draw() % 3) - 1;
    uint8_t *packed = allocate(AREA), *other = allocate(AREA);
    size_t found;
    double kept;
    COUNT(ternary_pack, "64 x 320", AREA, trits, ROWS, COLS, packed);
    COUNT(ternary_quantize_pack, "64 x 320", AREA, x, ROWS, COLS, thresholds, 0, packed);
    COUNT(ternary_quantize_pack_sum, "64 x 320", AREA, x, ROWS, COLS, thresholds, 0, packed, &kept);
    memset(packed, 0x49, AREA);
    COUNT(ternary_unpack, "64 x 320", AREA, packed, ROWS, COLS, trits);
    COUNT(ternary_count_changed, "64 x 320", AREA, packed, other, AREA / 4, &found);
    COUNT(ternary_count_nonzero, "64 x 320", AREA, packed, AREA / 4, &found);
    COUNT(ternary_find_invalid, "64 x 320", AREA, packed, AREA / 4, &found);
    COUNT(pack5, "64 x 320", AREA, trits, ROWS, COLS, packed);
    COUNT(unpack5, "64 x 320", AREA, packed, ROWS, COLS, trits);
    COUNT(five_level_quantize_pack, "64 x 320", AREA, x, ROWS, COLS, thresholds, 0, packed);
    COUNT(five_level_pack, "64 x 320", AREA, trits, ROWS, COLS, packed);
    memset(packed, 0, AREA);
    COUNT(five_level_unpack, "64 x 320", AREA, packed, ROWS, COLS, trits);
    COUNT(five_level_find_invalid, "64 x 320", AREA, packed, COLS / 16, &found);
    COUNT(tq1_0_quantize, "80 blocks", AREA, x, BLOCKS, packed);
    COUNT(tq1_0_pack, "80 blocks", AREA, trits, thresholds, 0, BLOCKS, packed);
    COUNT(tq1_0_unpack, "80 blocks", AREA, packed, BLOCKS, trits, y);
    COUNT(tq1_0_dequantize, "80 blocks", AREA, packed, BLOCKS, y);
    COUNT(tq2_0_quantize, "80 blocks", AREA, x, BLOCKS, packed);
    COUNT(tq2_0_pack, "80 blocks", AREA, trits, thresholds, 0, BLOCKS, packed);
    COUNT(tq2_0_unpack, "80 blocks", AREA, packed, BLOCKS, trits, y);
    COUNT(tq2_0_dequantize, "80 blocks", AREA, packed, BLOCKS, y);
}

static void products(void) {
    uint8_t *packed = allocate(AREA), *panels = allocate(AREA), *five = allocate(AREA);
    for (size_t i = 0; i < AREA; i++) packed[i] = 0x49, panels[i] = (uint8_t)(i % 3), five[i] = (uint8_t)i;
    int8_t *x = bytes(TOKENS * COLS);
    float *x_scales = floats(TOKENS), *y = floats(TOKENS * COLS);
    int32_t *sums = allocate(4 * TOKENS), *y_i32 = allocate(4 * TOKENS * COLS);
    const float one = 1.0f;
    COUNT(ternary_matvec, "64 x 320", AREA, packed, ROWS, COLS, x, 0.5f, 1, &one, 0, y);
    COUNT(ternary_matvec_i32, "64 x 320", AREA, packed, ROWS, COLS, x, 1, y_i32);
    COUNT(pack5_matvec, "64 x 320", AREA, five, ROWS, COLS, x, 0.5f, 1, &one, 0, y);
    COUNT(pack5_matvec_i32, "64 x 320", AREA, five, ROWS, COLS, x, 1, y_i32);
    COUNT(ternary_panels, "64 x 320", AREA, packed, COLS, panels);
    COUNT(ternary_panels_transposed, "64 x 64", 64 * 64, packed, ROWS, COLS, 0, panels);
    COUNT(panel_matmul, "12 tokens, 64 x 320", TOKENS * AREA, panels, ROWS, COLS, x, COLS, TOKENS, x_scales, sums, &one, 0, y,
          ROWS);
    COUNT(panel_matmul_i32, "12 tokens, 64 x 320", TOKENS * AREA, panels, ROWS, COLS, x, COLS, TOKENS, sums, y_i32, ROWS);
    COUNT(ternary_matmul, "12 tokens, 64 x 320", TOKENS * AREA, packed, ROWS, COLS, x, COLS, TOKENS, x_scales, sums, &one, 0,
          y, ROWS);
    COUNT(ternary_matmul_transposed, "12 tokens, 64 x 320", TOKENS * AREA, packed, ROWS, COLS, 0, COLS, x, ROWS, TOKENS,
          x_scales, sums, y, COLS);
    COUNT(ternary_matmul_i32, "12 tokens, 64 x 320", TOKENS * AREA, packed, ROWS, COLS, x, COLS, TOKENS, sums, y_i32, ROWS);
    size_t shape[4] = {0};
    void (*geometry)(size_t *) = (void (*)(size_t *))find("int8_geometry");
    if (!geometry) return; /* this ISA leaves the family to a lower one */
    geometry(shape);
    enum { STRIDE = 64, LENGTH = 256 };
    int8_t *a = bytes(LENGTH * STRIDE);
    uint8_t *left = allocate(shape[0] * (4 + LENGTH * shape[3])), *right = allocate(shape[1] * (4 + LENGTH * shape[3]));
    float *scales = floats(shape[0]), *c = floats(shape[0] * STRIDE);
    char panel[48];
    snprintf(panel, sizeof panel, "256 tokens x %zu x %zu", shape[0], shape[1]);
    COUNT(int8_pack_a, panel, LENGTH * shape[0], a, LENGTH, STRIDE, shape[0], left);
    COUNT(int8_pack_b, panel, LENGTH * shape[1], a, LENGTH, STRIDE, shape[1], right);
    int8_t *lines = bytes(LENGTH * (shape[0] + shape[1]));
    COUNT(int8_pack_a_rows, panel, LENGTH * shape[0], lines, LENGTH, LENGTH, shape[0], left);
    COUNT(int8_pack_b_rows, panel, LENGTH * shape[1], lines, LENGTH, LENGTH, shape[1], right);
    COUNT(int8_product, panel, LENGTH * shape[0] * shape[1], left, right, LENGTH, shape[0], shape[1], scales, 0, c, STRIDE);
}

static void clusters(void) {
    void (*pack)(const float *, size_t, size_t, size_t, float *, float *, double *) =
        (void (*)(const float *, size_t, size_t, size_t, float *, float *, double *))find("kmeans_pack");
    if (!pack) return; /* this ISA leaves the family to a lower one */
    float *points = floats(POINTS * DIM), *centroids = floats(K * DIM), *packed = floats(K * DIM), *half_norms = floats(K);
    float *norms = floats(POINTS), *scratch = floats(16 + 32 * (DIM + K)), *distances = floats(POINTS), *reach = floats(K);
    float *upper = floats(POINTS), *lower = floats(POINTS), *moved = allocate(4 * K), group_moved = 0.0f;
    uint32_t *labels = allocate(4 * POINTS), *before = allocate(4 * POINTS), *rows = allocate(4 * POINTS);
    double max_norm = 0.0, *sums = allocate(8 * K * DIM);
    int64_t *counts = allocate(8 * K);
    uint8_t *touched = allocate(K);
    size_t count;
    for (size_t i = 0; i < POINTS; i++) before[i] = (uint32_t)(i % K), labels[i] = UINT32_MAX;
    COUNT(kmeans_pack, "48 x 64", K * DIM, centroids, K, DIM, 1, packed, half_norms, &max_norm);
    COUNT(kmeans_norms, "128 x 64", POINTS * DIM, points, POINTS, DIM, norms);
    pack(centroids, K, DIM, 1, packed, half_norms, &max_norm);
    for (size_t i = 0; i < POINTS; i++) {
        double sum = 0.0;
        for (size_t d = 0; d < DIM; d++) sum += (double)points[i * DIM + d] * points[i * DIM + d];
        norms[i] = (float)sum;
    }
    const hqk_kmeans_centroids to = {centroids, K, DIM, 1, packed, half_norms, max_norm};
    const hqk_kmeans_bounds bounds = {upper, lower, NULL, moved, &group_moved, 0.0f};
    COUNT(kmeans_assign, "128 x 64, k 48", POINTS * DIM * K, points, norms, NULL, POINTS, &to, NULL, scratch, labels);
    COUNT(kmeans_filter, "128 x 64, k 48", POINTS * DIM, points, POINTS, &to, &bounds, before, 1, rows, &count);
    COUNT(kmeans_distances, "128 x 64", POINTS * DIM, points, POINTS, DIM, centroids, before, distances);
    COUNT(kmeans_nearer, "128 x 64", POINTS * DIM, points, POINTS, DIM, centroids, 1, reach, before, distances);
    COUNT(kmeans_move, "128 x 64", POINTS * DIM, points, POINTS, DIM, labels, before, sums, counts, touched);
}

int main(int count, char **names) {
    if (count != 2) return 2;
    isa = names[1];
    elements();
    row_kernels();
    packing();
    products();
    clusters();
    return 0;
}
