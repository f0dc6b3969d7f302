/* Packing of a matrix whose columns lie one after the other: four tokens of a column are one word as they lie, and eight
 * columns of eight words change places in registers. */
#ifndef HQK_INT8_PACK_ROWS_H
#define HQK_INT8_PACK_ROWS_H

#define SQUARE 8 /* words of a register, and columns that are turned together */

/* The first 32 bytes of up to 8 columns, of which `left` exist; what lies beyond is zero. */
static inline void load_columns(const int8_t *x, size_t left, size_t stride, size_t cols, __m256i column[SQUARE]) {
    for (size_t c = 0; c < SQUARE; c++) {
        int8_t values[4 * SQUARE] = {0};
        if (c < cols && left >= sizeof values)
            column[c] = _mm256_loadu_si256((const __m256i *)(x + c * stride));
        else {
            if (c < cols) memcpy(values, x + c * stride, left);
            column[c] = _mm256_loadu_si256((const __m256i *)values);
        }
    }
}

/* Word i of column j becomes word j of row i. */
static inline void turn(__m256i square[SQUARE]) {
    __m256i pairs[SQUARE], fours[SQUARE];
    for (int i = 0; i < SQUARE; i += 2) {
        pairs[i] = _mm256_unpacklo_epi32(square[i], square[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(square[i], square[i + 1]);
    }
    for (int i = 0; i < SQUARE; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm256_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j + 1] = _mm256_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    for (int i = 0; i < SQUARE / 2; i++) {
        square[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
        square[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
    }
}

/* Words `part` of a panel of the 4 / STEP that four tokens give: all of them, or two widened. */
static inline __m256i panel_words(__m256i tokens, size_t part) {
    if (STEP == 4) return tokens;
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(tokens, 8), 8), odd = _mm256_srai_epi16(tokens, 8);
    return part ? _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xAA)
                : _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xAA);
}

void NAME(int8_pack_a_rows)(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    for (size_t c = 0; c < cols; c += A_WIDTH, x += A_WIDTH * stride) {
        __m256i sums = _mm256_setzero_si256(), square[SQUARE];
        uint8_t *out = panels + 4 * A_WIDTH;
        for (size_t t0 = 0; t0 < tokens; t0 += 4 * SQUARE) {
            load_columns(x + t0, tokens - t0, stride, cols - c < A_WIDTH ? cols - c : A_WIDTH, square);
            turn(square);
            for (size_t t = t0; t < tokens && t < t0 + 4 * SQUARE; t += STEP, out += 4 * A_WIDTH) {
                __m256i word = panel_words(square[(t - t0) / 4], (t - t0) % 4 / STEP);
                sums = begin_sums(sums, word);
                memcpy(out, &word, 4 * A_WIDTH);
            }
        }
        memcpy(panels, &sums, 4 * A_WIDTH);
        panels = out;
    }
}

void NAME(int8_pack_b_rows)(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    __m256i offset = _mm256_set1_epi8((char)OFFSET), square[SQUARE];
    for (size_t c0 = 0; c0 < cols; c0 += B_WIDTH, x += B_WIDTH * stride) {
        memset(panels, 0, 4 * B_WIDTH);
        panels += 4 * B_WIDTH;
        for (size_t t0 = 0; t0 < tokens; t0 += 4 * SQUARE) {
            size_t end = tokens - t0 < 4 * SQUARE ? tokens : t0 + 4 * SQUARE;
            for (size_t c = 0; c < B_WIDTH; c += SQUARE) {
                uint8_t *out = panels + 4 * c;
                load_columns(x + c * stride + t0, tokens - t0, stride, c0 + c < cols ? cols - c0 - c : 0, square);
                turn(square);
                for (size_t t = t0; t < end; t += STEP, out += 4 * B_WIDTH) {
                    __m256i word = panel_words(square[(t - t0) / 4], (t - t0) % 4 / STEP);
                    _mm256_storeu_si256((__m256i *)out, _mm256_xor_si256(word, offset));
                }
            }
            panels += (end - t0 + STEP - 1) / STEP * 4 * B_WIDTH;
        }
    }
}

#endif
