/* The AdamW family, written once for every ISA: plain C that the compiler vectorizes. Square root and division are
 * exact and nothing is contracted, so all ISAs give the same bits. */
#include "../hqk.h"
#include "../update_sums.h"

#include <math.h>

static inline float direction(float gradient, float m, float v, float first, float second, float epsilon, float bias) {
    float mean = m * first;
    return (mean + bias * (mean - gradient)) / (sqrtf(v) * second + epsilon);
}

void HQK_NAME(hqk_adamw_moments)(const float *gradient, const float *weight, size_t n,
                                 const hqk_adamw_settings *settings, float *first_moment, float *second_moment,
                                 double *sums) {
    const hqk_adamw_settings s = *settings;
    hqk_update_lanes lanes = {0};
    for (size_t start = 0; start < n; start += HQK_CHUNK) {
        size_t length = n - start < HQK_CHUNK ? n - start : HQK_CHUNK;
        const float *g = gradient + start;
        float *m = first_moment + start, *v = second_moment + start;
        float update[HQK_CHUNK], previous[HQK_CHUNK];
        for (size_t i = 0; i < length; i++) {
            float before = m[i], before_squared = v[i];
            previous[i] = direction(0.0f, before, before_squared, s.previous_correction1, s.previous_correction2,
                                    s.epsilon, 0.0f);
            float after = before + s.new_share1 * (g[i] - before);
            float after_squared = s.beta2 * before_squared + s.new_share2 * g[i] * g[i];
            update[i] = direction(g[i], after, after_squared, s.correction1, s.correction2, s.epsilon, s.bias);
            m[i] = after;
            v[i] = after_squared;
        }
        hqk_add_chunk(&lanes, g, weight + start, update, previous, length);
    }
    hqk_store_sums(&lanes, sums);
}

void HQK_NAME(hqk_adamw_apply)(const float *gradient, const float *first_moment, const float *second_moment, size_t n,
                               const hqk_adamw_settings *settings, float keep, float rate, float *weight) {
    const hqk_adamw_settings s = *settings;
    if (s.bias == 0.0f) { /* The gradient is not read: a quarter of the traffic. */
        for (size_t i = 0; i < n; i++)
            weight[i] = weight[i] * keep - rate * direction(0.0f, first_moment[i], second_moment[i], s.correction1,
                                                            s.correction2, s.epsilon, 0.0f);
        return;
    }
    for (size_t i = 0; i < n; i++)
        weight[i] = weight[i] * keep - rate * direction(gradient[i], first_moment[i], second_moment[i], s.correction1,
                                                        s.correction2, s.epsilon, s.bias);
}
