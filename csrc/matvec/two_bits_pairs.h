/* The 2-bit layout with products added in pairs of 16 bits: fields 0 and 2 are summed as they are, fields 1 and 3 stay
 * shifted by two, which saves two shifts a byte. A lane of these moves by -2048 to 2032 a field, so 16 additions, 8
 * steps, just fit: -32768 to 32512. */
#include "fetch.h"

#define TWO_BITS_VECTORS 4
#define TWO_BITS_STEPS 8

HQK_ALWAYS_INLINE vector widen(vector pairs) { return multiply_pairs16(pairs, broadcast16(1)); }

HQK_ALWAYS_INLINE void two_bits_steps(const uint8_t *step, const int8_t *x, size_t steps,
                                      vector sums[TWO_BITS_VECTORS]) {
    vector even[TWO_BITS_VECTORS], odd[TWO_BITS_VECTORS], low = broadcast8(3), high = broadcast8(12);
    HQK_UNROLL(4) for (int v = 0; v < TWO_BITS_VECTORS; v++) even[v] = odd[v] = zero();
    for (size_t s = 0; s < steps; s++, step += HQK_STEP_BYTES, x += HQK_STEP_COLS) {
        fetch_ahead(step, 4 * LANES * TWO_BITS_VECTORS);
        HQK_UNROLL(4) for (int v = 0; v < TWO_BITS_VECTORS; v++) {
            vector bytes = load(step + 4 * LANES * v), upper = shift_right16(bytes, 4);
            add_to16(&even[v], multiply_pairs8(both(bytes, low), broadcast(hqk_whole_quad(x))));
            add_to16(&odd[v], multiply_pairs8(both(bytes, high), broadcast(hqk_whole_quad(x + 4))));
            add_to16(&even[v], multiply_pairs8(both(upper, low), broadcast(hqk_whole_quad(x + 8))));
            add_to16(&odd[v], multiply_pairs8(both(upper, high), broadcast(hqk_whole_quad(x + 12))));
        }
    }
    HQK_UNROLL(4) for (int v = 0; v < TWO_BITS_VECTORS; v++)
        sums[v] = add(sums[v], add(widen(even[v]), shift_right(widen(odd[v]), 2)));
}
