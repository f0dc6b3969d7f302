/* The softmax family, written once for every ISA: plain C that the compiler vectorizes. Sums are taken in 16 fixed f64
 * lanes, maxima do not depend on the order, exp is exp.h's: the same bits at every width. */
#include "../exp.h"
#include "../hqk.h"
#include "../lanes.h"

/* Elements whose exponentials are held at a time where they are not stored. */
#define CHUNK 256

/* The bits of a float as an integer of the same order, and back. */
static inline int32_t ordered(int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); }

/* The largest element, found among integers, whose maximum compilers vectorize. A NaN is among the elements in any case
 * and reaches the sum, whichever element is taken. */
static float row_max(const float *x, size_t n) {
    int32_t most = INT32_MIN;
    for (size_t i = 0; i < n; i++) {
        const int32_t value = ordered((int32_t)hqk_bits(x[i]));
        most = value > most ? value : most;
    }
    return hqk_float((uint32_t)ordered(most));
}

static void add_to_lanes(double lane[HQK_LANES], const float *x, size_t n) {
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)x[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += (double)x[i];
}

static double sum_products(const float *x, const float *y, size_t n) {
    double lane[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)x[i + l] * (double)y[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += (double)x[i] * (double)y[i];
    return hqk_sum_lanes(lane);
}

void HQK_NAME(hqk_softmax_rows)(float *x, size_t rows, size_t width, float scale, const uint32_t *ranges, float *lse) {
    for (size_t row = 0; row < rows; row++, x += width) {
        const size_t first = ranges[2 * row], end = ranges[2 * row + 1], n = end - first;
        float *valid = x + first;
        for (size_t i = 0; i < first; i++) x[i] = 0.0f;
        for (size_t i = end; i < width; i++) x[i] = 0.0f;
        if (n == 0) {
            lse[row] = -hqk_float(0x7f800000u);
            continue;
        }
        /* scale > 0, so the largest product is the product of the largest. */
        const float most = row_max(valid, n) * scale;
        for (size_t i = 0; i < n; i++) valid[i] = hqk_exp(valid[i] * scale - most);
        double lane[HQK_LANES] = {0};
        add_to_lanes(lane, valid, n);
        const float sum = (float)hqk_sum_lanes(lane), inverse = 1.0f / sum;
        for (size_t i = 0; i < n; i++) valid[i] *= inverse;
        lse[row] = most + hqk_log(sum);
    }
}

void HQK_NAME(hqk_softmax_backward_rows)(const float *p, size_t rows, size_t width, float scale, float *gradient) {
    for (size_t row = 0; row < rows; row++, p += width, gradient += width) {
        const float mean = (float)sum_products(p, gradient, width);
        for (size_t i = 0; i < width; i++) gradient[i] = p[i] * (gradient[i] - mean) * scale;
    }
}

void HQK_NAME(hqk_cross_entropy_rows)(float *logits, size_t rows, size_t vocabulary, const uint32_t *targets,
                                      float gradient_scale, float *losses) {
    for (size_t row = 0; row < rows; row++, logits += vocabulary) {
        const float most = row_max(logits, vocabulary), of_target = logits[targets[row]];
        double lane[HQK_LANES] = {0};
        for (size_t start = 0; start < vocabulary; start += CHUNK) {
            const size_t n = vocabulary - start < CHUNK ? vocabulary - start : CHUNK;
            for (size_t i = start; i < start + n; i++) logits[i] = hqk_exp(logits[i] - most);
            add_to_lanes(lane, logits + start, n);
        }
        const float sum = (float)hqk_sum_lanes(lane), factor = gradient_scale / sum;
        losses[row] = hqk_log(sum) + (most - of_target);
        for (size_t i = 0; i < vocabulary; i++) logits[i] *= factor;
        logits[targets[row]] -= gradient_scale;
    }
}

void HQK_NAME(hqk_cross_entropy_losses_rows)(const float *logits, size_t rows, size_t vocabulary,
                                             const uint32_t *targets, float *losses) {
    for (size_t row = 0; row < rows; row++, logits += vocabulary) {
        const float most = row_max(logits, vocabulary);
        double lane[HQK_LANES] = {0};
        for (size_t start = 0; start < vocabulary; start += CHUNK) {
            const size_t n = vocabulary - start < CHUNK ? vocabulary - start : CHUNK;
            float chunk[CHUNK];
            for (size_t i = 0; i < n; i++) chunk[i] = hqk_exp(logits[start + i] - most);
            add_to_lanes(lane, chunk, n);
        }
        losses[row] = hqk_log((float)hqk_sum_lanes(lane)) + (most - logits[targets[row]]);
    }
}
