/* The 2-bit layout with 32-bit dot products: the fields of a byte are masked, not shifted. Field f then counts 4^f
 * times, each field has its own accumulator, and one shift at the end takes the factor back (exactly: every term is a
 * multiple of it). The largest sum, 128 * 128 * k / 4 of field 3, bounds k (TERNARY_MAX_K).
 *
 * `dot(acc, codes, quad)`: acc += codes * quad, four bytes to a 32-bit sum. */
#include "fetch.h"

#define TWO_BITS_STEPS RUN_STEPS

HQK_ALWAYS_INLINE void two_bits_steps(const uint8_t *step, const int8_t *x, size_t steps,
                                      vector sums[TWO_BITS_VECTORS]) {
    vector acc[4][TWO_BITS_VECTORS];
    HQK_UNROLL(4) for (int f = 0; f < 4; f++)
        HQK_UNROLL(4) for (int v = 0; v < TWO_BITS_VECTORS; v++) acc[f][v] = zero();
    for (size_t s = 0; s < steps; s++, step += HQK_STEP_BYTES, x += HQK_STEP_COLS) {
        vector quad[4];
        fetch_ahead(step, 4 * LANES * TWO_BITS_VECTORS);
        HQK_UNROLL(4) for (int f = 0; f < 4; f++) quad[f] = broadcast(hqk_whole_quad(x + 4 * f));
        HQK_UNROLL(4) for (int v = 0; v < TWO_BITS_VECTORS; v++) {
            vector bytes = load(step + 4 * LANES * v);
            HQK_UNROLL(4) for (int f = 0; f < 4; f++)
                dot(&acc[f][v], both(bytes, broadcast8(3 << 2 * f)), quad[f]);
        }
    }
    HQK_UNROLL(4) for (int v = 0; v < TWO_BITS_VECTORS; v++) {
        vector low = add(acc[0][v], shift_right(acc[1][v], 2));
        vector high = add(shift_right(acc[2][v], 4), shift_right(acc[3][v], 6));
        sums[v] = add(sums[v], add(low, high));
    }
}
