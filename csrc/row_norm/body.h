/* The row_norm family (RMSNorm and LayerNorm), written once for every ISA: plain C that the compiler vectorizes. Sums
 * within a row are taken in 16 fixed f64 lanes, so the same bits come out at every width. */
#include "../exp.h"
#include "../hqk.h"
#include "../lanes.h"

#include <math.h>

static float inverse_rms(const float *x, size_t width, float eps) {
    double lane[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= width; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)x[i + l] * (double)x[i + l];
    for (int l = 0; i < width; i++, l++) lane[l] += (double)x[i] * (double)x[i];
    return (float)(1.0 / sqrt(hqk_sum_lanes(lane) / (double)width + (double)eps));
}

void HQK_NAME(hqk_rms_norm_rows)(const float *x, const float *gain, size_t rows, size_t width, float eps, float *y,
                                 float *inverses) {
    for (size_t row = 0; row < rows; row++, x += width, y += width) {
        const float inverse = inverse_rms(x, width, eps);
        for (size_t i = 0; i < width; i++) y[i] = x[i] * inverse * gain[i];
        inverses[row] = inverse;
    }
}

/* The normed row is computed twice, for its largest element and for its int8 values, rather than stored. */
void HQK_NAME(hqk_rms_norm_quantize_rows)(const float *x, const float *gain, size_t rows, size_t width, float eps,
                                          int8_t *values, float *scales, int32_t *sums, float *inverses) {
    for (size_t row = 0; row < rows; row++, x += width, values += width) {
        const float inverse = inverse_rms(x, width, eps);
        /* Without their sign bit, floats are ordered as integers; NaN comes out largest. */
        int32_t most = 0;
        for (size_t i = 0; i < width; i++) {
            const int32_t bits = (int32_t)(hqk_bits(x[i] * inverse * gain[i]) & 0x7fffffffu);
            most = bits > most ? bits : most;
        }
        inverses[row] = inverse;
        if (most >= 0x7f800000) {
            memset(values, 0, width);
            scales[row] = hqk_float(0x7fc00000u), sums[row] = 0;
            continue;
        }
        const float absolute = hqk_float((uint32_t)most), largest = absolute > 1e-5f ? absolute : 1e-5f;
        const float factor = 127.0f / largest;
        int32_t sum = 0;
        for (size_t i = 0; i < width; i++) {
            const float v = x[i] * inverse * gain[i] * factor;
            const int32_t q = (int32_t)(hqk_bits(v + HQK_ROUNDER) - hqk_bits(HQK_ROUNDER));
            values[i] = (int8_t)q;
            sum += q;
        }
        scales[row] = largest / 127.0f;
        sums[row] = sum;
    }
}

void HQK_NAME(hqk_rms_norm_backward_rows)(const float *x, const float *gain, const float *inverses, const float *dy,
                                          size_t rows, size_t width, float *dx, float *gain_gradient) {
    for (size_t row = 0; row < rows; row++, x += width, dy += width, dx += width) {
        const float inverse = inverses[row];
        double lane[HQK_LANES] = {0};
        size_t i = 0;
        for (; i + HQK_LANES <= width; i += HQK_LANES)
            for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)(dy[i + l] * gain[i + l]) * (double)x[i + l];
        for (int l = 0; i < width; i++, l++) lane[l] += (double)(dy[i] * gain[i]) * (double)x[i];
        const double square = (double)inverse * (double)inverse;
        const float along = (float)(hqk_sum_lanes(lane) * square / (double)width);
        for (i = 0; i < width; i++) dx[i] = (dy[i] * gain[i] - x[i] * along) * inverse;
        for (i = 0; i < width; i++) gain_gradient[i] += dy[i] * (x[i] * inverse);
    }
}

void HQK_NAME(hqk_layer_norm_rows)(const float *x, const float *gain, const float *bias, size_t rows, size_t width,
                                   float eps, float *y, float *statistics) {
    for (size_t row = 0; row < rows; row++, x += width, y += width) {
        double lane[HQK_LANES] = {0};
        size_t i = 0;
        for (; i + HQK_LANES <= width; i += HQK_LANES)
            for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)x[i + l];
        for (int l = 0; i < width; i++, l++) lane[l] += (double)x[i];
        const float mean = (float)(hqk_sum_lanes(lane) / (double)width);
        /* The centred row waits in y: two passes, so a large mean costs no accuracy. */
        for (i = 0; i < width; i++) y[i] = x[i] - mean;
        const float inverse = inverse_rms(y, width, eps);
        for (i = 0; i < width; i++) y[i] = y[i] * inverse * gain[i] + bias[i];
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = inverse;
    }
}

void HQK_NAME(hqk_layer_norm_backward_rows)(const float *x, const float *gain, const float *statistics,
                                            const float *dy, size_t rows, size_t width, float *dx,
                                            float *gain_gradient, float *bias_gradient) {
    for (size_t row = 0; row < rows; row++, x += width, dy += width, dx += width) {
        const float mean = statistics[2 * row], inverse = statistics[2 * row + 1];
        double plain[HQK_LANES] = {0}, weighted[HQK_LANES] = {0};
        /* Two loops: compilers do not vectorize one over both sums. */
        size_t i = 0;
        for (; i + HQK_LANES <= width; i += HQK_LANES)
            for (int l = 0; l < HQK_LANES; l++) plain[l] += (double)(dy[i + l] * gain[i + l]);
        for (int l = 0; i < width; i++, l++) plain[l] += (double)(dy[i] * gain[i]);
        for (i = 0; i + HQK_LANES <= width; i += HQK_LANES)
            for (int l = 0; l < HQK_LANES; l++)
                weighted[l] += (double)(dy[i + l] * gain[i + l]) * (double)((x[i + l] - mean) * inverse);
        for (int l = 0; i < width; i++, l++) weighted[l] += (double)(dy[i] * gain[i]) * (double)((x[i] - mean) * inverse);
        const float offset = (float)(hqk_sum_lanes(plain) / (double)width);
        const float along = (float)(hqk_sum_lanes(weighted) / (double)width);
        for (i = 0; i < width; i++) dx[i] = (dy[i] * gain[i] - offset - (x[i] - mean) * inverse * along) * inverse;
        for (i = 0; i < width; i++) gain_gradient[i] += dy[i] * ((x[i] - mean) * inverse);
        for (i = 0; i < width; i++) bias_gradient[i] += dy[i];
    }
}
