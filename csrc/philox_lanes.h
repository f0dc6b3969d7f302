/* 16 blocks of Philox4x32-10 (philox.h) side by side.
 *
 * Batch `n` is the blocks from 16 n on; lanes are neighbouring elements, so that nothing is shuffled. The families say which
 * bits are whose (csrc/README.md, "activation_quant" and "state").
 */
#ifndef HQK_PHILOX_LANES_H
#define HQK_PHILOX_LANES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define HQK_DRAW_LANES 16
/* Elements that draw from one batch, or (activation_quant) from half of one. */
#define HQK_DRAW_GROUP 128

/* draws = key[0], key[1], tensor, step. word[w][l] = word w of block 16 * batch + l. */
#if defined(__AVX512F__)
/* As below, eight blocks of even or of odd lanes in a register. */
static inline void hqk_philox_lanes(const uint32_t draws[4], uint64_t batch, uint32_t word[4][HQK_DRAW_LANES]) {
    __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
    uint64_t first = batch * HQK_DRAW_LANES;
    __m512i c[2][4]; /* [lanes even, odd][word] */
    for (int v = 0; v < 2; v++) {
        __m512i lanes = _mm512_add_epi64(_mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), _mm512_set1_epi64(v));
        c[v][0] = _mm512_add_epi64(lanes, _mm512_set1_epi64((int64_t)(first & 0xFFFFFFFF)));
        c[v][1] = _mm512_set1_epi64((int64_t)(first >> 32));
        c[v][2] = _mm512_set1_epi64(draws[2]);
        c[v][3] = _mm512_set1_epi64(draws[3]);
    }
    for (uint32_t r = 0; r < 10; r++) {
        __m512i k0 = _mm512_set1_epi64(draws[0] + r * 0x9E3779B9u), k1 = _mm512_set1_epi64(draws[1] + r * 0xBB67AE85u);
        for (int v = 0; v < 2; v++) {
            __m512i p0 = _mm512_mul_epu32(c[v][0], m0), p1 = _mm512_mul_epu32(c[v][2], m1);
            c[v][0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c[v][1], k0, 0x96);
            c[v][2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c[v][3], k1, 0x96);
            c[v][1] = p1, c[v][3] = p0;
        }
    }
    for (int w = 0; w < 4; w++)
        _mm512_storeu_si512(word[w], _mm512_mask_blend_epi32(0xAAAA, c[0][w], _mm512_slli_epi64(c[1][w], 32)));
}
#elif defined(__AVX2__)
/* Compilers do not find the 32 x 32 -> 64 bit product. Even and odd lanes are kept apart, one block in each 64-bit lane:
 * only the low halves count, so a shift and an exclusive or are all that the products need. */
static inline void hqk_philox_lanes(const uint32_t draws[4], uint64_t batch, uint32_t word[4][HQK_DRAW_LANES]) {
    __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    uint64_t first = batch * HQK_DRAW_LANES;
    __m256i c[4][4]; /* [lanes 0-7 even, odd, lanes 8-15 even, odd][word] */
    for (int v = 0; v < 4; v++) {
        __m256i lanes = _mm256_add_epi64(_mm256_set_epi64x(6, 4, 2, 0), _mm256_set1_epi64x(v / 2 * 8 + v % 2));
        c[v][0] = _mm256_add_epi64(lanes, _mm256_set1_epi64x((int64_t)(first & 0xFFFFFFFF)));
        c[v][1] = _mm256_set1_epi64x((int64_t)(first >> 32));
        c[v][2] = _mm256_set1_epi64x(draws[2]);
        c[v][3] = _mm256_set1_epi64x(draws[3]);
    }
    for (uint32_t r = 0; r < 10; r++) {
        __m256i k0 = _mm256_set1_epi64x(draws[0] + r * 0x9E3779B9u), k1 = _mm256_set1_epi64x(draws[1] + r * 0xBB67AE85u);
        for (int v = 0; v < 4; v++) {
            __m256i p0 = _mm256_mul_epu32(c[v][0], m0), p1 = _mm256_mul_epu32(c[v][2], m1);
            c[v][0] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c[v][1]), k0);
            c[v][2] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c[v][3]), k1);
            c[v][1] = p1, c[v][3] = p0;
        }
    }
    for (int w = 0; w < 4; w++)
        for (int h = 0; h < 2; h++) {
            __m256i odd = _mm256_slli_epi64(c[2 * h + 1][w], 32);
            _mm256_storeu_si256((__m256i *)(word[w] + 8 * h), _mm256_blend_epi32(c[2 * h][w], odd, 0xAA));
        }
}
#else
static inline void hqk_philox_lanes(const uint32_t draws[4], uint64_t batch, uint32_t word[4][HQK_DRAW_LANES]) {
    uint32_t first = (uint32_t)(batch * HQK_DRAW_LANES), high = (uint32_t)(batch * HQK_DRAW_LANES >> 32);
    uint32_t key0 = draws[0], key1 = draws[1], tensor = draws[2], step = draws[3];
    for (uint32_t l = 0; l < HQK_DRAW_LANES; l++) {
        uint32_t c0 = first + l, c1 = high, c2 = tensor, c3 = step;
#define HQK_ROUND(r)                                                                  \
    {                                                                                 \
        uint32_t h0 = (uint32_t)((uint64_t)0xD2511F53u * c0 >> 32), l0 = 0xD2511F53u * c0; \
        uint32_t h1 = (uint32_t)((uint64_t)0xCD9E8D57u * c2 >> 32), l1 = 0xCD9E8D57u * c2; \
        c0 = h1 ^ c1 ^ (key0 + (r)*0x9E3779B9u), c1 = l1;                             \
        c2 = h0 ^ c3 ^ (key1 + (r)*0xBB67AE85u), c3 = l0;                             \
    }
        HQK_ROUND(0u)
        HQK_ROUND(1u)
        HQK_ROUND(2u)
        HQK_ROUND(3u)
        HQK_ROUND(4u)
        HQK_ROUND(5u)
        HQK_ROUND(6u)
        HQK_ROUND(7u)
        HQK_ROUND(8u)
        HQK_ROUND(9u)
#undef HQK_ROUND
        word[0][l] = c0, word[1][l] = c1, word[2][l] = c2, word[3][l] = c3;
    }
}
#endif

#endif
