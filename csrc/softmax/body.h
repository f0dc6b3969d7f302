/* Cross entropy of softmax, written once for every ISA: plain C that the compiler vectorizes (softmax_row.h). */
#include "../hqk.h"
#include "../softmax_row.h"

/* Elements whose exponentials are held at a time where they are not stored. */
#define CHUNK 256

void HQK_NAME(hqk_cross_entropy_rows)(float *logits, size_t rows, size_t vocabulary, const uint32_t *targets,
                                      float gradient_scale, float *losses) {
    for (size_t row = 0; row < rows; row++, logits += vocabulary) {
        const float most = hqk_row_max(logits, vocabulary), of_target = logits[targets[row]];
        double lane[HQK_LANES] = {0};
        for (size_t start = 0; start < vocabulary; start += CHUNK) {
            const size_t n = vocabulary - start < CHUNK ? vocabulary - start : CHUNK;
            for (size_t i = start; i < start + n; i++) logits[i] = hqk_exp(logits[i] - most);
            hqk_add_to_lanes(lane, logits + start, n);
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
        const float most = hqk_row_max(logits, vocabulary);
        double lane[HQK_LANES] = {0};
        for (size_t start = 0; start < vocabulary; start += CHUNK) {
            const size_t n = vocabulary - start < CHUNK ? vocabulary - start : CHUNK;
            float chunk[CHUNK];
            for (size_t i = 0; i < n; i++) chunk[i] = hqk_exp(logits[start + i] - most);
            hqk_add_to_lanes(lane, chunk, n);
        }
        losses[row] = hqk_log((float)hqk_sum_lanes(lane)) + (most - logits[targets[row]]);
    }
}
