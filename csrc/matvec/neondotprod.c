/* Two bits: fields 0, 1 and 2 of a byte are masked, not shifted, and count 1, 4 and 16 times; field 3 would be signed
 * under its mask, and comes down by a shift instead. 32 rows are 24 accumulators, one a field but that 0 and 3 share
 * theirs.
 *
 * Five trits: no digit is extracted. The byte is a fraction b (in 256ths), b' = 3 b mod 256 the next one, and the digit
 * is what the multiplication pushes out: 256 d = 3 b - b'. Made signed, s = b - 128, they still follow s' = 3 s mod 256,
 * and 3 s - s' = 256 (d - 1): two products of fractions a digit give the weights' own sum. The sums may wrap: what
 * counts is the difference modulo 2^32, which holds 256 * 128 * 20 a step for 3,276 steps. */
#include "../hqk.h"
#include "../ternary/neon_dot.h"
#include "neon.h"

#define NAME(kernel) hqk_##kernel##_neondotprod
#define RUN_STEPS 32

HQK_ALWAYS_INLINE void two_bits_steps(const uint8_t *half, const int8_t *x, size_t steps, int32x4_t sums[HALF]) {
    /* acc[v][f]: field f counts 4^f times. */
    int32x4_t acc[HALF][3];
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) acc[v][0] = acc[v][1] = acc[v][2] = vdupq_n_s32(0);
    for (; steps > 0; steps--, half += HQK_STEP_BYTES, x += HQK_STEP_COLS) {
        int8x16_t values = vld1q_s8(x);
        HQK_UNROLL(8) for (int v = 0; v < HALF; v++) {
            uint8x16_t bytes = vld1q_u8(half + 16 * v);
            HQK_DOT(acc[v][0], vandq_u8(bytes, vdupq_n_u8(3)), values, 0);
            HQK_DOT(acc[v][1], vandq_u8(bytes, vdupq_n_u8(3 << 2)), values, 1);
            HQK_DOT(acc[v][2], vandq_u8(bytes, vdupq_n_u8(3 << 4)), values, 2);
            HQK_DOT(acc[v][0], vshrq_n_u8(bytes, 6), values, 3);
        }
    }
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) {
        int32x4_t sum = vsraq_n_s32(acc[v][0], acc[v][1], 2);
        sums[v] = vaddq_s32(sums[v], vsraq_n_s32(sum, acc[v][2], 4));
    }
}

/* The next fractions. Written out because gcc takes a shift and an addition for it: one instruction more. */
HQK_ALWAYS_INLINE uint8x16_t next_fractions(uint8x16_t fraction, uint8x16_t three) {
#if defined(__GNUC__)
    __asm__("mul %0.16b, %0.16b, %1.16b" : "+w"(fraction) : "w"(three));
    return fraction;
#else
    return vmulq_u8(fraction, three);
#endif
}

HQK_ALWAYS_INLINE void five_trits_steps(const uint8_t *half, const int8_t *x, size_t steps, int32x4_t sums[HALF]) {
    uint8x16_t sign = vdupq_n_u8(128), three = vdupq_n_u8(3);
    int32x4_t here[HALF], next[HALF];
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) here[v] = next[v] = vdupq_n_s32(0);
    for (; steps > 0; steps--, half += HQK_STEP_BYTES, x += HQK_FIVE_TRITS_COLS) {
        int8x16_t values = vld1q_s8(x), last = hqk_broadcast_quad(x + 16);
        HQK_UNROLL(8) for (int v = 0; v < HALF; v++) {
            uint8x16_t fraction = veorq_u8(vld1q_u8(half + 16 * v), sign);
#define DIGIT(quads, lane)                     \
    HQK_DOT(here[v], fraction, quads, lane);   \
    fraction = next_fractions(fraction, three);\
    HQK_DOT(next[v], fraction, quads, lane);
            DIGIT(values, 0)
            DIGIT(values, 1)
            DIGIT(values, 2)
            DIGIT(values, 3)
            DIGIT(last, 0)
#undef DIGIT
        }
    }
    HQK_UNROLL(8) for (int v = 0; v < HALF; v++) {
        int32x4_t sum = vsubq_s32(vmulq_n_s32(here[v], 3), next[v]);
        sums[v] = vsraq_n_s32(sums[v], sum, 8);
    }
}

static void two_bits(const uint8_t *packed, size_t cols, const int8_t *x, const hqk_target *to) {
    walk(packed, cols, x, HQK_STEP_COLS, RUN_STEPS, two_bits_steps, 0, to);
}

static void five_trits(const uint8_t *packed, size_t cols, const int8_t *x, const hqk_target *to) {
    /* The target takes sums over digits, which are one more than the weights. */
    int32_t x_sum = 0;
    for (size_t c = 0; c < cols; c++) x_sum += x[c];
    walk(packed, cols, x, HQK_FIVE_TRITS_COLS, RUN_STEPS, five_trits_steps, x_sum, to);
}

#include "neon_entries.h"
