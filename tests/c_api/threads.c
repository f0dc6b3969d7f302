/* Many threads on one library: contexts shared and own, objects of every kind, errors of other threads, objects that move
 * from thread to thread, a run cancelled by another. */
#include "check.h"
#include <hybridq.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8, ROUNDS = 12, ROWS = 70, COLS = 190, TOKENS = 5, POINTS = 400, DIM = 6 };

typedef struct {
    const hq_context *shared;
    const hq_kmeans *kmeans; /* never changes: used by all */
    const float *points;
    const uint32_t *labels;
    hq_optimizer *optimizer; /* moved into the thread and back */
    hq_parameters *parameters;
    uint64_t digest;
    unsigned number;
} job;

static float draw(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state / 2147483648.0f;
}

static uint64_t digest_of(const void *data, size_t bytes, uint64_t digest) {
    for (size_t i = 0; i < bytes; i++) digest = (digest ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return digest;
}

/* A product on `context`; the same bits whoever computes it. */
static uint64_t product(const hq_context *context) {
    uint32_t state = 9;
    float *weights = malloc(ROWS * COLS * sizeof *weights), *y = malloc(TOKENS * ROWS * sizeof *y);
    size_t bytes = 0;
    CHECK(weights != NULL && y != NULL && hq_ternary_packed_bytes(ROWS, COLS, &bytes) == HQ_OK);
    uint8_t *packed = malloc(bytes);
    float scales[ROWS], x[TOKENS * COLS], x_scales[TOKENS];
    int8_t values[TOKENS * COLS];
    int32_t sums[TOKENS];
    CHECK(packed != NULL);
    for (int i = 0; i < ROWS * COLS; i++) weights[i] = draw(&state);
    for (int i = 0; i < TOKENS * COLS; i++) x[i] = draw(&state);
    CHECK(hq_ternary_pack(context, weights, ROWS, COLS, HQ_SCALE_PER_ROW, packed, bytes, scales, ROWS) == HQ_OK);
    CHECK(hq_quantize_rows(context, x, TOKENS, COLS, values, x_scales, sums) == HQ_OK);
    CHECK(hq_ternary_matmul(context, packed, bytes, ROWS, COLS, scales, ROWS, values, x_scales, sums, TOKENS, y) == HQ_OK);
    uint64_t digest = digest_of(y, TOKENS * ROWS * sizeof *y, 14695981039346656037u);
    free(weights), free(y), free(packed);
    return digest;
}

static void *work(void *argument) {
    job *job = argument;
    char expected[64];
    for (int round = 0; round < ROUNDS; round++) {
        /* Errors are a thread's own. */
        hq_context_options options = {0};
        snprintf(expected, sizeof expected, "isa-%u-%d", job->number, round);
        options.struct_size = sizeof options;
        options.isa = expected;
        hq_context *own = NULL;
        CHECK(hq_context_new(&options, &own) == HQ_INVALID_VALUE);
        uint64_t digest = product(job->shared);
        CHECK(strstr(hq_last_error(), expected) != NULL);
        options.isa = NULL;
        options.threads = 1 + (uint32_t)(round % 3);
        CHECK(hq_context_new(&options, &own) == HQ_OK && product(own) == digest);
        CHECK(job->digest == 0 || job->digest == digest);
        job->digest = digest;

        uint32_t labels[POINTS];
        CHECK(hq_kmeans_predict(job->kmeans, round % 2 ? own : job->shared, job->points, POINTS, labels) == HQ_OK);
        CHECK(memcmp(labels, job->labels, sizeof labels) == 0);

        hq_training_state state = {0};
        state.struct_size = sizeof state;
        state.step = (uint64_t)round;
        state.loss = 1.0f;
        state.learning_rate = 0.01f;
        CHECK(hq_optimizer_step(job->optimizer, job->shared, job->parameters, &state, NULL) == HQ_OK);
        hq_context_free(own);
    }
    return NULL;
}

static void *cancel(void *trainer) {
    CHECK(hq_trainer_cancel(trainer) == HQ_OK);
    return NULL;
}

/* Half of a parabola: loss w^2. */
static int32_t square(hq_parameters *parameters, const uint64_t *examples, size_t count, float scale, double *loss,
                      void *user_data) {
    float *w, *g;
    (void)examples, (void)count, (void)user_data;
    if (hq_parameters_weights(parameters, 0, &w, NULL) != HQ_OK) return 1;
    if (hq_parameters_gradients(parameters, 0, &g, NULL) != HQ_OK) return 1;
    *loss = (double)w[0] * w[0];
    g[0] += scale * 2.0f * w[0];
    return 0;
}

static void *train(void *context) {
    const size_t shape[] = {4};
    hq_parameter_spec spec = {0};
    spec.struct_size = sizeof spec;
    spec.kind = HQ_PARAMETER_BIAS, spec.precision = HQ_PRECISION_F32, spec.dimensions = 1;
    spec.shape = shape, spec.name = "w", spec.initial_value = 1.0f;
    hq_parameters *parameters = NULL;
    CHECK(hq_parameters_new(&spec, 1, 0, &parameters) == HQ_OK);
    hq_objective objective = {0};
    objective.struct_size = sizeof objective;
    objective.examples = 10;
    objective.loss = square;
    objective.identity = "square";
    hq_trainer *trainer = NULL;
    CHECK(hq_trainer_new_with_objective(context, "{\"max_steps\": 100000000, \"batch_size\": 1, \"eval_interval\": 1000000,"
                                        " \"checkpoint_interval\": 1000000}", parameters, &objective, &trainer) == HQ_OK);
    for (int round = 0; round < 3; round++) {
        pthread_t canceller;
        CHECK(pthread_create(&canceller, NULL, cancel, trainer) == 0);
        CHECK(hq_trainer_run(trainer, NULL) == HQ_CANCELLED);
        CHECK(pthread_join(canceller, NULL) == 0);
    }
    hq_trainer_free(trainer);
    hq_parameters_free(parameters);
    return NULL;
}

int main(void) {
    hq_context *context = NULL;
    CHECK(hq_context_new(NULL, &context) == HQ_OK);
    static float points[POINTS * DIM];
    uint32_t state = 4, labels[POINTS];
    for (int i = 0; i < POINTS * DIM; i++) points[i] = draw(&state) + (float)(i / DIM % 5);
    hq_kmeans_options options = {0};
    options.struct_size = sizeof options;
    options.clusters = 5;
    hq_kmeans *kmeans = NULL;
    CHECK(hq_kmeans_fit(context, &options, points, POINTS, DIM, &kmeans) == HQ_OK);
    CHECK(hq_kmeans_labels(kmeans, labels, POINTS) == HQ_OK);

    job jobs[THREADS];
    pthread_t threads[THREADS], trainers[2];
    memset(jobs, 0, sizeof jobs);
    for (unsigned i = 0; i < THREADS; i++) {
        const size_t shape[] = {3, 5};
        hq_parameter_spec spec = {0};
        spec.struct_size = sizeof spec;
        spec.kind = HQ_PARAMETER_LINEAR, spec.precision = HQ_PRECISION_F32, spec.dimensions = 2;
        spec.shape = shape, spec.name = "w", spec.initial_deviation = 1.0f;
        CHECK(hq_parameters_new(&spec, 1, 1, &jobs[i].parameters) == HQ_OK);
        CHECK(hq_optimizer_new(jobs[i].parameters, NULL, &jobs[i].optimizer) == HQ_OK);
        jobs[i].shared = context, jobs[i].kmeans = kmeans, jobs[i].points = points, jobs[i].labels = labels;
        jobs[i].number = i;
        CHECK(pthread_create(&threads[i], NULL, work, &jobs[i]) == 0);
    }
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&trainers[i], NULL, train, context) == 0);
    for (unsigned i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(trainers[i], NULL) == 0);
    for (unsigned i = 0; i < THREADS; i++) {
        /* All optimizers did the same; here, on another thread, they go on. */
        float *first, *own;
        hq_training_state next = {0};
        next.struct_size = sizeof next;
        next.learning_rate = 0.01f;
        CHECK(hq_optimizer_step(jobs[i].optimizer, context, jobs[i].parameters, &next, NULL) == HQ_OK);
        CHECK(hq_parameters_weights(jobs[0].parameters, 0, &first, NULL) == HQ_OK);
        CHECK(hq_parameters_weights(jobs[i].parameters, 0, &own, NULL) == HQ_OK);
        CHECK(memcmp(first, own, 15 * sizeof *own) == 0 && jobs[i].digest == jobs[0].digest);
    }
    for (unsigned i = 0; i < THREADS; i++) hq_optimizer_free(jobs[i].optimizer), hq_parameters_free(jobs[i].parameters);
    hq_kmeans_free(kmeans);
    hq_context_free(context);
    printf("%d threads, %d rounds each\nall checks passed\n", THREADS, ROUNDS);
    return 0;
}
