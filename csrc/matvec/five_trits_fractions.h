/* Five trits a byte with 32-bit dot products, without ever extracting a digit. The byte is a fraction b0 (in 256ths);
 * b' = 3 b mod 256 is the next one and the digit is what the multiplication pushed out: 256 d = 3 b - b'. So
 *   256 * sum d_f x_f = 3 * sum b_f x_f - sum b_(f+1) x_f,
 * two products of fractions a digit. The sums may wrap: what counts is the difference modulo 2^32, and 256 * sum d x fits
 * 32 bits up to 2^15 columns (2 * 128 * 2^15 * 256 = 2^31, reached at the negative end only).
 *
 * `dot(acc, codes, quad)`: acc += codes * quad, four bytes to a 32-bit sum that wraps. */
#include "fetch.h"

#define FIVE_TRITS_VECTORS 4
#define FIVE_TRITS_STEPS ((size_t)(RUN_STEPS < 1638 ? RUN_STEPS : 1638))

HQK_ALWAYS_INLINE void five_trits_steps(const uint8_t *step, const int8_t *x, size_t steps,
                                        vector sums[FIVE_TRITS_VECTORS]) {
    vector here[FIVE_TRITS_VECTORS], next[FIVE_TRITS_VECTORS];
    HQK_UNROLL(4) for (int v = 0; v < FIVE_TRITS_VECTORS; v++) here[v] = next[v] = zero();
    for (size_t s = 0; s < steps; s++, step += HQK_STEP_BYTES, x += HQK_FIVE_TRITS_COLS) {
        vector quad[5];
        fetch_ahead(step, 4 * LANES * FIVE_TRITS_VECTORS);
        HQK_UNROLL(5) for (int f = 0; f < 5; f++) quad[f] = broadcast(hqk_whole_quad(x + 4 * f));
        HQK_UNROLL(4) for (int v = 0; v < FIVE_TRITS_VECTORS; v++) {
            vector fraction = load(step + 4 * LANES * v);
            HQK_UNROLL(5) for (int f = 0; f < 5; f++) {
                dot(&here[v], fraction, quad[f]);
                fraction = times_three8(fraction);
                dot(&next[v], fraction, quad[f]);
            }
        }
    }
    HQK_UNROLL(4) for (int v = 0; v < FIVE_TRITS_VECTORS; v++) {
        vector times_three = add(here[v], add(here[v], here[v]));
        sums[v] = add(sums[v], shift_right(subtract(times_three, next[v]), 8));
    }
}
