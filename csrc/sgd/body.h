/* The SGD family, written once for every ISA: plain C that the compiler vectorizes, with nothing contracted. */
#include "../hqk.h"
#include "../update_sums.h"

static inline float direction(float gradient, float velocity, float whole, float bias) {
    return velocity + bias * (velocity - gradient * whole);
}

void HQK_NAME(hqk_sgd_velocity)(const float *gradient, const float *weight, size_t n,
                                const hqk_sgd_settings *settings, float *velocity, double *sums) {
    const hqk_sgd_settings s = *settings;
    hqk_update_lanes lanes = {0};
    for (size_t start = 0; start < n; start += HQK_CHUNK) {
        size_t length = n - start < HQK_CHUNK ? n - start : HQK_CHUNK;
        const float *g = gradient + start, *w = weight + start;
        float *velocities = velocity + start;
        float update[HQK_CHUNK], previous[HQK_CHUNK];
        for (size_t i = 0; i < length; i++) {
            previous[i] = velocities[i];
            float decayed = g[i] + s.weight_decay * w[i];
            velocities[i] = s.momentum * velocities[i] + decayed;
            update[i] = direction(decayed, velocities[i], s.whole, s.bias);
        }
        hqk_add_chunk(&lanes, g, w, update, previous, length);
    }
    hqk_store_sums(&lanes, sums);
}

void HQK_NAME(hqk_sgd_apply)(const float *gradient, const float *velocity, size_t n, const hqk_sgd_settings *settings,
                             float rate, float *weight) {
    const hqk_sgd_settings s = *settings;
    if (s.bias == 0.0f) {
        for (size_t i = 0; i < n; i++) weight[i] -= rate * velocity[i];
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float decayed = gradient[i] + s.weight_decay * weight[i];
        weight[i] -= rate * direction(decayed, velocity[i], s.whole, s.bias);
    }
}
