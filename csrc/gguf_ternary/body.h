/* GGUF's ternary blocks, written once for every ISA: plain C that the compiler vectorizes.
 *
 * A block of 256 values is first 256 codes, one a byte. In both formats a byte of the block takes its codes from values
 * that lie 32 (or 16, or 4) apart, so neighbouring bytes are computed in neighbouring lanes. */
#include "../half.h"
#include "../hqk.h"

#include <math.h>
#include <string.h>

#define VALUES 256
/* Bytes of a block, and where the scale lies in it. */
#define TQ1_BYTES 54
#define TQ1_SCALE 52
#define TQ2_BYTES 66
#define TQ2_SCALE 64

/* max |x| of a block, by the integers that are the bits of |x|: a NaN is above all. */
static inline float largest(const float *x) {
    enum { LANES = 64 };
    int32_t lane[LANES] = {0}, max = 0;
    for (int i = 0; i < VALUES; i += LANES)
        for (int l = 0; l < LANES; l++) {
            int32_t bits;
            memcpy(&bits, x + i + l, sizeof bits);
            bits &= 0x7FFFFFFF;
            lane[l] = bits > lane[l] ? bits : lane[l];
        }
    for (int l = 0; l < LANES; l++) max = lane[l] > max ? lane[l] : max;
    float result;
    memcpy(&result, &max, sizeof result);
    return result;
}

/* Codes of a block (0, 1, 2) by its largest magnitude, which is returned. */
static inline float quantize_block(const float *x, uint8_t code[VALUES]) {
    float scale = largest(x), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int i = 0; i < VALUES; i++) {
        float v = x[i] * inverse;
        code[i] = (uint8_t)(1 + (v >= 0.5f) - (v <= -0.5f));
    }
    return scale;
}

static inline void codes_of_trits(const int8_t *trits, uint8_t code[VALUES]) {
    for (int i = 0; i < VALUES; i++) code[i] = (uint8_t)(1 + (trits[i] > 0) - (trits[i] < 0));
}

static inline void trits_of_codes(const uint8_t code[VALUES], int8_t *trits) {
    for (int i = 0; i < VALUES; i++) trits[i] = (int8_t)(code[i] - 1);
}

static inline void store_scale(float scale, uint8_t *at) {
    uint16_t half = hqk_half_of(scale);
    at[0] = (uint8_t)half, at[1] = (uint8_t)(half >> 8);
}

static inline float load_scale(const uint8_t *at) { return hqk_float_of_half((uint16_t)(at[0] | at[1] << 8)); }

/* Five base-3 digits as a byte: value / 243 as a fraction of 256, rounded up. */
static inline uint8_t fraction(unsigned value) { return (uint8_t)((value * 256 + 242) / 243); }

/* `count` bytes of five codes each, `count` values apart. */
static inline void join_five(const uint8_t *code, int count, uint8_t *out) {
    for (int m = 0; m < count; m++) {
        uint16_t q = code[m];
        for (int n = 1; n < 5; n++) q = (uint16_t)(3 * q + code[m + n * count]);
        out[m] = fraction(q);
    }
}

static inline void split_five(const uint8_t *in, int count, int digits, uint8_t *code) {
    for (int m = 0; m < count; m++) {
        uint8_t rest = in[m];
        for (int n = 0; n < digits; n++, rest = (uint8_t)(3 * rest)) code[m + n * count] = (uint8_t)(3 * rest >> 8);
    }
}

static inline void store_tq1(const uint8_t code[VALUES], float scale, uint8_t *block) {
    join_five(code, 32, block);
    join_five(code + 160, 16, block + 32);
    for (int m = 0; m < 4; m++) {
        const uint8_t *c = code + 240 + m;
        block[48 + m] = fraction(3u * (27u * c[0] + 9u * c[4] + 3u * c[8] + c[12]));
    }
    store_scale(scale, block + TQ1_SCALE);
}

static inline float load_tq1(const uint8_t *block, uint8_t code[VALUES]) {
    split_five(block, 32, 5, code);
    split_five(block + 32, 16, 5, code + 160);
    split_five(block + 48, 4, 4, code + 240);
    return load_scale(block + TQ1_SCALE);
}

static inline void store_tq2(const uint8_t code[VALUES], float scale, uint8_t *block) {
    for (int h = 0; h < 2; h++)
        for (int m = 0; m < 32; m++) {
            const uint8_t *c = code + 128 * h + m;
            block[32 * h + m] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
        }
    store_scale(scale, block + TQ2_SCALE);
}

static inline float load_tq2(const uint8_t *block, uint8_t code[VALUES]) {
    for (int h = 0; h < 2; h++)
        for (int n = 0; n < 4; n++)
            for (int m = 0; m < 32; m++) code[128 * h + 32 * n + m] = block[32 * h + m] >> 2 * n & 3;
    return load_scale(block + TQ2_SCALE);
}

static inline void scale_block(const uint8_t code[VALUES], float scale, float *y) {
    for (int i = 0; i < VALUES; i++) y[i] = (float)(code[i] - 1) * scale;
}

void HQK_NAME(hqk_tq1_0_quantize)(const float *x, size_t blocks, uint8_t *out) {
    uint8_t code[VALUES];
    for (; blocks; blocks--, x += VALUES, out += TQ1_BYTES) {
        float scale = quantize_block(x, code);
        store_tq1(code, scale, out);
    }
}

void HQK_NAME(hqk_tq2_0_quantize)(const float *x, size_t blocks, uint8_t *out) {
    uint8_t code[VALUES];
    for (; blocks; blocks--, x += VALUES, out += TQ2_BYTES) {
        float scale = quantize_block(x, code);
        store_tq2(code, scale, out);
    }
}

void HQK_NAME(hqk_tq1_0_pack)(const int8_t *trits, const float *scales, size_t scale_stride, size_t blocks,
                              uint8_t *out) {
    uint8_t code[VALUES];
    for (size_t b = 0; b < blocks; b++, trits += VALUES, out += TQ1_BYTES) {
        codes_of_trits(trits, code);
        store_tq1(code, scales[b * scale_stride], out);
    }
}

void HQK_NAME(hqk_tq2_0_pack)(const int8_t *trits, const float *scales, size_t scale_stride, size_t blocks,
                              uint8_t *out) {
    uint8_t code[VALUES];
    for (size_t b = 0; b < blocks; b++, trits += VALUES, out += TQ2_BYTES) {
        codes_of_trits(trits, code);
        store_tq2(code, scales[b * scale_stride], out);
    }
}

void HQK_NAME(hqk_tq1_0_unpack)(const uint8_t *in, size_t blocks, int8_t *trits, float *scales) {
    uint8_t code[VALUES];
    for (size_t b = 0; b < blocks; b++, trits += VALUES, in += TQ1_BYTES) {
        scales[b] = load_tq1(in, code);
        trits_of_codes(code, trits);
    }
}

void HQK_NAME(hqk_tq2_0_unpack)(const uint8_t *in, size_t blocks, int8_t *trits, float *scales) {
    uint8_t code[VALUES];
    for (size_t b = 0; b < blocks; b++, trits += VALUES, in += TQ2_BYTES) {
        scales[b] = load_tq2(in, code);
        trits_of_codes(code, trits);
    }
}

void HQK_NAME(hqk_tq1_0_dequantize)(const uint8_t *in, size_t blocks, float *y) {
    uint8_t code[VALUES];
    for (; blocks; blocks--, y += VALUES, in += TQ1_BYTES) {
        float scale = load_tq1(in, code);
        scale_block(code, scale, y);
    }
}

void HQK_NAME(hqk_tq2_0_dequantize)(const uint8_t *in, size_t blocks, float *y) {
    uint8_t code[VALUES];
    for (; blocks; blocks--, y += VALUES, in += TQ2_BYTES) {
        float scale = load_tq2(in, code);
        scale_block(code, scale, y);
    }
}
