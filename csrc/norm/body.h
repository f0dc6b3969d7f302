/* The norm family, written once for every ISA: plain C that the compiler vectorizes at the width of the including
 * file's ISA. The 16 lanes are fixed, so the order of additions, and with it every bit of the result, is the same
 * whatever the width. */
#include "../hqk.h"
#include "../lanes.h"

#include <math.h>

void HQK_NAME(hqk_abs_sum)(const float *x, size_t n, double *out) {
    double lane[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)fabsf(x[i + l]);
    for (int l = 0; i < n; i++, l++) lane[l] += (double)fabsf(x[i]);
    *out = hqk_sum_lanes(lane);
}

void HQK_NAME(hqk_sum_squares)(const float *x, size_t n, double *out) {
    double lane[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)x[i + l] * (double)x[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += (double)x[i] * (double)x[i];
    *out = hqk_sum_lanes(lane);
}

void HQK_NAME(hqk_dot)(const float *x, const float *y, size_t n, double *out) {
    double lane[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)x[i + l] * (double)y[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += (double)x[i] * (double)y[i];
    *out = hqk_sum_lanes(lane);
}

/* Elements converted at a time: in one loop with the products compilers would take the narrowest vectors for all of it. */
#define CONVERTED 256

void HQK_NAME(hqk_dot_i8)(const int8_t *x, const float *y, size_t n, double *out) {
    double sum = 0.0;
    float wide[CONVERTED];
    for (size_t first = 0; first < n; first += CONVERTED) {
        size_t count = n - first < CONVERTED ? n - first : CONVERTED;
        double part;
        for (size_t i = 0; i < count; i++) wide[i] = (float)x[first + i];
        HQK_NAME(hqk_dot)(wide, y + first, count, &part);
        sum += part;
    }
    *out = sum;
}

void HQK_NAME(hqk_abs_and_square_sums)(const float *x, size_t n, double *out) {
    double magnitude[HQK_LANES] = {0}, square[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) {
            double wide = (double)fabsf(x[i + l]);
            magnitude[l] += wide;
            square[l] += wide * wide;
        }
    for (int l = 0; i < n; i++, l++) {
        double wide = (double)fabsf(x[i]);
        magnitude[l] += wide;
        square[l] += wide * wide;
    }
    out[0] = hqk_sum_lanes(magnitude);
    out[1] = hqk_sum_lanes(square);
}

void HQK_NAME(hqk_scale)(float *x, size_t n, float factor) {
    for (size_t i = 0; i < n; i++) x[i] *= factor;
}
