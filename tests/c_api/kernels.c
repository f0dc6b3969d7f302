/* Multiplies packed ternary weights, quantizes, clips and clusters through libhybridq, and checks the results against
 * plain loops. Also: what wrong arguments give. */
#include "check.h"
#include <hybridq.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    /* The same weights at 1.6 bits: one token gives the same bits. */
    size_t five_bytes = 0;
    CHECK(hq_five_trits_bytes(rows, cols, &five_bytes) == HQ_OK);
    uint8_t *five = allocate(five_bytes);
    CHECK(hq_five_trits_pack(context, trits, rows, cols, five, five_bytes) == HQ_OK);
    float *one = allocate(rows * sizeof *one);
    if (tokens > 0) {
        CHECK(hq_five_trits_matvec(context, five, five_bytes, rows, cols, scales, rows, values, x_scales[0], x_sums[0],
                                   one) == HQ_OK);
        CHECK(memcmp(one, y, rows * sizeof *one) == 0);
    }
    free(five), free(one);
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
    hq_kmeans_options options = {0};
    options.struct_size = sizeof options;
    options.clusters = K;
    options.seed = 42;
    hq_kmeans *kmeans = NULL;
    CHECK(hq_kmeans_fit(context, &options, points, POINTS, DIM, &kmeans) == HQ_OK);
    uint32_t labels[POINTS], again[POINTS];
    CHECK(hq_kmeans_predict(kmeans, context, points, POINTS, labels) == HQ_OK);
    for (int i = K; i < POINTS; i++) CHECK(labels[i] == labels[i % K]);
    hq_kmeans_info info = {0};
    info.struct_size = sizeof info;
    CHECK(hq_kmeans_get_info(kmeans, &info) == HQ_OK && info.inertia >= 0.0 && info.inertia < POINTS * DIM * 0.01);
    CHECK(info.points == POINTS && info.dim == DIM && info.clusters == K && info.converged == 1);
    /* From the centroids found, without pruning, the first iteration changes nothing. */
    float found[K * DIM];
    hq_kmeans *from = NULL;
    CHECK(hq_kmeans_centroids(kmeans, found, K * DIM) == HQ_OK);
    options.no_pruning = 1;
    CHECK(hq_kmeans_fit_from(context, &options, found, points, POINTS, DIM, &from) == HQ_OK);
    CHECK(hq_kmeans_labels(from, again, POINTS) == HQ_OK && memcmp(labels, again, sizeof labels) == 0);
    hq_kmeans_free(from);
    /* The two kernels do one iteration by hand: the centroids stay where they are. */
    float centroids[K * DIM], distances[POINTS];
    double sums[K * DIM];
    int64_t counts[K];
    CHECK(hq_kmeans_centroids(kmeans, centroids, K * DIM) == HQ_OK);
    CHECK(hq_kmeans_assign(context, points, POINTS, DIM, centroids, K, again, distances) == HQ_OK);
    CHECK(memcmp(labels, again, sizeof labels) == 0);
    CHECK(hq_kmeans_sums(context, points, POINTS, DIM, labels, K, sums, counts) == HQ_OK);
    for (int i = 0; i < K * DIM; i++) CHECK(fabs(sums[i] / (double)counts[i / DIM] - centroids[i]) < 1e-5);
    printf("k-means: %d points, %d clusters, inertia %.3f\n", POINTS, K, info.inertia);
    hq_kmeans_free(kmeans);
    CHECK(hq_kmeans_fit(context, &options, points, 2, DIM, &kmeans) == HQ_INVALID_VALUE);
    CHECK(hq_kmeans_fit(context, &options, points, POINTS, 0, &kmeans) == HQ_INVALID_VALUE);
    centroids[3] = NAN;
    CHECK(hq_kmeans_fit_from(context, &options, centroids, points, POINTS, DIM, &kmeans) == HQ_NOT_FINITE);
    options.clusters = 0;
    CHECK(hq_kmeans_fit(context, &options, points, POINTS, DIM, &kmeans) == HQ_INVALID_VALUE);
}

/* Every grid: quantize, store, read back, dequantize. */
static void grids(const hq_context *context) {
    enum { ROWS = 7, COLS = 33, COUNT = ROWS * COLS };
    float weights[COUNT], values[COUNT], again[COUNT], scales[COUNT];
    int8_t codes[COUNT], read_back[COUNT];
    uint8_t dense[COUNT];
    uint32_t state = 11;
    for (int i = 0; i < COUNT; i++) weights[i] = draw(&state);
    for (uint32_t precision = HQ_PRECISION_TERNARY; precision <= HQ_PRECISION_INT2; precision++) {
        for (uint32_t granularity = HQ_SCALE_PER_TENSOR; granularity <= HQ_SCALE_PER_GROUP; granularity++) {
            hq_quantizer quantizer = {0};
            quantizer.struct_size = sizeof quantizer;
            quantizer.precision = precision;
            quantizer.granularity = granularity;
            quantizer.group_size = 10;
            size_t count = 0, bytes = 0;
            CHECK(hq_scale_count(&quantizer, ROWS, COLS, &count) == HQ_OK);
            CHECK(count == (granularity == HQ_SCALE_PER_TENSOR ? 1 : granularity == HQ_SCALE_PER_ROW ? ROWS : 4 * ROWS));
            CHECK(hq_quantize(context, &quantizer, weights, ROWS, COLS, codes, scales, count, values) == HQ_OK);
            CHECK(hq_codes_bytes(precision, COUNT, &bytes) == HQ_OK && bytes <= COUNT);
            CHECK(hq_codes_pack(precision, codes, COUNT, dense, bytes) == HQ_OK);
            CHECK(hq_codes_unpack(precision, dense, bytes, COUNT, read_back) == HQ_OK);
            CHECK(memcmp(codes, read_back, sizeof codes) == 0);
            CHECK(hq_dequantize(context, &quantizer, codes, scales, count, ROWS, COLS, again) == HQ_OK);
            CHECK(memcmp(values, again, sizeof values) == 0);
            double error = 0.0, power = 0.0;
            for (int i = 0; i < COUNT; i++) error += pow(values[i] - weights[i], 2), power += pow(weights[i], 2);
            CHECK(error < 0.6 * power);
        }
    }
    uint8_t five[4096];
    size_t bytes = 0;
    hq_quantizer ternary = {0};
    ternary.struct_size = sizeof ternary;
    CHECK(hq_quantize(context, &ternary, weights, ROWS, COLS, codes, scales, 1, NULL) == HQ_OK);
    CHECK(hq_five_trits_bytes(ROWS, COLS, &bytes) == HQ_OK && bytes <= sizeof five);
    CHECK(hq_five_trits_pack(context, codes, ROWS, COLS, five, bytes) == HQ_OK);
    CHECK(hq_five_trits_unpack(context, five, bytes, ROWS, COLS, read_back) == HQ_OK);
    CHECK(memcmp(codes, read_back, sizeof codes) == 0);
    codes[5] = 2;
    CHECK(hq_five_trits_pack(context, codes, ROWS, COLS, five, bytes) == HQ_INVALID_VALUE);
    CHECK(strstr(hq_last_error(), "trits[5]") != NULL);
}

/* Products and row kernels against plain loops. */
static void products(const hq_context *context) {
    enum { M = 5, N = 4, K = 9 };
    float a[M * K], b[K * N], c[M * N], p[M * N], losses[M], gain[N], inverses[M];
    uint32_t state = 5;
    for (int i = 0; i < M * K; i++) a[i] = draw(&state);
    for (int i = 0; i < K * N; i++) b[i] = draw(&state);
    CHECK(hq_matmul(context, M, N, K, a, false, b, false, false, c) == HQ_OK);
    for (int i = 0; i < M * N; i++) {
        double sum = 0.0;
        for (int k = 0; k < K; k++) sum += (double)a[i / N * K + k] * b[k * N + i % N];
        CHECK(fabs(sum - c[i]) < 1e-5);
    }
    /* Cross entropy: the gradient of each row sums to 0, the loss is that of plain loops. */
    const uint32_t targets[M] = {0, 1, 2, 3, 0};
    memcpy(p, c, sizeof c);
    CHECK(hq_cross_entropy_rows(context, p, M, N, targets, 1.0f, losses) == HQ_OK);
    for (int row = 0; row < M; row++) {
        double sum = 0.0, total = 0.0;
        for (int i = 0; i < N; i++) sum += p[row * N + i], total += exp(c[row * N + i]);
        CHECK(fabs(sum) < 1e-5 && fabs(losses[row] - (log(total) - c[row * N + (int)targets[row]])) < 1e-5);
    }
    for (int i = 0; i < N; i++) gain[i] = 1.0f;
    CHECK(hq_rms_norm_rows(context, c, M, N, gain, 1e-6f, p, inverses) == HQ_OK);
    for (int row = 0; row < M; row++) {
        double squares = 0.0;
        for (int i = 0; i < N; i++) squares += (double)p[row * N + i] * p[row * N + i];
        CHECK(fabs(squares / N - 1.0) < 1e-3);
    }
    int8_t left[K * M], right[K * N];
    float ones[M];
    for (int i = 0; i < K * M; i++) left[i] = (int8_t)(127.0f * draw(&state));
    for (int i = 0; i < K * N; i++) right[i] = (int8_t)(127.0f * draw(&state));
    for (int i = 0; i < M; i++) ones[i] = 1.0f;
    CHECK(hq_int8_matmul_tn(context, left, right, K, M, N, ones, false, c) == HQ_OK);
    for (int i = 0; i < M * N; i++) {
        int sum = 0;
        for (int k = 0; k < K; k++) sum += left[k * M + i / N] * right[k * N + i % N];
        CHECK(c[i] == (float)sum);
    }
}

typedef struct {
    int count;
    char last[200];
} log_lines;

static void keep_line(uint32_t level, const char *message, void *user_data) {
    log_lines *lines = user_data;
    CHECK(level == HQ_LOG_WARNING);
    lines->count++;
    snprintf(lines->last, sizeof lines->last, "%s", message);
}

/* Structs of an older program (shorter) and of a newer one (longer). */
static void struct_sizes(void) {
    struct {
        hq_context_options known;
        uint64_t unknown[2];
    } newer = {{0}, {0, 0}};
    hq_context *context = NULL;
    newer.known.struct_size = sizeof newer;
    newer.known.threads = 1;
    CHECK(hq_context_new(&newer.known, &context) == HQ_OK && hq_context_threads(context) == 1);
    hq_context_free(context);
    context = NULL;
    newer.unknown[1] = 1; /* asks for something this library does not know */
    CHECK(hq_context_new(&newer.known, &context) == HQ_INVALID_VALUE && context == NULL);
    /* 16 bytes: struct_size, threads, isa. What follows is not the library's to read. */
    hq_context_options older;
    memset(&older, 0xff, sizeof older);
    older.struct_size = 16;
    older.threads = 1;
    older.isa = NULL;
    CHECK(hq_context_new(&older, &context) == HQ_OK);

    /* Warnings reach the caller's function; windows are fewer than clusters here. */
    log_lines lines = {0, ""};
    hq_context_options options = {0};
    options.struct_size = sizeof options;
    options.log = keep_line;
    options.log_user_data = &lines;
    hq_context *logging = NULL;
    CHECK(hq_context_new(&options, &logging) == HQ_OK);
    const float embeddings[] = {1, 0, 0, 1, 1, 1};
    hq_data_clustering *clustering = NULL;
    CHECK(hq_data_clustering_fit(logging, embeddings, 3, 2, 5, 0, &clustering) == HQ_OK);
    CHECK(lines.count == 1 && strstr(lines.last, "5 clusters for 3 windows") != NULL);
    printf("a warning reads: %s\n", lines.last);
    hq_data_clustering_free(clustering);
    hq_context_free(logging);

    /* A report is written as far as the program knows it. */
    const float points[] = {0, 1, 10, 11};
    hq_kmeans_options two = {0};
    two.struct_size = sizeof two;
    two.clusters = 2;
    hq_kmeans *kmeans = NULL;
    CHECK(hq_kmeans_fit(context, &two, points, 4, 1, &kmeans) == HQ_OK);
    struct {
        hq_kmeans_info known;
        uint64_t unknown;
    } info;
    memset(&info, 0x5a, sizeof info);
    info.known.struct_size = sizeof info;
    CHECK(hq_kmeans_get_info(kmeans, &info.known) == HQ_OK && info.known.clusters == 2);
    CHECK(info.known.struct_size == sizeof info && info.unknown == 0x5a5a5a5a5a5a5a5aull);
    info.known.struct_size = 8;
    CHECK(hq_kmeans_get_info(kmeans, &info.known) == HQ_INVALID_VALUE);
    hq_kmeans_free(kmeans);
    hq_context_free(context);
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
    CHECK(strcmp(hq_status_name(HQ_NOT_FINITE), "HQ_NOT_FINITE") == 0);
    printf("an error reads: %s\n", hq_last_error());
    int8_t trits[4];
    memset(packed, 0x55, sizeof packed);
    CHECK(hq_ternary_unpack(context, packed, 255, 2, 2, trits) == HQ_SHAPE);
    CHECK(hq_ternary_unpack(context, packed, 256, 2, 2, NULL) == HQ_NULL_POINTER);
    packed[77] = 0xD5;
    CHECK(hq_ternary_unpack(context, packed, 256, 2, 2, trits) == HQ_INVALID_VALUE);
    CHECK(strstr(hq_last_error(), "packed[77]") != NULL);
    CHECK(hq_quantize_rows(context, values, SIZE_MAX, 2, trits, &scale, NULL) == HQ_SHAPE);
    double norm = 0.0;
    CHECK(hq_clip_norm(context, values, 4, 0.0, &norm) == HQ_INVALID_VALUE);
    CHECK(hq_clip_norm(context, values, 4, 1.0, &norm) == HQ_NOT_FINITE && strstr(hq_last_error(), "element 3"));
    CHECK(hq_clip_norm(context, values, 4, 1.0, NULL) == HQ_NULL_POINTER);
    CHECK(hq_norm(context, NULL, 4, &norm) == HQ_NULL_POINTER);
    hq_kmeans_free((hq_kmeans *)NULL);
    hq_kmeans_free((hq_kmeans *)context); /* left alone: it is no hq_kmeans */
    hq_context_free(NULL);
    hq_context_options options = {0};
    hq_context *other = NULL;
    CHECK(hq_context_new(&options, &other) == HQ_INVALID_VALUE && other == NULL);
    options.struct_size = sizeof options;
    options.isa = "no-such-isa";
    CHECK(hq_context_new(&options, &other) == HQ_INVALID_VALUE && other == NULL);
    options.isa = NULL;
    options.device = "cuda:0";
    CHECK(hq_context_new(&options, &other) == HQ_NO_DEVICE && other == NULL);
    hq_kmeans_info info = {0};
    info.struct_size = sizeof info;
    CHECK(hq_kmeans_get_info((hq_kmeans *)context, &info) == HQ_WRONG_HANDLE);
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
    grids(context);
    products(context);
    struct_sizes();
    wrong_arguments(context);
    hq_context_free(context);
    puts("all checks passed");
    return 0;
}
