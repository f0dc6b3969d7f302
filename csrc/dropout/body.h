/* Dropout, written once for every ISA. Element i keeps its value iff word i mod 4 of Philox block i / 4 is at least
 * `threshold`; sixteen blocks are drawn at a time so that the compiler vectorizes across them. */
#include "../hqk.h"
#include "../philox.h"

#define BLOCKS 16

void HQK_NAME(hqk_dropout)(const float *x, size_t n, const uint32_t *key, uint32_t tensor, uint32_t step,
                           uint64_t first, uint32_t threshold, float factor, float *y) {
    for (size_t start = 0; start < n; start += 4 * BLOCKS) {
        uint32_t words[BLOCKS][4];
        for (int b = 0; b < BLOCKS; b++) {
            const uint64_t block = (first + start) / 4 + (uint64_t)b;
            const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), tensor, step};
            hqk_philox(counter, key, words[b]);
        }
        const uint32_t *word = words[0];
        const size_t count = n - start < 4 * BLOCKS ? n - start : 4 * BLOCKS;
        /* Without a branch, or it would not vectorize. */
        for (size_t i = 0; i < count; i++) {
            const float kept = x[start + i] * factor;
            y[start + i] = word[i] < threshold ? 0.0f : kept;
        }
    }
}
