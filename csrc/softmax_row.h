/* One row of softmax and of its gradient, for the softmax and attention families: plain C that the compiler vectorizes.
 * Sums are taken in 16 fixed f64 lanes, maxima do not depend on the order, exp is exp.h's: the same bits at every
 * width. */
#ifndef HQK_SOFTMAX_ROW_H
#define HQK_SOFTMAX_ROW_H

#include "exp.h"
#include "lanes.h"

/* The bits of a float as an integer of the same order, and back. */
static inline int32_t hqk_ordered(int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); }

/* The largest element, found among integers, whose maximum compilers vectorize. A NaN is among the elements in any case
 * and reaches the sum, whichever element is taken. */
static inline float hqk_row_max(const float *x, size_t n) {
    int32_t most = INT32_MIN;
    for (size_t i = 0; i < n; i++) {
        const int32_t value = hqk_ordered((int32_t)hqk_bits(x[i]));
        most = value > most ? value : most;
    }
    return hqk_float((uint32_t)hqk_ordered(most));
}

static inline void hqk_add_to_lanes(double lane[HQK_LANES], const float *x, size_t n) {
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)x[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += (double)x[i];
}

/* x = softmax(scale x) of n > 0 elements; gives ln sum exp(scale x). scale > 0, so the largest product is the product of
 * the largest. */
static inline float hqk_softmax_row(float *x, size_t n, float scale) {
    const float most = hqk_row_max(x, n) * scale;
    for (size_t i = 0; i < n; i++) x[i] = hqk_exp(x[i] * scale - most);
    double lane[HQK_LANES] = {0};
    hqk_add_to_lanes(lane, x, n);
    const float sum = (float)hqk_sum_lanes(lane), inverse = 1.0f / sum;
    for (size_t i = 0; i < n; i++) x[i] *= inverse;
    return most + hqk_log(sum);
}

/* gradient = scale p (gradient - <p, gradient>). */
static inline void hqk_softmax_backward_row(const float *p, size_t n, float scale, float *gradient) {
    double lane[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)p[i + l] * (double)gradient[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += (double)p[i] * (double)gradient[i];
    const float mean = (float)hqk_sum_lanes(lane);
    for (i = 0; i < n; i++) gradient[i] = p[i] * (gradient[i] - mean) * scale;
}

#endif
