/* How the NEON products of one token walk through a packed matrix: half a block (32 rows) at a time, whose accumulators
 * fill the registers. Both halves of a run of steps are read before the next run, so that the matrix is one linear
 * stream. */
#ifndef HQK_MATVEC_NEON_H
#define HQK_MATVEC_NEON_H

#include "../ternary/neon.h"

/* Registers of 4 rows in half a block. */
#define HALF 8

/* Adds the products of `steps` steps, of which `half` is the first byte, to the sums of 32 rows. */
typedef void run_of_steps(const uint8_t *half, const int8_t *x, size_t steps, int32x4_t sums[HALF]);

/* `run_steps`: how many steps `run` takes at most; `start`: what every sum begins with. */
HQK_ALWAYS_INLINE void walk(const uint8_t *packed, size_t cols, const int8_t *x, size_t step_cols, size_t run_steps,
                            run_of_steps *run, int32_t start, const hqk_target *to) {
    size_t whole = cols / step_cols, rest = cols % step_cols;
    int8_t tail[HQK_FIVE_TRITS_COLS] = {0};
    memcpy(tail, x + cols - rest, rest);
    for (size_t r = 0; r < to->outputs; r += HQK_BLOCK_ROWS) {
        int32x4_t sums[2 * HALF];
        for (int v = 0; v < 2 * HALF; v++) sums[v] = vdupq_n_s32(start);
        for (size_t s = 0, steps; s < whole + (rest > 0); s += steps, packed += steps * HQK_STEP_BYTES) {
            steps = s < whole ? hqk_min(whole - s, run_steps) : 1;
            const int8_t *from = s < whole ? x + s * step_cols : tail;
            for (size_t h = 0; h < 2 && r + 32 * h < to->outputs; h++)
                run(packed + HQK_STEP_BYTES / 2 * h, from, steps, sums + HALF * h);
        }
        hqk_store_tile(to, 0, 1, r, 2 * HALF, sums);
    }
}

#endif
