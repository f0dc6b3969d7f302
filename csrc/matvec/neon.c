/* smlal on codes {0, 1, 2}: a 16-bit lane of 32 rows x 4 k grows by at most 2 * 128 a field, so 124 (2 bits) or 125
 * (five trits) of them are added before the sums are widened.
 *
 * Five trits: digit f is 1 from fraction 86 and 2 from 171; two comparisons give its negative, which smlsl takes. */
#include "../hqk.h"
#include "../ternary/neon_pairs.h"
#include "neon.h"

#define NAME(kernel) hqk_##kernel##_neon
#define TWO_BITS_STEPS 31
#define FIVE_TRITS_STEPS 25

HQK_ALWAYS_INLINE void two_bits_steps(const uint8_t *half, const int8_t *x, size_t steps, int32x4_t sums[HALF]) {
    int16x8_t acc[HALF][2];
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) acc[v][0] = acc[v][1] = vdupq_n_s16(0);
    for (; steps > 0; steps--, half += HQK_STEP_BYTES, x += HQK_STEP_COLS) {
        int8x16_t quad[4];
        HQK_UNROLL(4) for (int f = 0; f < 4; f++) quad[f] = hqk_broadcast_quad(x + 4 * f);
        HQK_UNROLL(8) for (int v = 0; v < HALF; v++) {
            uint8x16_t bytes = vld1q_u8(half + 16 * v);
            HQK_UNROLL(4) for (int f = 0; f < 4; f++) hqk_add_products(acc[v], hqk_field(bytes, f), quad[f]);
        }
    }
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) sums[v] = vaddq_s32(sums[v], hqk_widen(acc[v]));
}

HQK_ALWAYS_INLINE void five_trits_steps(const uint8_t *half, const int8_t *x, size_t steps, int32x4_t sums[HALF]) {
    uint8x16_t one = vdupq_n_u8(86), two = vdupq_n_u8(171), three = vdupq_n_u8(3);
    int16x8_t acc[HALF][2];
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) acc[v][0] = acc[v][1] = vdupq_n_s16(0);
    for (; steps > 0; steps--, half += HQK_STEP_BYTES, x += HQK_FIVE_TRITS_COLS) {
        int8x16_t quad[5];
        HQK_UNROLL(5) for (int f = 0; f < 5; f++) quad[f] = hqk_broadcast_quad(x + 4 * f);
        HQK_UNROLL(8) for (int v = 0; v < HALF; v++) {
            uint8x16_t fraction = vld1q_u8(half + 16 * v);
            HQK_UNROLL(5) for (int f = 0; f < 5; f++) {
                uint8x16_t minus_digit = vaddq_u8(vcgeq_u8(fraction, one), vcgeq_u8(fraction, two));
                hqk_subtract_products(acc[v], minus_digit, quad[f]);
                if (f < 4) fraction = vmulq_u8(fraction, three);
            }
        }
    }
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) sums[v] = vaddq_s32(sums[v], hqk_widen(acc[v]));
}

static void two_bits(const uint8_t *packed, size_t cols, const int8_t *x, const hqk_target *to) {
    walk(packed, cols, x, HQK_STEP_COLS, TWO_BITS_STEPS, two_bits_steps, 0, to);
}

static void five_trits(const uint8_t *packed, size_t cols, const int8_t *x, const hqk_target *to) {
    walk(packed, cols, x, HQK_FIVE_TRITS_COLS, FIVE_TRITS_STEPS, five_trits_steps, 0, to);
}

#include "neon_entries.h"
