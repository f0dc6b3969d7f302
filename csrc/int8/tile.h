/* Packing and the tile of products, in the order all x86 versions share. A panel holds 32-bit words, each STEP tokens of
 * one column; a product takes one word of the left panel to all lanes and meets registers of words of the right panel.
 * In front of a panel stand the values its sums begin with. A tile is 6 rows x B_VECTORS registers.
 *
 * The file that includes this has defined
 *   vector, LANES, load, store, broadcast  the registers of sums,
 *   B_VECTORS                              registers of columns in a tile,
 *   words(rows)                            8 columns of STEP rows of int8 as words,
 *   dot(acc, b, a)                         acc += the products of words,
 *   OFFSET                                 what is added to each value of the right panel, and the sums make good for,
 *   NAME(kernel)                           the kernel's full name. */
#ifndef HQK_INT8_TILE_H
#define HQK_INT8_TILE_H

#include "store.h"

#include <string.h>

#define A_WIDTH 6
#define B_WIDTH (B_VECTORS * LANES)
#define WORD_COLS 8 /* columns of one 256-bit register of words */

#define EACH_ROW _Pragma("GCC unroll 6") for (int i = 0; i < A_WIDTH; i++)
#define EACH_VECTOR _Pragma("GCC unroll 4") for (int j = 0; j < B_VECTORS; j++)

void NAME(int8_geometry)(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = STEP, geometry[3] = 4 / STEP;
}

/* Words of up to 8 columns of STEP rows, of which `tokens` exist; what lies beyond is zero. */
static inline __m256i edge_words(const int8_t *x, size_t tokens, size_t stride, size_t cols) {
    __m128i rows[STEP];
    for (size_t t = 0; t < STEP; t++) {
        int8_t values[WORD_COLS] = {0};
        if (t < tokens) memcpy(values, x + t * stride, cols < WORD_COLS ? cols : WORD_COLS);
        rows[t] = _mm_loadl_epi64((const __m128i *)values);
    }
    return words(rows);
}

/* The same where 8 bytes can be read of each row. */
static inline __m256i inner_words(const int8_t *x, size_t stride) {
    __m128i rows[STEP];
    for (size_t t = 0; t < STEP; t++) rows[t] = _mm_loadl_epi64((const __m128i *)(x + t * stride));
    return words(rows);
}

void NAME(int8_pack_a)(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    __m256i sums = _mm256_setzero_si256(), ones = _mm256_set1_epi8(1);
    uint8_t *out = panel + 4 * A_WIDTH;
    for (size_t t = 0; t < tokens; t += STEP, x += STEP * stride, out += 4 * A_WIDTH) {
        /* Eight columns of a full panel are two too many: they are the next panel's, or after a row the next row's. */
        int inner = cols == A_WIDTH && t + STEP < tokens;
        __m256i word = inner ? inner_words(x, stride) : edge_words(x, tokens - t, stride, cols);
        if (OFFSET) sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(ones, word), _mm256_set1_epi16(OFFSET)));
        memcpy(out, &word, 4 * A_WIDTH);
    }
    sums = _mm256_sub_epi32(_mm256_setzero_si256(), sums);
    memcpy(panel, &sums, 4 * A_WIDTH);
}

void NAME(int8_pack_b)(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    __m256i offset = _mm256_set1_epi8((char)OFFSET);
    memset(panel, 0, 4 * B_WIDTH);
    panel += 4 * B_WIDTH;
    for (size_t t = 0; t < tokens; t += STEP, x += STEP * stride)
        for (size_t c = 0; c < B_WIDTH; c += WORD_COLS, panel += 4 * WORD_COLS) {
            __m256i word = _mm256_setzero_si256();
            if (c + WORD_COLS <= cols && t + STEP <= tokens)
                word = inner_words(x + c, stride);
            else if (c < cols)
                word = edge_words(x + c, tokens - t, stride, cols - c);
            _mm256_storeu_si256((__m256i *)panel, _mm256_xor_si256(word, offset));
        }
}

void NAME(int8_product)(const uint8_t *a, const uint8_t *b, size_t tokens, size_t rows, size_t cols,
                        const float *scales, int accumulate, float *c, size_t c_stride) {
    vector sum[A_WIDTH][B_VECTORS];
    int32_t sums[A_WIDTH * B_WIDTH];
    EACH_ROW EACH_VECTOR sum[i][j] = broadcast(a + 4 * i);
    a += 4 * A_WIDTH, b += 4 * B_WIDTH;
    for (size_t t = 0; t < tokens; t += STEP, a += 4 * A_WIDTH, b += 4 * B_WIDTH) {
        vector columns[B_VECTORS];
        EACH_VECTOR columns[j] = load(b + 4 * LANES * j);
        EACH_ROW {
            vector word = broadcast(a + 4 * i);
            EACH_VECTOR dot(&sum[i][j], columns[j], word);
        }
    }
    EACH_ROW EACH_VECTOR store(sums + i * B_WIDTH + LANES * j, sum[i][j]);
    hqk_int8_store(sums, B_WIDTH, rows, cols, scales, accumulate, c, c_stride);
}

#endif
