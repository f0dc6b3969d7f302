/* Drives the hybrid optimizer for a model written here, a perceptron with one hidden layer on Fisher's irises, and lets
 * plain SGD train the same model from the same weights.
 *
 *     cc hybrid_optimizer.c $(pkg-config --cflags --libs hybridq) -lm && ./a.out */
#include <hybridq.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iris.h"

enum { HIDDEN = 8, STEPS = 200, BATCH = 15 };
enum { W1, B1, W2, B2, PARAMETERS };

static void check(hq_status status) {
    if (status == HQ_OK) return;
    fprintf(stderr, "%s\n", hq_last_error());
    exit(1);
}

/* The flowers in a shuffled order, with features of mean 0 and variance 1; every fifth is held out. */
static float features[IRIS_ROWS][IRIS_FEATURES];
static int species[IRIS_ROWS];

static void load(void) {
    int order[IRIS_ROWS];
    uint32_t state = 1;
    for (int i = 0; i < IRIS_ROWS; i++) order[i] = i;
    for (int i = IRIS_ROWS - 1; i > 0; i--) {
        state = state * 1664525u + 1013904223u;
        int other = (int)((state >> 8) % (unsigned)(i + 1)), kept = order[i];
        order[i] = order[other], order[other] = kept;
    }
    for (int f = 0; f < IRIS_FEATURES; f++) {
        double mean = 0.0, variance = 0.0;
        for (int i = 0; i < IRIS_ROWS; i++) mean += iris[i][f] / (double)IRIS_ROWS;
        for (int i = 0; i < IRIS_ROWS; i++) variance += (iris[i][f] - mean) * (iris[i][f] - mean) / IRIS_ROWS;
        for (int i = 0; i < IRIS_ROWS; i++) features[i][f] = (float)((iris[order[i]][f] - mean) / sqrt(variance));
    }
    for (int i = 0; i < IRIS_ROWS; i++) species[i] = iris[order[i]][IRIS_FEATURES];
}

static int held_out(int row) { return row % 5 == 0; }

/* Loss of one flower in nats; adds `scale` times its gradient where there are gradients, and counts a right guess. */
static double flower(float *const *weights, float *const *gradients, int row, float scale, int *right) {
    float hidden[HIDDEN], p[IRIS_CLASSES], total = 0.0f, largest = -1e30f;
    for (int h = 0; h < HIDDEN; h++) {
        float sum = weights[B1][h];
        for (int f = 0; f < IRIS_FEATURES; f++) sum += weights[W1][h * IRIS_FEATURES + f] * features[row][f];
        hidden[h] = tanhf(sum);
    }
    for (int c = 0; c < IRIS_CLASSES; c++) {
        p[c] = weights[B2][c];
        for (int h = 0; h < HIDDEN; h++) p[c] += weights[W2][c * HIDDEN + h] * hidden[h];
        if (p[c] > largest) largest = p[c], *right = species[row] == c;
    }
    for (int c = 0; c < IRIS_CLASSES; c++) total += p[c] = expf(p[c] - largest);
    for (int c = 0; c < IRIS_CLASSES; c++) p[c] /= total;
    if (gradients != NULL) {
        float d_hidden[HIDDEN] = {0};
        for (int c = 0; c < IRIS_CLASSES; c++) {
            float d = scale * (p[c] - (float)(species[row] == c));
            gradients[B2][c] += d;
            for (int h = 0; h < HIDDEN; h++) {
                gradients[W2][c * HIDDEN + h] += d * hidden[h];
                d_hidden[h] += d * weights[W2][c * HIDDEN + h];
            }
        }
        for (int h = 0; h < HIDDEN; h++) {
            float d = d_hidden[h] * (1.0f - hidden[h] * hidden[h]);
            gradients[B1][h] += d;
            for (int f = 0; f < IRIS_FEATURES; f++) gradients[W1][h * IRIS_FEATURES + f] += d * features[row][f];
        }
    }
    return -log((double)p[species[row]] + 1e-30);
}

/* Mean loss over the training or the held-out flowers; the share of right guesses. */
static double evaluate(float *const *weights, int of_held_out, double *accuracy) {
    double loss = 0.0;
    int rows = 0, hits = 0;
    for (int row = 0; row < IRIS_ROWS; row++) {
        if (held_out(row) != of_held_out) continue;
        int right = 0;
        loss += flower(weights, NULL, row, 0.0f, &right);
        hits += right, rows++;
    }
    *accuracy = hits / (double)rows;
    return loss / rows;
}

/* Trains from the weights of seed 7 with the optimizer of `config`; gives the training loss at the end. */
static double train(const hq_context *context, const char *name, const char *config, float learning_rate) {
    static const size_t shapes[PARAMETERS][2] = {{HIDDEN, IRIS_FEATURES}, {HIDDEN, 0}, {IRIS_CLASSES, HIDDEN}, {IRIS_CLASSES, 0}};
    static const char *const names[PARAMETERS] = {"w1", "b1", "w2", "b2"};
    hq_parameter_spec specs[PARAMETERS];
    memset(specs, 0, sizeof specs);
    for (int i = 0; i < PARAMETERS; i++) {
        int matrix = i == W1 || i == W2;
        specs[i].struct_size = sizeof specs[i];
        specs[i].kind = matrix ? HQ_PARAMETER_LINEAR : HQ_PARAMETER_BIAS;
        specs[i].precision = HQ_PRECISION_F32;
        specs[i].dimensions = matrix ? 2 : 1;
        specs[i].shape = shapes[i];
        specs[i].name = names[i];
        specs[i].initial_deviation = matrix ? 0.4f : 0.0f;
    }
    hq_parameters *parameters = NULL;
    check(hq_parameters_new(specs, PARAMETERS, 7, &parameters));
    hq_optimizer *optimizer = NULL;
    check(hq_optimizer_new(parameters, config, &optimizer));
    float *weights[PARAMETERS], *gradients[PARAMETERS];
    for (size_t i = 0; i < PARAMETERS; i++) {
        check(hq_parameters_weights(parameters, i, &weights[i], NULL));
        check(hq_parameters_gradients(parameters, i, &gradients[i], NULL));
    }

    hq_update_report report = {0};
    report.struct_size = sizeof report;
    int row = 0, shortened = 0;
    for (uint64_t step = 0; step < STEPS; step++) {
        check(hq_parameters_zero_gradients(parameters));
        double loss = 0.0;
        for (int i = 0; i < BATCH; i++, row = (row + 1) % IRIS_ROWS) {
            if (held_out(row)) row++;
            int right;
            loss += flower(weights, gradients, row, 1.0f / BATCH, &right) / BATCH;
        }
        hq_training_state state = {0};
        state.struct_size = sizeof state;
        state.step = step;
        state.loss = (float)loss;
        state.learning_rate = learning_rate;
        check(hq_optimizer_step(optimizer, context, parameters, &state, &report));
        shortened += (int)report.constraint_active;
    }
    double accuracy, ignored, held = evaluate(weights, 1, &accuracy), loss = evaluate(weights, 0, &ignored);
    printf("%-7s rate %.3f: training loss %.4f, held out %.4f nats, %.1f %% right; multiplier %.2f, %d of %d steps shortened\n",
           name, learning_rate, loss, held, 100.0 * accuracy, report.learning_rate_multiplier, shortened, STEPS);
    hq_optimizer_free(optimizer);
    hq_parameters_free(parameters);
    return loss;
}

int main(void) {
    load();
    hq_context *context = NULL;
    check(hq_context_new(NULL, &context));
    const char *hybrid = "{\"inner\": \"sgd\", \"initial_trust_radius\": 0.1}", *sgd = "{\"optimizer\": \"sgd\"}";
    /* The same learning rates, the same momentum, the same batches. */
    const float rates[] = {0.003f, 0.01f, 0.03f};
    int better = 0;
    for (int i = 0; i < 3; i++)
        better += train(context, "hybrid", hybrid, rates[i]) < train(context, "sgd", sgd, rates[i]);
    printf("the hybrid optimizer ends lower at %d of 3 learning rates\n", better);
    hq_context_free(context);
    return better == 3 ? 0 : 1;
}
