/* Products of 8-bit codes and activations added in 16 bits: 4 outputs x 4 k, two outputs a register. */
#ifndef HQK_TERNARY_NEON_PAIRS_H
#define HQK_TERNARY_NEON_PAIRS_H

#include "neon.h"

/* acc += codes * quad; acc -= codes * quad. Codes are signed. Written out because gcc 12 copies the accumulators of the
 * intrinsics, and clang 14 moves upper halves down before it multiplies them. */
HQK_ALWAYS_INLINE void hqk_add_products(int16x8_t acc[2], uint8x16_t codes, int8x16_t quad) {
#if defined(__GNUC__)
    __asm__("smlal %0.8h, %1.8b, %2.8b" : "+w"(acc[0]) : "w"(codes), "w"(quad));
    __asm__("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(acc[1]) : "w"(codes), "w"(quad));
#else
    int8x16_t w = vreinterpretq_s8_u8(codes);
    acc[0] = vmlal_s8(acc[0], vget_low_s8(w), vget_low_s8(quad));
    acc[1] = vmlal_high_s8(acc[1], w, quad);
#endif
}

HQK_ALWAYS_INLINE void hqk_subtract_products(int16x8_t acc[2], uint8x16_t codes, int8x16_t quad) {
#if defined(__GNUC__)
    __asm__("smlsl %0.8h, %1.8b, %2.8b" : "+w"(acc[0]) : "w"(codes), "w"(quad));
    __asm__("smlsl2 %0.8h, %1.16b, %2.16b" : "+w"(acc[1]) : "w"(codes), "w"(quad));
#else
    int8x16_t w = vreinterpretq_s8_u8(codes);
    acc[0] = vmlsl_s8(acc[0], vget_low_s8(w), vget_low_s8(quad));
    acc[1] = vmlsl_high_s8(acc[1], w, quad);
#endif
}

/* The sums of 4 outputs. */
HQK_ALWAYS_INLINE int32x4_t hqk_widen(const int16x8_t acc[2]) {
    return vpaddq_s32(vpaddlq_s16(acc[0]), vpaddlq_s16(acc[1]));
}

#endif
