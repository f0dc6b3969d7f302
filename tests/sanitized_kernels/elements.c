/* Kernels over `n` elements: norm, optimizers, activations, dropout, ceilings. */
#include "harness.h"

static void norm(size_t n) {
    float *x = floats(n), *y = floats(n);
    double sums[2];
    RUN(abs_sum, x, n, sums);
    RUN(sum_squares, x, n, sums);
    RUN(dot, x, y, n, sums);
    RUN(dot_i8, trits(n), y, n, sums);
    RUN(abs_and_square_sums, x, n, sums);
    RUN(scale, x, n, 0.5f);
    free_all();
}

static void optimizers(size_t n) {
    float *gradient = floats(n), *weight = floats(n), *first = floats(n), *second = floats(n);
    double *sums = NEW(double, 5);
    hqk_adamw_settings adamw = {0.1f, 0.95f, 0.05f, 1e-8f, 1.5f, 1.2f, 1.4f, 1.1f, 0.0f};
    hqk_sgd_settings sgd = {0.9f, 0.01f, 10.0f, 0.0f};
    for (int biased = 0; biased < 2; biased++) {
        adamw.bias = sgd.bias = biased ? 0.5f : 0.0f;
        for (size_t i = 0; i < n; i++) second[i] = second[i] < 0.0f ? -second[i] : second[i];
        RUN(adamw_moments, gradient, weight, n, &adamw, first, second, sums);
        RUN(adamw_apply, gradient, first, second, n, &adamw, 0.99f, 0.01f, weight);
        RUN(sgd_velocity, gradient, weight, n, &sgd, first, sums);
        RUN(sgd_apply, gradient, first, n, &sgd, 0.01f, weight);
    }
    RUN(steepest_momentum, gradient, weight, n, 0.05f, -0.05f, first, second, sums);
    RUN(steepest_sums, gradient, weight, second, n, sums);
    RUN(steepest_apply, second, n, 0.99f, 0.01f, weight);
    free_all();
}

static void states(size_t n) {
    float *x = floats(n), *maxima = NEW(float, (n + 255) / 256);
    uint16_t *halves = NEW(uint16_t, n);
    uint8_t *codes = NEW(uint8_t, n);
    uint32_t *draws = NEW(uint32_t, 4);
    draws[0] = 3, draws[1] = 5, draws[2] = 7, draws[3] = 9;
    RUN(state_encode_bf16, x, n, 11, draws, halves);
    RUN(state_decode_bf16, halves, n, x);
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        RUN(state_encode_int8, x, n, 11, draws, is_signed, codes, maxima);
        RUN(state_decode_int8, codes, maxima, n, is_signed, x);
    }
    free_all();
}

static void activations(size_t n) {
    float *x = floats(n), *up = floats(n), *dy = floats(n), *y = floats(n), *dup = floats(n);
    RUN(exp_values, x, n, y);
    RUN(log_values, x, n, y);
    RUN(tanh_values, x, n, y);
    RUN(sigmoid_values, x, n, y);
    RUN(gelu, x, n, y);
    RUN(gelu_backward, x, dy, n, y);
    RUN(gelu_exact, x, n, y);
    RUN(gelu_exact_backward, x, dy, n, y);
    RUN(silu_gate, x, up, n, y);
    RUN(silu_gate_backward, x, up, dy, n, y, dup);
    RUN(relu2, x, n, y);
    RUN(relu2_backward, x, dy, n, y);
    RUN(relu2_gate, x, up, n, y);
    RUN(relu2_gate_backward, x, up, dy, n, y, dup);
    uint32_t *key = NEW(uint32_t, 2);
    key[0] = 3, key[1] = 5;
    RUN(dropout, x, n, key, 7, 9, 4 * (uint64_t)draw(), 1u << 31, 2.0f, y);
    free_all();
}

static void ceilings(size_t n) {
    uint64_t operations = 0, sum = 0;
    uint8_t *memory = (uint8_t *)bytes(n);
    RUN(ceiling_int8, n, &operations);
    RUN(ceiling_int8_widened, n, &operations);
    RUN(ceiling_f32, n, &operations);
    RUN(ceiling_read, memory, n, &sum);
    RUN(ceiling_update, memory, n);
    free_all();
}

void run_elements(void) {
    static const size_t sizes[] = {ODD_SIZES, 511, 513, 1031, 65537};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        norm(sizes[i]);
        optimizers(sizes[i]);
        states(sizes[i]);
        activations(sizes[i]);
        ceilings(sizes[i]);
    }
}
