/* Panels hold pairs of tokens widened to 16 bits, column after column: vpmaddwd multiplies a pair of 8 columns at once
 * and never saturates. A tile is 4 x 16: 8 accumulators, and the multiplier port is the limit. */
#include "../hqk.h"
#include "store.h"

#include <immintrin.h>
#include <string.h>

#define A_WIDTH 4
#define B_WIDTH 16

void hqk_int8_geometry_avx2(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = 2, geometry[3] = 2;
}

/* Row t of up to `width` columns (16 at most), zeros behind. */
static inline __m128i load_row(const int8_t *x, size_t t, size_t tokens, size_t stride, size_t cols) {
    int8_t row[16] = {0};
    if (t < tokens) memcpy(row, x + t * stride, cols);
    return _mm_loadu_si128((const __m128i *)row);
}

void hqk_int8_pack_a_avx2(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    panel += A_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 2, panel += 4 * A_WIDTH) {
        __m128i r0, r1;
        if (cols == A_WIDTH && t + 2 <= tokens) {
            int32_t bits[2];
            memcpy(bits, x + t * stride, 4), memcpy(bits + 1, x + (t + 1) * stride, 4);
            r0 = _mm_cvtsi32_si128(bits[0]), r1 = _mm_cvtsi32_si128(bits[1]);
        } else
            r0 = load_row(x, t, tokens, stride, cols), r1 = load_row(x, t + 1, tokens, stride, cols);
        __m128i pairs = _mm_cvtepi8_epi16(_mm_unpacklo_epi8(r0, r1));
        _mm_storeu_si128((__m128i *)panel, pairs);
    }
}

void hqk_int8_pack_b_avx2(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    panel += B_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 2, panel += 4 * B_WIDTH) {
        __m128i r0, r1;
        if (cols == B_WIDTH && t + 2 <= tokens) {
            r0 = _mm_loadu_si128((const __m128i *)(x + t * stride));
            r1 = _mm_loadu_si128((const __m128i *)(x + (t + 1) * stride));
        } else
            r0 = load_row(x, t, tokens, stride, cols), r1 = load_row(x, t + 1, tokens, stride, cols);
        _mm256_storeu_si256((__m256i *)panel, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(r0, r1)));
        _mm256_storeu_si256((__m256i *)(panel + 32), _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(r0, r1)));
    }
}

void hqk_int8_product_avx2(const uint8_t *a, const uint8_t *b, size_t tokens, size_t rows, size_t cols,
                           const float *scales, int accumulate, float *c, size_t c_stride) {
    __m256i sum[A_WIDTH][2];
    int32_t sums[A_WIDTH * B_WIDTH];
#pragma GCC unroll 8
    for (int i = 0; i < A_WIDTH; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    a += A_WIDTH * 4, b += B_WIDTH * 4;
    for (size_t t = 0; t < tokens; t += 2, a += 4 * A_WIDTH, b += 4 * B_WIDTH) {
        __m256i b0 = _mm256_loadu_si256((const __m256i *)b), b1 = _mm256_loadu_si256((const __m256i *)(b + 32));
#pragma GCC unroll 8
        for (int i = 0; i < A_WIDTH; i++) {
            int32_t bits;
            memcpy(&bits, a + 4 * i, 4);
            __m256i pair = _mm256_set1_epi32(bits);
            sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(pair, b0));
            sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(pair, b1));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < A_WIDTH; i++) {
        _mm256_storeu_si256((__m256i *)(sums + i * B_WIDTH), sum[i][0]);
        _mm256_storeu_si256((__m256i *)(sums + i * B_WIDTH + 8), sum[i][1]);
    }
    hqk_int8_store(sums, B_WIDTH, rows, cols, scales, accumulate, c, c_stride);
}
