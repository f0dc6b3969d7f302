/* exp, log, tanh and sigmoid in f32, branch-free, so that the compiler vectorizes a loop over them at any width. Only
 * single IEEE operations in a written order (no libm, no fused multiply-add): the same bits on every ISA. Polynomials:
 * minimax by Remez exchange on the reduced ranges, coefficients rounded to f32. Errors: csrc/README.md, "exp.h". */
#ifndef HQK_EXP_H
#define HQK_EXP_H

#include <stdint.h>
#include <string.h>

static inline uint32_t hqk_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float hqk_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Adding it rounds |x| < 2^22 to an integer, half to even, which is then the low bits of the sum. */
#define HQK_ROUNDER 12582912.0f

/* ln 2 in two parts; the high one has 9 significant bits, so its products with exponents are exact. */
#define HQK_LN2_HIGH 0.693359375f
#define HQK_LN2_LOW -2.12194440e-4f

/* (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2. */
static inline float hqk_exp_tail(float r) {
    float p = 0x1.6db83cp-10f;
    p = p * r + 0x1.123e44p-7f;
    p = p * r + 0x1.55545ap-5f;
    p = p * r + 0x1.55548cp-3f;
    return p * r + 0.5f;
}

static inline float hqk_exp(float x) {
    /* Beyond these bounds the result is infinity or rounds to zero; NaN passes both comparisons unchanged. */
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    const float shifted = x * 1.44269504f + HQK_ROUNDER;
    const float n = shifted - HQK_ROUNDER;
    const float r = (x - n * HQK_LN2_HIGH) - n * HQK_LN2_LOW;
    const float mantissa = 1.0f + (r + (r * r) * hqk_exp_tail(r));
    /* 2^n as two factors: n reaches 128 and -150, outside the normal exponents. */
    const uint32_t exponent = hqk_bits(shifted) - hqk_bits(HQK_ROUNDER) + 254u;
    const uint32_t half = exponent >> 1;
    return mantissa * hqk_float(half << 23) * hqk_float((exponent - half) << 23);
}

/* ln x: -infinity at 0, NaN below. */
static inline float hqk_log(float x) {
    const float normal = x < 0x1p-126f ? x * 0x1p23f : x;
    /* x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)). The offset keeps the exponent non-negative. */
    const uint32_t bits = hqk_bits(normal) + (0x3f800000u - 0x3f3504f3u);
    const float e = (float)(int32_t)(bits >> 23) - (x < 0x1p-126f ? 150.0f : 127.0f);
    const float f = hqk_float((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    /* ln(1 + f) = 2 atanh(s) with s = f / (2 + f), and 2 s = f - s f. */
    const float s = f / (2.0f + f), z = s * s;
    const float tail = ((0x1.3229e2p-2f * z + 0x1.995c48p-2f) * z + 0x1.55557cp-1f) * z;
    float y = e * HQK_LN2_HIGH + (f + (e * HQK_LN2_LOW - s * (f - tail)));
    y = x == 0.0f ? -hqk_float(0x7f800000u) : y;
    y = x == hqk_float(0x7f800000u) ? x : y;
    return x >= 0.0f ? y : hqk_float(0x7fc00000u);
}

/* 1 / (1 + exp(-x)); 0 below -88.8, where the true value is subnormal. */
static inline float hqk_sigmoid(float x) { return 1.0f / (1.0f + hqk_exp(-x)); }

static inline float hqk_tanh(float x) {
    const float a = hqk_float(hqk_bits(x) & 0x7fffffffu);
    /* Near zero an odd polynomial (no cancellation), elsewhere 1 - 2 / (exp(2a) + 1). */
    const float z = x * x;
    float p = -0x1.72fc48p-8f;
    p = p * z + 0x1.518b16p-6f;
    p = p * z - 0x1.b8265cp-5f;
    p = p * z + 0x1.11068ep-3f;
    p = p * z - 0x1.555530p-2f;
    const float near = a + (a * z) * p;
    const float far = 1.0f - 2.0f / (hqk_exp(2.0f * a) + 1.0f);
    const float y = a < 0.625f ? near : far;
    return hqk_float(hqk_bits(y) | (hqk_bits(x) & 0x80000000u));
}

#endif
