/* Five trits a byte with 16-bit products. With p_f = floor(3^(f+1) b / 256), the number that the first f + 1 digits
 * spell, d_f = p_f - 3 p_(f-1), so
 *   sum d_f x_f = sum p_f (x_f - 3 x_(f+1)),    x_5 = 0:
 * no digit is extracted; p_f is the upper half of one 16-bit product and the coefficients come from the activations
 * alone. Even and odd bytes are separate: 16-bit lanes of bytes j = 0, 2 and j = 1, 3 of a row. */
#include "fetch.h"

#define FIVE_TRITS_VECTORS 4
#define FIVE_TRITS_STEPS 16

/* For each step and digit two words: the coefficients of bytes 0, 2 and of bytes 1, 3. */
typedef int16_t five_trits_coefficients[FIVE_TRITS_STEPS][5][2][2];

static inline void find_coefficients(const int8_t *x, size_t steps, five_trits_coefficients c) {
    for (size_t s = 0; s < steps; s++, x += HQK_FIVE_TRITS_COLS)
        for (int j = 0; j < 4; j++) {
            for (int f = 0; f < 4; f++) c[s][f][j % 2][j / 2] = (int16_t)(x[4 * f + j] - 3 * x[4 * f + 4 + j]);
            c[s][4][j % 2][j / 2] = x[16 + j];
        }
}
HQK_ALWAYS_INLINE vector load_pair(const int16_t *pair) {
    int32_t word;
    memcpy(&word, pair, 4);
    return broadcast(word);
}

HQK_ALWAYS_INLINE void five_trits_steps(const uint8_t *step, const int8_t *x, size_t steps,
                                        vector sums[FIVE_TRITS_VECTORS]) {
    static const int powers[5] = {3, 9, 27, 81, 243};
    five_trits_coefficients coefficients;
    find_coefficients(x, steps, coefficients);
    vector acc[FIVE_TRITS_VECTORS];
    HQK_UNROLL(4) for (int v = 0; v < FIVE_TRITS_VECTORS; v++) acc[v] = sums[v];
    for (size_t s = 0; s < steps; s++, step += HQK_STEP_BYTES) {
        fetch_ahead(step, 4 * LANES * FIVE_TRITS_VECTORS);
        vector even[FIVE_TRITS_VECTORS], odd[FIVE_TRITS_VECTORS];
        HQK_UNROLL(4) for (int v = 0; v < FIVE_TRITS_VECTORS; v++) {
            vector bytes = load(step + 4 * LANES * v);
            even[v] = shift_left16(bytes, 8);
            odd[v] = both(bytes, broadcast16(0xFF00));
        }
        HQK_UNROLL(5) for (int f = 0; f < 5; f++) {
            vector power = broadcast16(powers[f]), c0 = load_pair(coefficients[s][f][0]),
                   c1 = load_pair(coefficients[s][f][1]);
            HQK_UNROLL(4) for (int v = 0; v < FIVE_TRITS_VECTORS; v++) {
                add_to32(&acc[v], multiply_pairs16(multiply_high16(even[v], power), c0));
                add_to32(&acc[v], multiply_pairs16(multiply_high16(odd[v], power), c1));
            }
        }
    }
    HQK_UNROLL(4) for (int v = 0; v < FIVE_TRITS_VECTORS; v++) sums[v] = acc[v];
}
