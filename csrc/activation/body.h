/* The activation family, written once for every ISA: element by element, plain C that the compiler vectorizes. The
 * _values functions of exp.h are here too, for tests and for the layers that use them as they are. */
#include "../exp.h"
#include "../hqk.h"

void HQK_NAME(hqk_exp_values)(const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = hqk_exp(x[i]);
}

void HQK_NAME(hqk_log_values)(const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = hqk_log(x[i]);
}

void HQK_NAME(hqk_tanh_values)(const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = hqk_tanh(x[i]);
}

void HQK_NAME(hqk_sigmoid_values)(const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = hqk_sigmoid(x[i]);
}

/* x/2 (1 + tanh(u)) = x sigmoid(2u) with 2u = GELU_LINEAR x + GELU_CUBIC x^3: one exp, no cancellation. */
#define GELU_LINEAR 1.59576912f
#define GELU_CUBIC 0.0713548163f

void HQK_NAME(hqk_gelu)(const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = x[i] * hqk_sigmoid(x[i] * (GELU_LINEAR + GELU_CUBIC * (x[i] * x[i])));
}

void HQK_NAME(hqk_gelu_backward)(const float *x, const float *dy, size_t n, float *dx) {
    for (size_t i = 0; i < n; i++) {
        const float square = x[i] * x[i];
        const float s = hqk_sigmoid(x[i] * (GELU_LINEAR + GELU_CUBIC * square));
        const float slope = x[i] * (GELU_LINEAR + (3.0f * GELU_CUBIC) * square);
        dx[i] = dy[i] * (s + (s * (1.0f - s)) * slope);
    }
}

/* The normal distribution above a >= 0, times sqrt(exp(a^2)): t P(t) with t = 1 / (1 + 0.265 a), minimax in relative error
 * (1.6e-8) on a <= 15, where the factor left out is below the smallest float. */
static inline float scaled_upper_tail(float a) {
    const float t = 1.0f / (1.0f + 0.265f * a);
    float p = 0x1.f2af10p-6f;
    p = p * t - 0x1.23aae4p-3f;
    p = p * t + 0x1.b6a0c2p-3f;
    p = p * t - 0x1.cc0768p-4f;
    p = p * t + 0x1.14f2f6p-3f;
    p = p * t + 0x1.f75a64p-5f;
    p = p * t + 0x1.a38134p-4f;
    p = p * t + 0x1.af3fdep-4f;
    p = p * t + 0x1.b11bb6p-4f;
    return p * t;
}

/* x Phi(x), Phi the normal distribution: no cancellation below zero. */
void HQK_NAME(hqk_gelu_exact)(const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) {
        const float a = hqk_float(hqk_bits(x[i]) & 0x7fffffffu);
        const float tail = scaled_upper_tail(a) * hqk_exp(-0.5f * (a * a));
        y[i] = x[i] * (x[i] < 0.0f ? tail : 1.0f - tail);
    }
}

#define INVERSE_SQRT_2PI 0.398942280f

void HQK_NAME(hqk_gelu_exact_backward)(const float *x, const float *dy, size_t n, float *dx) {
    for (size_t i = 0; i < n; i++) {
        const float a = hqk_float(hqk_bits(x[i]) & 0x7fffffffu);
        const float e = hqk_exp(-0.5f * (a * a)), tail = scaled_upper_tail(a) * e;
        dx[i] = dy[i] * ((x[i] < 0.0f ? tail : 1.0f - tail) + x[i] * (e * INVERSE_SQRT_2PI));
    }
}

void HQK_NAME(hqk_silu_gate)(const float *gate, const float *up, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = gate[i] * hqk_sigmoid(gate[i]) * up[i];
}

void HQK_NAME(hqk_silu_gate_backward)(const float *gate, const float *up, const float *dy, size_t n, float *dgate,
                                      float *dup) {
    for (size_t i = 0; i < n; i++) {
        const float s = hqk_sigmoid(gate[i]);
        const float silu = gate[i] * s, gradient = dy[i];
        dgate[i] = gradient * up[i] * (s + silu * (1.0f - s));
        dup[i] = gradient * silu;
    }
}

/* NaN is not below zero and passes. */
static inline float positive(float x) { return x < 0.0f ? 0.0f : x; }

void HQK_NAME(hqk_relu2)(const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = positive(x[i]) * positive(x[i]);
}

void HQK_NAME(hqk_relu2_backward)(const float *x, const float *dy, size_t n, float *dx) {
    for (size_t i = 0; i < n; i++) dx[i] = dy[i] * (2.0f * positive(x[i]));
}

void HQK_NAME(hqk_relu2_gate)(const float *gate, const float *up, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = positive(gate[i]) * positive(gate[i]) * up[i];
}

void HQK_NAME(hqk_relu2_gate_backward)(const float *gate, const float *up, const float *dy, size_t n, float *dgate,
                                       float *dup) {
    for (size_t i = 0; i < n; i++) {
        const float r = positive(gate[i]), gradient = dy[i];
        dgate[i] = gradient * up[i] * (2.0f * r);
        dup[i] = gradient * (r * r);
    }
}
