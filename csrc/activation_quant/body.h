/* int8 quantization of activations and gradients, written once for every ISA: plain C that the compiler vectorizes.
 *
 * - The largest magnitude is found on bit patterns: for finite floats the order of |x| is the order of the integers,
 *   and NaN and infinity come out on top, so one comparison at the end finds them.
 * - Half-to-even rounding is an addition of 1.5 * 2^23: the integer is then in the low bits of the sum. */
#include "../hqk.h"
#include "../philox_lanes.h"

#include <math.h>
#include <string.h>

#define LANES HQK_DRAW_LANES
#define GROUP HQK_DRAW_GROUP
#define INFINITY_BITS 0x7F800000
/* Gradients smaller than this are zero: 127 / a must stay finite. */
#define TINY 0x1p-100f

static inline int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(int32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline int32_t round_even(float v) { return bits_of(v + 12582912.0f) - 0x4B400000; }

/* floor(v + u), u = (2 r + 1) / 2^17 for 16 random bits r: a float near 127 resolves no finer u. */
static inline int32_t round_stochastic(float v, uint32_t r) {
    float t = v + (float)(int32_t)(2 * r + 1) * 0x1p-17f;
    int32_t q = (int32_t)t;
    q -= (float)q > t;
    q = q > 127 ? 127 : q;
    return q < -127 ? -127 : q;
}

/* Bit pattern of max |x|. */
static int32_t abs_max_bits(const float *x, size_t n) {
    int32_t lane[4 * LANES] = {0}, max = 0;
    size_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int l = 0; l < 4 * LANES; l++) {
            int32_t bits = bits_of(x[i + l]) & 0x7FFFFFFF;
            lane[l] = bits > lane[l] ? bits : lane[l];
        }
    for (; i < n; i++) {
        int32_t bits = bits_of(x[i]) & 0x7FFFFFFF;
        max = bits > max ? bits : max;
    }
    for (int l = 0; l < 4 * LANES; l++) max = lane[l] > max ? lane[l] : max;
    return max;
}

void HQK_NAME(hqk_quantize_rows)(const float *x, size_t rows, size_t width, int8_t *values, float *scales,
                                 int32_t *sums) {
    for (size_t t = 0; t < rows; t++, x += width, values += width) {
        int32_t max_bits = abs_max_bits(x, width), sum = 0;
        if (max_bits >= INFINITY_BITS) {
            memset(values, 0, width);
            scales[t] = NAN, sums[t] = 0;
            continue;
        }
        float a = float_of(max_bits);
        a = a > 1e-5f ? a : 1e-5f;
        float factor = 127.0f / a;
        for (size_t c = 0; c < width; c++) {
            int32_t q = round_even(x[c] * factor);
            values[c] = (int8_t)q;
            sum += q;
        }
        scales[t] = a / 127.0f, sums[t] = sum;
    }
}

/* x * row_factor * factor; zero where the factor is, whatever x is. Without a branch, or it would not vectorize. */
static inline float scaled(float x, float row_factor, float factor) {
    return float_of(bits_of(x * row_factor * factor) & -(int32_t)(factor != 0.0f));
}

/* One group of a row: count <= GROUP values x * row_factor * factor[c]; gives their sum. */
static inline int32_t round_group(const float *x, size_t count, float row_factor, const float *factor,
                                  const uint32_t draws[4], uint64_t group, int8_t *values) {
    uint32_t word[4][LANES];
    int32_t sum = 0;
    hqk_philox_lanes(draws, group, word);
    if (count == GROUP) {
        for (int w = 0; w < 4; w++)
            for (int h = 0; h < 2; h++)
                for (int l = 0; l < LANES; l++) {
                    int c = 32 * w + 16 * h + l;
                    int32_t q = round_stochastic(scaled(x[c], row_factor, factor[c]), word[w][l] >> 16 * h & 0xFFFF);
                    values[c] = (int8_t)q;
                    sum += q;
                }
        return sum;
    }
    for (size_t c = 0; c < count; c++) {
        uint32_t bits = word[c / 32][c % LANES] >> 16 * (c / LANES % 2) & 0xFFFF;
        int32_t q = round_stochastic(scaled(x[c], row_factor, factor[c]), bits);
        values[c] = (int8_t)q;
        sum += q;
    }
    return sum;
}

void HQK_NAME(hqk_quantize_rows_stochastic)(const float *x, size_t rows, size_t width, size_t first_row,
                                            const uint32_t *draws, int8_t *values, float *scales, int32_t *sums) {
    uint64_t groups = (width + GROUP - 1) / GROUP;
    float ones[GROUP];
    for (int c = 0; c < GROUP; c++) ones[c] = 1.0f;
    for (size_t t = 0; t < rows; t++, x += width, values += width) {
        int32_t max_bits = abs_max_bits(x, width), sum = 0;
        float a = float_of(max_bits);
        if (max_bits >= INFINITY_BITS || a < TINY) {
            memset(values, 0, width);
            scales[t] = max_bits >= INFINITY_BITS ? NAN : 0.0f, sums[t] = 0;
            continue;
        }
        float factor = 127.0f / a;
        for (uint64_t g = 0; g < groups; g++) {
            size_t c = g * GROUP, count = width - c < GROUP ? width - c : GROUP;
            sum += round_group(x + c, count, factor, ones, draws, (first_row + t) * groups + g, values + c);
        }
        scales[t] = a / 127.0f, sums[t] = sum;
    }
}

void HQK_NAME(hqk_column_scales)(const float *x, size_t rows, size_t width, size_t stride, const float *row_factors,
                                 float *scales) {
    for (size_t c0 = 0; c0 < width; c0 += GROUP) {
        size_t count = width - c0 < GROUP ? width - c0 : GROUP;
        int32_t max[GROUP] = {0};
        for (size_t t = 0; t < rows; t++) {
            const float *row = x + t * stride + c0;
            float f = row_factors[t];
            for (size_t c = 0; c < count; c++) {
                int32_t bits = bits_of(row[c] * f) & 0x7FFFFFFF;
                max[c] = bits > max[c] ? bits : max[c];
            }
        }
        for (size_t c = 0; c < count; c++) {
            float a = float_of(max[c]);
            scales[c0 + c] = max[c] >= INFINITY_BITS ? NAN : a < TINY ? 0.0f : a / 127.0f;
        }
    }
}

void HQK_NAME(hqk_quantize_columns_stochastic)(const float *x, size_t rows, size_t width, size_t first_row,
                                               const float *row_factors, const float *scales, const uint32_t *draws,
                                               int8_t *values) {
    uint64_t groups = (width + GROUP - 1) / GROUP;
    for (uint64_t g = 0; g < groups; g++) {
        size_t c0 = g * GROUP, count = width - c0 < GROUP ? width - c0 : GROUP;
        float factor[GROUP];
        for (size_t c = 0; c < count; c++) factor[c] = scales[c0 + c] > 0.0f ? 1.0f / scales[c0 + c] : 0.0f;
        for (size_t t = 0; t < rows; t++)
            round_group(x + t * width + c0, count, row_factors[t], factor, draws, (first_row + t) * groups + g,
                        values + t * width + c0);
    }
}
