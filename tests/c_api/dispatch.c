/* The dispatcher through libhybridq: where calls run, thresholds of a program's own, what calls took, the cache file, advice. */
#include "check.h"
#include <hybridq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a call of an operation runs. */
static hq_backend choice(const hq_context *context, const char *operation, uint64_t work, uint64_t tokens) {
    hq_backend backend = {0};
    backend.struct_size = sizeof backend;
    CHECK(hq_dispatch_choose(context, operation, work, tokens, &backend) == HQ_OK);
    return backend;
}

static void choices(const hq_context *context) {
    const int threads = hq_context_threads(context) > 1;
    hq_context *tuned = NULL;
    CHECK(hq_dispatch_configure(context, "direct_tokens = 5\n[operations.norm]\nserial_below = 1000", &tuned) == HQ_OK);
    CHECK(hq_context_threads(tuned) == hq_context_threads(context));
    CHECK(choice(tuned, "norm", 999, 1).parallel == 0 && (int)choice(tuned, "norm", 1000, 1).parallel == threads);
    CHECK(strcmp(choice(tuned, "norm", 1, 1).isa, hq_context_isa(context)) == 0);
    CHECK(choice(tuned, "ternary_matmul", UINT64_MAX, 5).direct == 1);
    CHECK(choice(tuned, "ternary_matmul", UINT64_MAX, 6).direct == 0);
    CHECK(choice(tuned, "ternary_matmul_transposed", 1 << 20, 1).direct == 0);

    /* The thresholds read back make the same context again. */
    size_t length = 0;
    char toml[200];
    CHECK(hq_dispatch_thresholds(tuned, NULL, 0, &length) == HQ_OK && length > 0 && length < sizeof toml);
    CHECK(hq_dispatch_thresholds(tuned, toml, length, &length) == HQ_SHAPE);
    CHECK(hq_dispatch_thresholds(tuned, toml, sizeof toml, &length) == HQ_OK && strlen(toml) == length);
    CHECK(strstr(toml, "direct_tokens = 5") && strstr(toml, "serial_below = 1000"));
    hq_context *again = NULL, *defaults = NULL;
    CHECK(hq_dispatch_configure(tuned, toml, &again) == HQ_OK);
    CHECK(choice(again, "norm", 999, 1).parallel == 0);
    CHECK(hq_dispatch_configure(tuned, "", &defaults) == HQ_OK && choice(defaults, "norm", 999, 1).parallel == 0);
    CHECK(hq_dispatch_thresholds(defaults, toml, sizeof toml, &length) == HQ_OK && strstr(toml, "1000") == NULL);
    /* Where there is no CUDA device, thresholds for one are kept and change nothing. */
    hq_context *cuda = NULL;
    const char *const device = "[cuda]\ndevice = 0\n[operations.int8_matmul]\ncuda_from = 0";
    CHECK(hq_dispatch_configure(context, device, &cuda) == HQ_OK);
    CHECK(hq_dispatch_thresholds(cuda, toml, sizeof toml, &length) == HQ_OK && strstr(toml, "cuda_from = 0"));
    float sum = 0.0f;
    const int8_t a[3] = {1, 2, 3}, b[3] = {4, 5, -6};
    const float scale = 2.0f;
    CHECK(hq_int8_matmul_tn(cuda, a, b, 3, 1, 1, &scale, false, &sum) == HQ_OK && sum == -8.0f);
    size_t devices = 0;
    const char *const where = choice(cuda, "int8_matmul", 1, 3).isa;
    if (hq_device_count(&devices) == HQ_OK) {
        CHECK(devices > 0 && strcmp(where, "cuda") == 0);
    } else {
        CHECK(devices == 0 && strcmp(where, hq_context_isa(context)) == 0);
    }
    hq_context *never = NULL;
    CHECK(hq_dispatch_configure(context, "[operations.norm]\ncuda_from = 0", &never) == HQ_INVALID_VALUE);
    CHECK(strstr(hq_last_error(), "operations.norm.cuda_from") && never == NULL);
    hq_context_free(cuda);
    /* Contexts on shared threads may end in any order. */
    hq_context_free(tuned);
    CHECK(choice(again, "norm", 1000, 1).parallel == (uint32_t)threads);
    hq_context_free(again);
    hq_context_free(defaults);
}

typedef struct {
    int lines;
    uint64_t calls;
} seen;

static int32_t one_backend(const hq_backend_metrics *metrics, void *user_data) {
    seen *all = user_data;
    CHECK(metrics->struct_size == sizeof *metrics && strcmp(metrics->operation, "norm") == 0);
    CHECK(metrics->min_ns <= metrics->max_ns && metrics->max_ns <= metrics->total_ns);
    CHECK(metrics->mean_ns * (double)metrics->count <= 1.001 * (double)metrics->total_ns);
    printf("%s on %s%s: %llu calls, mean %.0f ns\n", metrics->operation, metrics->isa, metrics->parallel ? ", threads" : "",
           (unsigned long long)metrics->count, metrics->mean_ns);
    all->lines++;
    all->calls += metrics->count;
    return 0;
}

static int32_t stop_at_first(const hq_backend_metrics *metrics, void *user_data) {
    ++*(int *)user_data;
    return metrics != NULL;
}

static void metrics(const hq_context *context) {
    static float values[200000];
    hq_context *counting = NULL;
    double norm = 0.0;
    CHECK(hq_dispatch_configure(context, "[operations.norm]\nserial_below = 1000", &counting) == HQ_OK);
    CHECK(hq_norm(counting, values, 10, &norm) == HQ_OK); /* not counted: off at first */
    CHECK(hq_dispatch_metrics_enable(counting, true) == HQ_OK);
    for (int i = 0; i < 3; i++) CHECK(hq_norm(counting, values, 10, &norm) == HQ_OK);
    for (int i = 0; i < 2; i++) CHECK(hq_norm(counting, values, 200000, &norm) == HQ_OK);
    seen all = {0, 0};
    CHECK(hq_dispatch_metrics(counting, one_backend, &all) == HQ_OK);
    CHECK(all.calls == 5 && all.lines == (hq_context_threads(context) > 1 ? 2 : 1));
    int first = 0;
    CHECK(hq_dispatch_metrics(counting, stop_at_first, &first) == HQ_OK && first == 1);
    CHECK(hq_dispatch_metrics_clear(counting) == HQ_OK && hq_dispatch_metrics_enable(counting, false) == HQ_OK);
    CHECK(hq_norm(counting, values, 10, &norm) == HQ_OK);
    CHECK(hq_dispatch_metrics(counting, stop_at_first, &first) == HQ_OK && first == 1);
    hq_context_free(counting);
}

static int32_t stop_second(const char *name, size_t bytes, void *user_data) {
    CHECK(strlen(name) == bytes && bytes > 0);
    return ++*(int *)user_data == 2;
}

static int32_t print_line(const char *line, size_t bytes, void *user_data) {
    CHECK(bytes > 0 && memchr(line, '\n', bytes) == NULL);
    printf("advice: %.*s\n", (int)bytes, line);
    ++*(int *)user_data;
    return 0;
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void cache(const hq_context *context) {
    hq_context *made = NULL;
    CHECK(hq_dispatch_load(context, "no/such/file", &made) == HQ_IO && strstr(hq_last_error(), "no/such/file"));
    write_file("cache.toml", "this is = = no cache");
    CHECK(hq_dispatch_load(context, "cache.toml", &made) == HQ_FORMAT);
    write_file("cache.toml", "");
    CHECK(hq_dispatch_load(context, "cache.toml", &made) == HQ_FORMAT && strstr(hq_last_error(), "nothing learned"));
    /* Stopped before it has learned all: no file is written and no context made. */
    int operations = 0;
    remove("cache.toml");
    CHECK(hq_dispatch_calibrate(context, "cache.toml", stop_second, &operations, &made) == HQ_CANCELLED);
    CHECK(operations == 2 && made == NULL && fopen("cache.toml", "r") == NULL);
}

static void wrong(const hq_context *context) {
    hq_backend backend = {0};
    hq_context *made = NULL;
    CHECK(hq_dispatch_choose(context, "norm", 10, 1, &backend) == HQ_INVALID_VALUE); /* struct_size */
    backend.struct_size = sizeof backend;
    CHECK(hq_dispatch_choose(context, "dance", 10, 1, &backend) == HQ_INVALID_VALUE);
    CHECK(strstr(hq_last_error(), "ternary_matmul") && strstr(hq_last_error(), "dance"));
    CHECK(hq_dispatch_configure(context, "serial = 1000", &made) == HQ_INVALID_VALUE && made == NULL);
    CHECK(hq_dispatch_configure(context, "[operations.norm]\nisa = \"sse9\"", &made) == HQ_INVALID_VALUE);
    hq_context_options options = {0};
    options.struct_size = sizeof options;
    options.isa = "portable";
    hq_context *capped = NULL;
    CHECK(hq_context_new(&options, &capped) == HQ_OK);
    CHECK(hq_dispatch_configure(capped, "[operations.norm]\nisa = \"avx2\"", &made) == HQ_INVALID_VALUE);
    CHECK(strstr(hq_last_error(), "operations.norm.isa"));
    hq_context_free(capped);
}

int main(void) {
    hq_context *context = NULL;
    CHECK(hq_context_new(NULL, &context) == HQ_OK);
    choices(context);
    metrics(context);
    cache(context);
    wrong(context);
    int lines = 0;
    CHECK(hq_dispatch_advice(context, print_line, &lines) == HQ_OK);
    hq_context_free(context);
    puts("all checks passed");
    return 0;
}
