/* Panels hold quads of tokens, column after column, as vpdpbusd wants them. Its first factor is unsigned: the B panel
 * holds b + 128, and every sum starts at -128 * (sum of its A column), kept in front of the A panel; sums wrap on the
 * way and end exact. A tile is 8 x 48: 24 accumulators and 3 B registers, A by broadcast from memory. */
#include "../hqk.h"
#include "store.h"

#include <immintrin.h>
#include <string.h>

#define A_WIDTH 8
#define B_WIDTH 48

void hqk_int8_geometry_avx512vnni(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = 4, geometry[3] = 1;
}

/* 4 tokens x 8 columns to 8 quads; what lies beyond `tokens` and `cols` is zero. */
static inline __m256i quads(const int8_t *x, size_t tokens, size_t stride, size_t cols) {
    __m128i row[4];
    for (size_t t = 0; t < 4; t++) {
        if (t < tokens && cols >= 8)
            row[t] = _mm_loadl_epi64((const __m128i *)(x + t * stride));
        else {
            int8_t values[8] = {0};
            if (t < tokens) memcpy(values, x + t * stride, cols);
            row[t] = _mm_loadl_epi64((const __m128i *)values);
        }
    }
    __m128i first = _mm_unpacklo_epi8(row[0], row[1]), second = _mm_unpacklo_epi8(row[2], row[3]);
    return _mm256_set_m128i(_mm_unpackhi_epi16(first, second), _mm_unpacklo_epi16(first, second));
}

void hqk_int8_pack_a_avx512vnni(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    __m256i sums = _mm256_setzero_si256(), ones = _mm256_set1_epi8(1);
    uint8_t *packed = panel + A_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 4, packed += 4 * A_WIDTH) {
        __m256i q = quads(x + t * stride, tokens - t, stride, cols);
        sums = _mm256_dpbusd_epi32(sums, ones, q);
        _mm256_storeu_si256((__m256i *)packed, q);
    }
    _mm256_storeu_si256((__m256i *)panel, sums);
}

void hqk_int8_pack_b_avx512vnni(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    __m256i offset = _mm256_set1_epi8(-128);
    panel += B_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 4)
        for (size_t c = 0; c < B_WIDTH; c += 8, panel += 32) {
            __m256i q = _mm256_setzero_si256();
            if (c < cols) q = quads(x + t * stride + c, tokens - t, stride, cols - c);
            _mm256_storeu_si256((__m256i *)panel, _mm256_xor_si256(q, offset));
        }
}

void hqk_int8_product_avx512vnni(const uint8_t *a, const uint8_t *b, size_t tokens, size_t rows, size_t cols,
                                 const float *scales, int accumulate, float *c, size_t c_stride) {
    __m512i sum[A_WIDTH][3];
    int32_t sums[A_WIDTH * B_WIDTH], a_sums[A_WIDTH];
    memcpy(a_sums, a, sizeof a_sums);
#pragma GCC unroll 8
    for (int i = 0; i < A_WIDTH; i++) {
        sum[i][0] = _mm512_set1_epi32(-128 * a_sums[i]);
        sum[i][1] = sum[i][2] = sum[i][0];
    }
    a += A_WIDTH * 4, b += B_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 4, a += 4 * A_WIDTH, b += 4 * B_WIDTH) {
        __m512i b_quads[3] = {_mm512_loadu_si512(b), _mm512_loadu_si512(b + 64), _mm512_loadu_si512(b + 128)};
#pragma GCC unroll 8
        for (int i = 0; i < A_WIDTH; i++) {
            int32_t bits;
            memcpy(&bits, a + 4 * i, 4);
            __m512i quad = _mm512_set1_epi32(bits);
#pragma GCC unroll 8
            for (int j = 0; j < 3; j++) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum[i][j]) : "v"(b_quads[j]), "v"(quad));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < A_WIDTH; i++)
#pragma GCC unroll 8
        for (int j = 0; j < 3; j++) _mm512_storeu_si512(sums + i * B_WIDTH + 16 * j, sum[i][j]);
    hqk_int8_store(sums, B_WIDTH, rows, cols, scales, accumulate, c, c_stride);
}
