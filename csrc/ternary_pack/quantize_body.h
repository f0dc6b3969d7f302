/* Quantizing and packing where no ISA has it by hand: comparisons of 64 columns at a time in loops long enough for the
 * compiler to vectorize, four rows as the order of the sum demands. */
#include "../lanes.h"
#include "../prefetch.h"

#include <math.h>

#define COLS 64

/* Codes of 64 weights, and their magnitudes where they exceed the threshold (0 elsewhere). */
static inline void quantize_columns(const float w[COLS], float threshold, uint8_t code[COLS], float kept[COLS]) {
    int32_t wide[COLS];
    for (int c = 0; c < COLS; c++) wide[c] = 1 + (w[c] > threshold) - (w[c] < -threshold);
    for (int c = 0; c < COLS; c++) code[c] = (uint8_t)wide[c];
    for (int c = 0; c < COLS; c++) {
        float magnitude = fabsf(w[c]);
        kept[c] = magnitude > threshold ? magnitude : 0.0f;
    }
}

static inline double quantize_pack(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                   size_t threshold_stride, uint8_t *packed, int with_sum) {
    double lane[HQK_LANES] = {0};
    float kept[4][COLS];
    uint8_t code[COLS];
    fill_padding(rows, cols, packed);
    for (size_t first = 0; first < rows; first += 4) {
        size_t count = hqk_min(rows - first, 4);
        for (size_t c = 0; c < cols; c += COLS) {
            size_t steps = hqk_steps(hqk_min(cols - c, COLS));
            for (size_t i = 0; i < count; i++) {
                const float *w = weights + (first + i) * cols + c;
                float part[COLS];
                for (size_t l = 0; l < COLS; l += 16) hqk_prefetch(w + l, 4 * cols * sizeof *w); /* the next four rows */
                if (cols - c < COLS) {
                    memset(part, 0, sizeof part);
                    w = memcpy(part, w, (cols - c) * sizeof *part);
                }
                quantize_columns(w, thresholds[(first + i) * threshold_stride], code, kept[i]);
                for (size_t s = 0; s < steps; s++) {
                    uint32_t word = join_fields(code + HQK_STEP_COLS * s);
                    memcpy(packed + hqk_byte_of(first + i, c + HQK_STEP_COLS * s, cols), &word, sizeof word);
                }
            }
            if (!with_sum) continue;
            for (size_t s = 0; s < steps; s++)
                for (size_t i = 0; i < count; i++)
                    for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)kept[i][HQK_LANES * s + l];
        }
    }
    return hqk_sum_lanes(lane);
}

void HQK_NAME(hqk_ternary_quantize_pack)(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                         size_t threshold_stride, uint8_t *packed) {
    quantize_pack(weights, rows, cols, thresholds, threshold_stride, packed, 0);
}

void HQK_NAME(hqk_ternary_quantize_pack_sum)(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                             size_t threshold_stride, uint8_t *packed, double *kept) {
    *kept = quantize_pack(weights, rows, cols, thresholds, threshold_stride, packed, 1);
}
