/* Optimizer states in fewer bits, written once for every ISA: plain C that the compiler vectorizes. Square roots and
 * divisions are exact and nothing is contracted, so all ISAs give the same bits. */
#include "../hqk.h"
#include "../philox_lanes.h"

#include <math.h>
#include <string.h>

#define LANES HQK_DRAW_LANES
#define GROUP HQK_DRAW_GROUP
#define BLOCK 256
#define INFINITY_BITS 0x7F800000u
/* Blocks whose largest magnitude is below are zero: quotients by it must stay exact. */
#define TINY 0x1p-100f

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* 16 random bits for each element of a group. */
static inline void draw_group(const uint32_t draws[4], uint64_t group, uint32_t random[GROUP]) {
    uint32_t word[4][LANES];
    hqk_philox_lanes(draws, group, word);
    for (int w = 0; w < 4; w++)
        for (int h = 0; h < 2; h++)
            for (int l = 0; l < LANES; l++) random[32 * w + 16 * h + l] = word[w][l] >> 16 * h & 0xFFFF;
}

/* Adding 16 random bits below the last kept one rounds up with the probability of what is cut off. */
void HQK_NAME(hqk_state_encode_bf16)(const float *x, size_t n, size_t first_group, const uint32_t *draws,
                                     uint16_t *values) {
    for (size_t start = 0; start < n; start += GROUP, first_group++) {
        size_t count = n - start < GROUP ? n - start : GROUP;
        uint32_t random[GROUP];
        draw_group(draws, first_group, random);
        for (size_t i = 0; i < count; i++) {
            uint32_t bits = bits_of(x[start + i]);
            uint32_t is_finite = (bits & INFINITY_BITS) != INFINITY_BITS, is_nan = (bits & 0x7FFFFFFF) > INFINITY_BITS;
            values[start + i] = (uint16_t)((bits + is_finite * random[i]) >> 16 | is_nan << 6);
        }
    }
}

void HQK_NAME(hqk_state_decode_bf16)(const uint16_t *values, size_t n, float *x) {
    for (size_t i = 0; i < n; i++) x[i] = float_of((uint32_t)values[i] << 16);
}

/* floor(t + u), u = (2 r + 1) / 2^17. */
static inline int32_t round_stochastic(float t, uint32_t r, int32_t most) {
    int32_t q = (int32_t)(t + (float)(int32_t)(2 * r + 1) * 0x1p-17f);
    return q < most ? q : most;
}

static void encode_group(const float *x, size_t n, float max, const uint32_t random[GROUP], int is_signed,
                         uint8_t *codes) {
    if (is_signed) {
        for (size_t i = 0; i < n; i++) {
            int32_t q = round_stochastic(sqrtf(fabsf(x[i]) / max) * 127.0f, random[i], 127);
            codes[i] = (uint8_t)(int8_t)(x[i] < 0.0f ? -q : q);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float positive = x[i] > 0.0f ? x[i] : 0.0f;
        int32_t q = round_stochastic(sqrtf(sqrtf(positive / max)) * 255.0f, random[i], 255);
        /* A second moment above zero stays above: updates are divided by its root. */
        codes[i] = (uint8_t)(q + (q == 0 && positive > 0.0f));
    }
}

void HQK_NAME(hqk_state_encode_int8)(const float *x, size_t n, size_t first_group, const uint32_t *draws,
                                     int32_t is_signed, uint8_t *codes, float *maxima) {
    for (size_t start = 0; start < n; start += BLOCK) {
        size_t length = n - start < BLOCK ? n - start : BLOCK;
        uint32_t max_bits = 0;
        for (size_t i = 0; i < length; i++) {
            uint32_t bits = bits_of(x[start + i]) & 0x7FFFFFFF;
            max_bits = bits > max_bits ? bits : max_bits;
        }
        float max = float_of(max_bits);
        if (max_bits >= INFINITY_BITS || max < TINY) {
            memset(codes + start, 0, length);
            maxima[start / BLOCK] = max_bits >= INFINITY_BITS ? NAN : 0.0f;
            continue;
        }
        maxima[start / BLOCK] = max;
        for (size_t i = 0; i < length; i += GROUP) {
            uint32_t random[GROUP];
            draw_group(draws, first_group + (start + i) / GROUP, random);
            size_t count = length - i < GROUP ? length - i : GROUP;
            encode_group(x + start + i, count, max, random, is_signed, codes + start + i);
        }
    }
}

void HQK_NAME(hqk_state_decode_int8)(const uint8_t *codes, const float *maxima, size_t n, int32_t is_signed,
                                     float *x) {
    for (size_t start = 0; start < n; start += BLOCK) {
        size_t length = n - start < BLOCK ? n - start : BLOCK;
        const uint8_t *block = codes + start;
        float max = maxima[start / BLOCK], *out = x + start;
        if (is_signed) {
            for (size_t i = 0; i < length; i++) {
                float root = (float)(int8_t)block[i] / 127.0f;
                out[i] = root * fabsf(root) * max;
            }
        } else {
            for (size_t i = 0; i < length; i++) {
                float root = (float)block[i] / 255.0f;
                out[i] = root * root * (root * root) * max;
            }
        }
    }
}
