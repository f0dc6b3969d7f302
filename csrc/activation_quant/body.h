/* int8 quantization of activations and gradients, written once for every ISA: plain C that the compiler vectorizes.
 *
 * - The largest magnitude is found on bit patterns: for finite floats the order of |x| is the order of the integers,
 *   and NaN and infinity come out on top, so one comparison at the end finds them.
 * - Half-to-even rounding is an addition of 1.5 * 2^23: the integer is then in the low bits of the sum.
 * - Stochastic rounding is an integer addition: the value in units of 2^-15, plus 15 random bits, shifted. Nothing needs to
 *   be clamped: two rounding errors of 2^-24 make the largest magnitude, 127 * 2^15 units, less than half a unit too large,
 *   floats there come in quarters, and half-to-even takes a half back. */
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

/* Units of a quantum that stochastic rounding keeps, and the exponent of their number. */
#define UNITS 0x1p15f
#define UNIT_BITS 15

/* floor((v + r) / 2^15), v in units, rounded to a whole one, r below 2^15. (12582912.0f is a multiple of 2^15 units.) */
static inline int32_t round_stochastic(float v, int32_t r) {
    return (int32_t)(((uint32_t)bits_of(v + 12582912.0f) + (uint32_t)r) >> UNIT_BITS) - (0x4B400000 >> UNIT_BITS);
}

/* The batch that was asked for last: two groups draw from one. */
typedef struct {
    uint64_t batch;
    uint32_t word[4][LANES];
} random_words;

#define NO_WORDS {.batch = UINT64_MAX}

/* 15 bits for each element of a group: four elements take a word each, rotated by as many bytes. */
static inline void draw_group(random_words *random, const uint32_t draws[4], uint64_t group, int32_t bits[GROUP]) {
    if (random->batch != group / 2) hqk_philox_lanes(draws, random->batch = group / 2, random->word);
    for (int w = 0; w < 2; w++) {
        const uint32_t *word = random->word[group % 2 * 2 + w];
        for (int l = 0; l < LANES; l++) bits[64 * w + l] = (int32_t)(word[l] >> 17);
        for (int l = 0; l < LANES; l++) bits[64 * w + 16 + l] = (int32_t)(word[l] << 8 >> 17);
        for (int l = 0; l < LANES; l++) bits[64 * w + 32 + l] = (int32_t)(word[l] << 16 >> 17);
        for (int l = 0; l < LANES; l++) bits[64 * w + 48 + l] = (int32_t)((word[l] << 24 | word[l] >> 8) >> 17);
    }
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

/* count <= GROUP values x * row_factor * factor[c] in units; gives their sum. */
static inline int32_t round_group(const float *x, size_t count, float row_factor, const float *factor,
                                  const int32_t bits[GROUP], int8_t *values) {
    int32_t sum = 0;
    int8_t rounded[GROUP]; /* a stored char might be anything that is read, for all the compiler knows */
    if (count == GROUP) {
        for (int c = 0; c < GROUP; c++) {
            int32_t q = round_stochastic(x[c] * row_factor * factor[c], bits[c]);
            rounded[c] = (int8_t)q;
            sum += q;
        }
        memcpy(values, rounded, GROUP);
        return sum;
    }
    for (size_t c = 0; c < count; c++) {
        int32_t q = round_stochastic(x[c] * row_factor * factor[c], bits[c]);
        values[c] = (int8_t)q;
        sum += q;
    }
    return sum;
}

/* The scale of a row or column whose largest magnitude has these bits. */
static inline float scale_of(int32_t max_bits) {
    float a = float_of(max_bits);
    return max_bits >= INFINITY_BITS ? NAN : a < TINY ? 0.0f : a / 127.0f;
}

void HQK_NAME(hqk_quantize_rows_stochastic)(const float *x, size_t rows, size_t width, size_t first_row,
                                            const uint32_t *draws, int8_t *values, float *scales, int32_t *sums) {
    uint64_t groups = (width + GROUP - 1) / GROUP;
    random_words random = NO_WORDS;
    int32_t bits[GROUP];
    float ones[GROUP];
    for (int c = 0; c < GROUP; c++) ones[c] = 1.0f;
    for (size_t t = 0; t < rows; t++, x += width, values += width) {
        int32_t max_bits = abs_max_bits(x, width), sum = 0;
        scales[t] = scale_of(max_bits);
        if (!(scales[t] > 0.0f)) {
            memset(values, 0, width);
            sums[t] = 0;
            continue;
        }
        float factor = 127.0f / float_of(max_bits) * UNITS;
        for (uint64_t g = 0; g < groups; g++) {
            size_t c = g * GROUP, count = width - c < GROUP ? width - c : GROUP;
            draw_group(&random, draws, (first_row + t) * groups + g, bits);
            sum += round_group(x + c, count, factor, ones, bits, values + c);
        }
        sums[t] = sum;
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
        for (size_t c = 0; c < count; c++) scales[c0 + c] = scale_of(max[c]);
    }
}

/* Columns whose factors are at hand at a time: a multiple of two groups, which draw from one batch. */
#define FACTORS 1024

/* 1 / scale in units, 0 where there is none; whether a scale is NaN: the values of that column must be set to zero. */
static inline int unit_factors(const float *scales, size_t count, float *factors) {
    int32_t any = 0;
    for (size_t c = 0; c < count; c++) {
        factors[c] = scales[c] > 0.0f ? 1.0f / scales[c] * UNITS : 0.0f;
        any |= scales[c] != scales[c];
    }
    return any;
}

static void clear_columns(const float *scales, size_t count, int8_t *values) {
    for (size_t c = 0; c < count; c++)
        if (scales[c] != scales[c]) values[c] = 0;
}

void HQK_NAME(hqk_quantize_columns_stochastic)(const float *x, size_t rows, size_t width, size_t first_row,
                                               const float *row_factors, const float *scales, const uint32_t *draws,
                                               int8_t *values) {
    uint64_t groups = (width + GROUP - 1) / GROUP;
    random_words random = NO_WORDS;
    int32_t bits[GROUP];
    for (size_t c0 = 0; c0 < width; c0 += FACTORS) {
        size_t end = width - c0 < FACTORS ? width : c0 + FACTORS;
        float factors[FACTORS];
        int bad = unit_factors(scales + c0, end - c0, factors);
        for (size_t t = 0; t < rows; t++) {
            for (size_t c = c0; c < end; c += GROUP) {
                size_t count = end - c < GROUP ? end - c : GROUP;
                draw_group(&random, draws, (first_row + t) * groups + c / GROUP, bits);
                round_group(x + t * width + c, count, row_factors[t], factors + c - c0, bits, values + t * width + c);
            }
            if (bad) clear_columns(scales + c0, end - c0, values + t * width + c0);
        }
    }
}

void HQK_NAME(hqk_gradient_maxima)(const float *x, size_t rows, size_t width, const float *row_factors,
                                   const float *column_factors, float *row_maxima, float *column_maxima) {
    memset(column_maxima, 0, width * sizeof(float));
    for (size_t t = 0; t < rows; t++, x += width) {
        int32_t lane[LANES] = {0}, max = 0;
        float f = row_factors[t];
        size_t c = 0;
        for (; c + LANES <= width; c += LANES)
            for (int l = 0; l < LANES; l++) {
                int32_t of_column = bits_of(x[c + l] * f) & 0x7FFFFFFF, before = bits_of(column_maxima[c + l]);
                int32_t of_row = bits_of(x[c + l] * column_factors[c + l]) & 0x7FFFFFFF;
                column_maxima[c + l] = float_of(of_column > before ? of_column : before);
                lane[l] = of_row > lane[l] ? of_row : lane[l];
            }
        for (; c < width; c++) {
            int32_t of_column = bits_of(x[c] * f) & 0x7FFFFFFF, before = bits_of(column_maxima[c]);
            int32_t of_row = bits_of(x[c] * column_factors[c]) & 0x7FFFFFFF;
            column_maxima[c] = float_of(of_column > before ? of_column : before);
            max = of_row > max ? of_row : max;
        }
        for (int l = 0; l < LANES; l++) max = lane[l] > max ? lane[l] : max;
        row_maxima[t] = float_of(max);
    }
}

/* Both values of the elements of a group; gives the sum of those by row. */
static inline int32_t round_group_twice(const float *x, size_t count, float row_factor, const float *column_units,
                                        const float *column_factors, float row_units, const int32_t bits[GROUP],
                                        int8_t *by_row, int8_t *by_column) {
    int32_t sum = 0;
    int8_t of_row[GROUP], of_column[GROUP];
    if (count == GROUP) {
        for (int c = 0; c < GROUP; c++) {
            int32_t q = round_stochastic(x[c] * column_factors[c] * row_units, bits[c]);
            of_row[c] = (int8_t)q;
            sum += q;
            of_column[c] = (int8_t)round_stochastic(x[c] * row_factor * column_units[c], bits[c]);
        }
        memcpy(by_row, of_row, GROUP);
        memcpy(by_column, of_column, GROUP);
        return sum;
    }
    for (size_t c = 0; c < count; c++) {
        int32_t q = round_stochastic(x[c] * column_factors[c] * row_units, bits[c]);
        by_row[c] = (int8_t)q;
        sum += q;
        by_column[c] = (int8_t)round_stochastic(x[c] * row_factor * column_units[c], bits[c]);
    }
    return sum;
}

void HQK_NAME(hqk_quantize_gradient)(const float *x, size_t rows, size_t width, size_t stride, size_t first_group,
                                     const float *row_factors, const float *column_factors, const float *row_scales,
                                     const float *column_scales, const uint32_t *draws, int8_t *by_row,
                                     int8_t *by_column, int32_t *sums) {
    uint64_t groups = (stride + GROUP - 1) / GROUP;
    random_words random = NO_WORDS;
    int32_t bits[GROUP];
    if (rows) memset(sums, 0, rows * sizeof(int32_t));
    for (size_t c0 = 0; c0 < width; c0 += FACTORS) {
        size_t end = width - c0 < FACTORS ? width : c0 + FACTORS;
        float column_units[FACTORS];
        int bad = unit_factors(column_scales + c0, end - c0, column_units);
        for (size_t t = 0; t < rows; t++) {
            int8_t *row = by_row + t * width, *columns = by_column + t * width;
            float row_units;
            int bad_row = unit_factors(row_scales + t, 1, &row_units);
            for (size_t c = c0; c < end; c += GROUP) {
                size_t count = end - c < GROUP ? end - c : GROUP;
                draw_group(&random, draws, first_group + t * groups + c / GROUP, bits);
                sums[t] += round_group_twice(x + t * stride + c, count, row_factors[t], column_units + c - c0,
                                             column_factors + c, row_units, bits, row + c, columns + c);
            }
            if (bad) clear_columns(column_scales + c0, end - c0, columns + c0);
            if (bad_row) memset(row + c0, 0, end - c0), sums[t] = 0;
        }
    }
}
