/* IEEE half precision <-> f32 by integer arithmetic: the same bits on every ISA. */
#ifndef HQK_HALF_H
#define HQK_HALF_H

#include <stdint.h>
#include <string.h>

/* Half to even; too large becomes infinity. NaN keeps its sign and becomes quiet. */
static inline uint16_t hqk_half_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00);
    if (magnitude >= 0x477FF000) return (uint16_t)(sign | 0x7C00); /* 65520 and more */
    if (magnitude < 0x38800000) {
        /* Below 2^-14 a half counts multiples of 2^-24: adding 1/2 leaves them in the low bits, rounded. */
        float shifted;
        memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0.5f;
        memcpy(&magnitude, &shifted, sizeof magnitude);
        return (uint16_t)(sign | (magnitude - 0x3F000000));
    }
    magnitude += 0xFFF + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000) >> 13);
}

static inline float hqk_float_of_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7FFF, bits;
    float x;
    if (magnitude >= 0x7C00)
        bits = sign | 0x7F800000 | (magnitude & 0x3FF) << 13;
    else if (magnitude >= 0x400)
        bits = sign | ((magnitude << 13) + 0x38000000);
    else {
        x = (float)magnitude * 0x1p-24f;
        memcpy(&bits, &x, sizeof bits);
        bits |= sign;
    }
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
