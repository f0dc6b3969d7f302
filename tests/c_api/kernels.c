/* Multiplies packed ternary weights, quantizes, clips and clusters through libhybridq, and checks the results against
 * plain loops. Also: what wrong arguments give. */
#include <hybridq.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, hq_last_error()); \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)

/* A small generator of our own: numbers in [-1, 1). */
static float draw(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state / 2147483648.0f;
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    CHECK(memory != NULL);
    return memory;
}

/* Y = X * W^T with packed ternary weights against a double loop over the unpacked ones. */
static void multiply(const hq_context *context, size_t tokens, size_t rows, size_t cols) {
    uint32_t state = 7;
    float *weights = allocate(rows * cols * sizeof *weights), *x = allocate(tokens * cols * sizeof *x);
    for (size_t i = 0; i < rows * cols; i++) weights[i] = draw(&state);
    for (size_t i = 0; i < tokens * cols; i++) x[i] = draw(&state);

    size_t packed_bytes = 0;
    CHECK(hq_ternary_packed_bytes(rows, cols, &packed_bytes) == HQ_OK);
    uint8_t *packed = allocate(packed_bytes);
    float *scales = allocate(rows * sizeof *scales);
    CHECK(hq_ternary_pack(context, weights, rows, cols, HQ_SCALE_PER_ROW, packed, packed_bytes, scales, rows) == HQ_OK);
    int8_t *trits = allocate(rows * cols);
    CHECK(hq_ternary_unpack(context, packed, packed_bytes, rows, cols, trits) == HQ_OK);

    int8_t *values = allocate(tokens * cols);
    float *x_scales = allocate(tokens * sizeof *x_scales);
    int32_t *x_sums = allocate(tokens * sizeof *x_sums);
    CHECK(hq_quantize_rows(context, x, tokens, cols, values, x_scales, x_sums) == HQ_OK);
    float *y = allocate(tokens * rows * sizeof *y);
    CHECK(hq_ternary_matmul(context, packed, packed_bytes, rows, cols, scales, rows, values, x_scales, x_sums, tokens,
                            y) == HQ_OK);
    for (size_t t = 0; t < tokens; t++) {
        for (size_t o = 0; o < rows; o++) {
            long sum = 0;
            for (size_t k = 0; k < cols; k++) sum += (long)values[t * cols + k] * trits[o * cols + k];
            double expected = (double)sum * x_scales[t] * scales[o];
            CHECK(fabs(y[t * rows + o] - expected) <= 1e-5 * fabs(expected) + 1e-7);
        }
    }
    free(weights), free(x), free(packed), free(scales), free(trits), free(values), free(x_scales), free(x_sums), free(y);
}

static void clip(const hq_context *context) {
    float gradient[5] = {3.0f, -4.0f, 0.0f, 0.0f, 0.0f};
    double norm = 0.0;
    CHECK(hq_clip_norm(context, gradient, 5, 1.0, &norm) == HQ_OK);
    CHECK(fabs(norm - 5.0) < 1e-12);
    CHECK(fabsf(gradient[0] - 0.6f) < 1e-6f && fabsf(gradient[1] + 0.8f) < 1e-6f);
    gradient[2] = NAN;
    CHECK(hq_clip_norm(context, gradient, 5, 1.0, &norm) == HQ_NOT_FINITE);
    CHECK(strstr(hq_last_error(), "2") != NULL);
}

static void cluster(const hq_context *context) {
    enum { POINTS = 300, DIM = 3, K = 3 };
    float points[POINTS * DIM];
    uint32_t state = 3;
    for (int i = 0; i < POINTS; i++)
        for (int d = 0; d < DIM; d++) points[i * DIM + d] = 10.0f * (float)(i % K) + 0.1f * draw(&state);
    hq_kmeans *kmeans = NULL;
    CHECK(hq_kmeans_fit(context, points, POINTS, DIM, K, 42, &kmeans) == HQ_OK);
    uint32_t labels[POINTS];
    CHECK(hq_kmeans_predict(kmeans, context, points, POINTS, labels) == HQ_OK);
    for (int i = K; i < POINTS; i++) CHECK(labels[i] == labels[i % K]);
    double inertia = -1.0;
    CHECK(hq_kmeans_inertia(kmeans, &inertia) == HQ_OK && inertia >= 0.0 && inertia < POINTS * DIM * 0.01);
    printf("k-means: %d points, %d clusters, inertia %.3f\n", POINTS, K, inertia);
    float centroids[K * DIM];
    CHECK(hq_kmeans_centroids(kmeans, centroids) == HQ_OK);
    hq_kmeans_free(kmeans);
    uint32_t fitted[POINTS];
    size_t iterations = 0;
    CHECK(hq_kmeans_fit_from(context, points, POINTS, DIM, K, centroids, 10, true, &kmeans) == HQ_OK);
    CHECK(hq_kmeans_labels(kmeans, fitted) == HQ_OK && memcmp(fitted, labels, sizeof fitted) == 0);
    CHECK(hq_kmeans_iterations(kmeans, &iterations) == HQ_OK && iterations == 1);
    hq_kmeans_free(kmeans);
    CHECK(hq_kmeans_fit(context, points, 2, DIM, K, 42, &kmeans) == HQ_INVALID_VALUE);
    CHECK(hq_kmeans_fit(context, points, POINTS, 0, K, 42, &kmeans) == HQ_INVALID_VALUE);
    CHECK(hq_kmeans_fit(context, points, POINTS, DIM, 0, 42, &kmeans) == HQ_INVALID_VALUE);
    CHECK(hq_kmeans_fit_from(context, points, POINTS, DIM, K, centroids, 0, true, &kmeans) == HQ_INVALID_VALUE);
    centroids[3] = NAN;
    CHECK(hq_kmeans_fit_from(context, points, POINTS, DIM, K, centroids, 10, true, &kmeans) == HQ_NOT_FINITE);
}

static void wrong_arguments(hq_context *context) {
    size_t bytes = 0;
    float values[4] = {1, 2, 3, 4};
    uint8_t packed[256];
    float scale;
    CHECK(hq_ternary_packed_bytes(2, 2, NULL) == HQ_NULL_POINTER);
    CHECK(hq_ternary_packed_bytes(SIZE_MAX, SIZE_MAX, &bytes) == HQ_SHAPE);
    CHECK(hq_ternary_pack(NULL, values, 2, 2, HQ_SCALE_PER_TENSOR, packed, 256, &scale, 1) == HQ_NULL_POINTER);
    CHECK(hq_ternary_pack(context, NULL, 2, 2, HQ_SCALE_PER_TENSOR, packed, 256, &scale, 1) == HQ_NULL_POINTER);
    CHECK(hq_ternary_pack(context, values, 2, 2, HQ_SCALE_PER_TENSOR, packed, 255, &scale, 1) == HQ_SHAPE);
    CHECK(hq_ternary_pack(context, values, 2, 2, HQ_SCALE_PER_ROW, packed, 256, &scale, 1) == HQ_SHAPE);
    CHECK(hq_ternary_pack(context, values, 2, 2, 77, packed, 256, &scale, 1) == HQ_INVALID_VALUE);
    values[3] = INFINITY;
    CHECK(hq_ternary_pack(context, values, 2, 2, HQ_SCALE_PER_TENSOR, packed, 256, &scale, 1) == HQ_NOT_FINITE);
    printf("an error reads: %s\n", hq_last_error());
    int8_t trits[4];
    memset(packed, 0x55, sizeof packed);
    CHECK(hq_ternary_unpack(context, packed, 255, 2, 2, trits) == HQ_SHAPE);
    CHECK(hq_ternary_unpack(context, packed, 256, 2, 2, NULL) == HQ_NULL_POINTER);
    packed[77] = 0xD5;
    CHECK(hq_ternary_unpack(context, packed, 256, 2, 2, trits) == HQ_INVALID_VALUE);
    CHECK(strstr(hq_last_error(), "byte 77") != NULL);
    CHECK(hq_quantize_rows(context, values, SIZE_MAX, 2, trits, &scale, NULL) == HQ_SHAPE);
    double norm = 0.0;
    CHECK(hq_clip_norm(context, values, 4, 0.0, &norm) == HQ_INVALID_VALUE);
    CHECK(hq_clip_norm(context, values, 4, 1.0, &norm) == HQ_NOT_FINITE && strstr(hq_last_error(), "element 3"));
    CHECK(hq_clip_norm(context, values, 4, 1.0, NULL) == HQ_NULL_POINTER);
    CHECK(hq_norm(context, NULL, 4, &norm) == HQ_NULL_POINTER);
    hq_kmeans_free((hq_kmeans *)NULL);
    hq_context_free(NULL);
    hq_context_options options = {0};
    hq_context *other = NULL;
    CHECK(hq_context_new(&options, &other) == HQ_INVALID_VALUE && other == NULL);
    options.struct_size = sizeof options;
    options.isa = "no-such-isa";
    CHECK(hq_context_new(&options, &other) == HQ_INVALID_VALUE && other == NULL);
    double inertia;
    CHECK(hq_kmeans_inertia((hq_kmeans *)context, &inertia) == HQ_WRONG_HANDLE);
}

int main(void) {
    CHECK(hq_abi_version() == HYBRIDQ_ABI_VERSION);
    hq_context *context = NULL;
    CHECK(hq_context_new(NULL, &context) == HQ_OK);
    printf("libhybridq %s, %u threads, %s\n", hq_version(), hq_context_threads(context), hq_context_isa(context));
    multiply(context, 5, 67, 131);
    multiply(context, 1, 256, 512);
    multiply(context, 0, 3, 3);
    clip(context);
    cluster(context);
    wrong_arguments(context);
    hq_context_free(context);
    puts("all checks passed");
    return 0;
}
