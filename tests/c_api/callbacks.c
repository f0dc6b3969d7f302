/* Training on the caller's own batches and own loss, progress, cancellation by another thread, token by token decoding. */
#define _POSIX_C_SOURCE 199309L
#include "check.h"
#include <hybridq.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char model_json[] =
    "{\"model_type\": \"bitnet\", \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 1,"
    " \"num_attention_heads\": 2, \"vocab_size\": 256, \"max_position_embeddings\": 32, \"hidden_act\": \"silu\","
    " \"precision\": \"ternary\"}";

/* Example `i` counts upwards from i: the next token is always one more. Fails when told to. */
static int32_t counting(const hq_batch_buffers *batch, void *user_data) {
    const int *fail = user_data;
    if (*fail != 0) return *fail;
    CHECK(batch->targets_len == batch->count * batch->length && batch->lengths == NULL && batch->source == NULL);
    for (size_t i = 0; i < batch->count; i++) {
        for (size_t t = 0; t < batch->length; t++) {
            size_t at = i * batch->length + t;
            batch->tokens[at] = (uint32_t)(batch->examples[i] + t + (batch->split == HQ_SPLIT_VALIDATION)) % 200;
            batch->targets[at] = (batch->tokens[at] + 1) % 200;
        }
    }
    return 0;
}

static int32_t count_events(const hq_progress *progress, void *user_data) {
    int *events = user_data;
    CHECK(progress->struct_size >= sizeof *progress && progress->kind <= HQ_PROGRESS_CHECKPOINT);
    events[progress->kind]++;
    return 0;
}

static void own_batches(const hq_context *context) {
    FILE *file = fopen("counting.json", "w");
    CHECK(file != NULL && fputs(model_json, file) >= 0 && fclose(file) == 0);
    int fail = 0, events[3] = {0, 0, 0};
    hq_batch_source source = {0};
    source.struct_size = sizeof source;
    source.examples = 200;
    source.held_out = 20;
    source.read = counting;
    source.user_data = &fail;
    source.identity = "counting";
    const char *config = "{\"model\": \"counting.json\", \"seq_length\": 16, \"batch_size\": 8, \"max_steps\": 150,"
                         " \"base_learning_rate\": 0.02, \"eval_interval\": 50, \"warmup_steps\": 5}";
    hq_trainer *trainer = NULL;
    CHECK(hq_trainer_new_with_batches(context, config, &source, &trainer) == HQ_OK);
    CHECK(hq_trainer_on_progress(trainer, count_events, events) == HQ_OK);
    double before = 0.0, after = 0.0;
    CHECK(hq_trainer_evaluate(trainer, &before) == HQ_OK);
    hq_run_summary summary = {0};
    summary.struct_size = sizeof summary;
    CHECK(hq_trainer_run(trainer, &summary) == HQ_OK && summary.steps == 150 && summary.stop == HQ_STOP_FINISHED);
    CHECK(hq_trainer_evaluate(trainer, &after) == HQ_OK && after < 0.5 * before);
    CHECK(events[HQ_PROGRESS_STEP] == 150 && events[HQ_PROGRESS_EVALUATION] == 5);
    printf("own batches: held-out loss %.3f -> %.3f nats per token\n", before, after);

    /* A callback that fails stops the step, and nothing is lost. */
    fail = 17;
    CHECK(hq_trainer_step(trainer, NULL) == HQ_CANCELLED && strstr(hq_last_error(), "17") != NULL);
    fail = 0;
    hq_step_report report = {0};
    report.struct_size = 64; /* the first version of the struct */
    report.cluster = 77;
    CHECK(hq_trainer_step(trainer, &report) == HQ_OK && report.step == 151 && report.cluster == 77);
    CHECK(hq_trainer_save_model(trainer, "counting-model") == HQ_OK);
    hq_trainer_free(trainer);
}

/* A model reads tokens one by one or all at once; both give the same logits. */
static void decode(const hq_context *context) {
    hq_model *model = NULL;
    CHECK(hq_model_load(context, "counting-model", &model) == HQ_OK);
    hq_model_info info = {0};
    info.struct_size = sizeof info;
    CHECK(hq_model_get_info(model, &info) == HQ_OK && info.vocabulary == 256 && info.context == 32);
    hq_decoder *decoder = NULL;
    CHECK(hq_decoder_new(model, 1, 33, &decoder) == HQ_INVALID_VALUE);
    CHECK(hq_decoder_new(model, 1, 32, &decoder) == HQ_OK);
    float at_once[256], step_by_step[256];
    const uint32_t prompt[] = {40, 41, 42, 43};
    CHECK(hq_decoder_read(decoder, model, context, prompt, 4, at_once, 256) == HQ_OK);
    CHECK(hq_decoder_truncate(decoder, 0) == HQ_OK);
    for (int i = 0; i < 4; i++)
        CHECK(hq_decoder_read(decoder, model, context, prompt + i, 1, step_by_step, 256) == HQ_OK);
    for (int i = 0; i < 256; i++) CHECK(fabsf(at_once[i] - step_by_step[i]) < 1e-3f);

    hq_sampler *sampler = NULL;
    CHECK(hq_sampler_new(NULL, &sampler) == HQ_OK);
    uint32_t text[12] = {40, 41, 42, 43};
    int right = 0;
    for (size_t n = 4; n < 12; n++) {
        CHECK(hq_sampler_sample(sampler, step_by_step, 256, text, n, &text[n]) == HQ_OK);
        right += text[n] == text[n - 1] + 1;
        CHECK(hq_decoder_read(decoder, model, context, &text[n], 1, step_by_step, 256) == HQ_OK);
    }
    size_t length = 0;
    CHECK(hq_decoder_length(decoder, &length) == HQ_OK && length == 12);
    printf("decoding: 40 41 42 43, then %u %u %u %u (%d of 8 count on)\n", text[4], text[5], text[6], text[7], right);
    CHECK(right >= 6);
    uint32_t many[32] = {0};
    CHECK(hq_decoder_read(decoder, model, context, many, 21, at_once, 256) == HQ_SHAPE);
    many[0] = 256;
    CHECK(hq_decoder_read(decoder, model, context, many, 1, at_once, 256) == HQ_INVALID_VALUE);
    hq_sampler_free(sampler);
    hq_decoder_free(decoder);
    hq_model_free(model);
}

/* y = 3 x - 1 with a model of one weight and one bias, ternary weight and all. */
static float inputs[64];

static int32_t line_loss(hq_parameters *parameters, const uint64_t *examples, size_t count, float gradient_scale,
                         double *loss, void *user_data) {
    const hq_context *context = user_data;
    float *weight_gradient, *bias_gradient, *bias, weight;
    if (hq_parameters_gradients(parameters, 0, &weight_gradient, NULL) != HQ_OK ||
        hq_parameters_gradients(parameters, 1, &bias_gradient, NULL) != HQ_OK ||
        hq_parameters_weights(parameters, 1, &bias, NULL) != HQ_OK ||
        hq_parameters_values(parameters, context, 0, &weight, 1) != HQ_OK)
        return 1;
    *loss = 0.0;
    for (size_t i = 0; i < count; i++) {
        float x = inputs[examples[i]], error = weight * x + bias[0] - (3.0f * x - 1.0f);
        *loss += error * error / (double)count;
        weight_gradient[0] += gradient_scale * 2.0f * error * x / (float)count;
        bias_gradient[0] += gradient_scale * 2.0f * error / (float)count;
    }
    return 0;
}

static void own_model(const hq_context *context) {
    for (int i = 0; i < 64; i++) inputs[i] = (float)(i - 32) / 32.0f;
    const size_t matrix[] = {1, 1}, vector[] = {1};
    hq_parameter_spec specs[2];
    memset(specs, 0, sizeof specs);
    specs[0].struct_size = specs[1].struct_size = sizeof specs[0];
    specs[0].kind = HQ_PARAMETER_LINEAR, specs[0].precision = HQ_PRECISION_TERNARY, specs[0].dimensions = 2;
    specs[0].shape = matrix, specs[0].name = "slope", specs[0].initial_value = 0.5f;
    specs[1].kind = HQ_PARAMETER_BIAS, specs[1].precision = HQ_PRECISION_F32, specs[1].dimensions = 1;
    specs[1].shape = vector, specs[1].name = "offset";
    hq_parameters *parameters = NULL;
    CHECK(hq_parameters_new(specs, 2, 0, &parameters) == HQ_OK);
    hq_objective objective = {0};
    objective.struct_size = sizeof objective;
    objective.examples = 64;
    objective.loss = line_loss;
    objective.user_data = (void *)(uintptr_t)context;
    objective.features = inputs;
    objective.feature_dim = 1;
    objective.identity = "a line";
    const char *config = "{\"batch_size\": 16, \"max_steps\": 300, \"base_learning_rate\": 0.05, \"schedule\": \"constant\","
                         " \"initial_trust_radius\": 0.1, \"data_clusters\": 4}";
    hq_trainer *trainer = NULL;
    CHECK(hq_trainer_new_with_objective(context, config, parameters, &objective, &trainer) == HQ_OK);
    float *slope = NULL;
    CHECK(hq_parameters_weights(parameters, 0, &slope, NULL) == HQ_OK);
    hq_run_summary summary = {0};
    summary.struct_size = sizeof summary;
    CHECK(hq_trainer_run(trainer, &summary) == HQ_OK && summary.loss < 0.05 && isnan(summary.validation_loss));
    float value = 0.0f; /* what the latent weight stands for: a learned scale is between them */
    CHECK(hq_parameters_values(parameters, context, 0, &value, 1) == HQ_OK && fabsf(value - 3.0f) < 0.3f);
    const float latent = *slope;
    printf("own model: slope %.2f, loss %.4f after %llu steps\n", value, summary.loss, (unsigned long long)summary.steps);
    CHECK(hq_trainer_generate(trainer, "", NULL, NULL, NULL) == HQ_UNSUPPORTED);
    hq_parameters_free(parameters); /* the trainer still has them */
    CHECK(hq_trainer_step(trainer, NULL) == HQ_OK && fabsf(*slope - latent) < 0.2f);
    /* Steps that are not finite leave the model alone; the tenth in a row is an error. */
    float before = *slope, first = inputs[0];
    hq_step_report report = {0};
    report.struct_size = sizeof report;
    for (int i = 0; i < 64; i++) inputs[i] = NAN;
    for (int i = 0; i < 9; i++)
        CHECK(hq_trainer_step(trainer, &report) == HQ_OK && report.skipped == 1 && isnan(report.loss) && *slope == before);
    CHECK(hq_trainer_step(trainer, &report) == HQ_TRAINING && *slope == before);
    printf("skipped: %s\n", hq_last_error());
    for (int i = 0; i < 64; i++) inputs[i] = first + (float)i / 32.0f;
    CHECK(hq_trainer_step(trainer, &report) == HQ_OK && report.skipped == 0 && *slope != before);
    hq_trainer_free(trainer);
}

static void *cancel_soon(void *trainer) {
    struct timespec pause = {0, 100 * 1000 * 1000};
    nanosleep(&pause, NULL);
    CHECK(hq_trainer_cancel(trainer) == HQ_OK);
    return NULL;
}

static void cancel(const hq_context *context) {
    int fail = 0;
    hq_batch_source source = {0};
    source.struct_size = sizeof source;
    source.examples = 200;
    source.read = counting;
    source.user_data = &fail;
    source.identity = "counting";
    hq_trainer *trainer = NULL;
    CHECK(hq_trainer_new_with_batches(context, "{\"model\": \"counting.json\", \"seq_length\": 16, \"max_steps\": 100000000}",
                                      &source, &trainer) == HQ_OK);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, cancel_soon, trainer) == 0);
    CHECK(hq_trainer_run(trainer, NULL) == HQ_CANCELLED);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("cancelled: %s\n", hq_last_error());
    /* Before a run it stops the next one, once. */
    CHECK(hq_trainer_cancel(trainer) == HQ_OK);
    CHECK(hq_trainer_run(trainer, NULL) == HQ_CANCELLED);
    CHECK(hq_trainer_step(trainer, NULL) == HQ_OK);
    hq_trainer_free(trainer);
}

int main(void) {
    hq_context *context = NULL;
    CHECK(hq_context_new(NULL, &context) == HQ_OK);
    own_batches(context);
    decode(context);
    own_model(context);
    cancel(context);
    hq_context_free(context);
    puts("all checks passed");
    return 0;
}
