/* Packing for products, in the order all x86 versions share: a panel holds 32-bit words, each STEP tokens of one column, and
 * in front of them the values its sums begin with. The file that includes this has defined what tile.h lists. */
#ifndef HQK_INT8_PACK_H
#define HQK_INT8_PACK_H

#include <string.h>

#define WORD_COLS 8 /* columns of one 256-bit register of words */
#define FOUR_PANELS (4 * A_WIDTH) /* columns of three such registers */

static inline size_t panel_bytes(size_t width, size_t tokens) { return 4 * width * (1 + (tokens + STEP - 1) / STEP); }

/* Words of 8 columns of STEP rows, of each of which 8 bytes can be read. */
static inline __m256i inner_words(const int8_t *x, size_t stride) {
    __m128i rows[STEP];
    for (size_t t = 0; t < STEP; t++) rows[t] = _mm_loadl_epi64((const __m128i *)(x + t * stride));
    return words(rows);
}

/* Words of up to 8 of the `cols` columns of STEP rows, of which `tokens` exist; what lies beyond is zero. */
static inline __m256i edge_words(const int8_t *x, size_t tokens, size_t stride, size_t cols) {
    if (cols > WORD_COLS) cols = WORD_COLS;
    /* Where rows follow, 8 bytes can be read of these: the columns beyond are other rows'. */
    if (tokens >= STEP && (tokens - STEP) * stride + cols >= WORD_COLS) {
        __m256i column = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_and_si256(inner_words(x, stride), _mm256_cmpgt_epi32(_mm256_set1_epi32((int)cols), column));
    }
    __m128i rows[STEP];
    for (size_t t = 0; t < STEP; t++) {
        int8_t values[WORD_COLS] = {0};
        if (t < tokens) memcpy(values, x + t * stride, cols);
        rows[t] = _mm_loadl_epi64((const __m128i *)values);
    }
    return words(rows);
}

/* sums -= OFFSET times the tokens of each word. */
static inline __m256i begin_sums(__m256i sums, __m256i word) {
    if (!OFFSET) return sums;
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), word);
    return _mm256_sub_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(OFFSET)));
}

/* Three registers of eight words as four of six; the two words after them are whatever comes. */
static inline void cut(const __m256i eight[3], __m256i six[4]) {
    six[0] = eight[0];
    six[1] = _mm256_permute4x64_epi64(_mm256_permute2x128_si256(eight[0], eight[1], 0x21), _MM_SHUFFLE(3, 3, 2, 1));
    six[2] = _mm256_permute2x128_si256(eight[1], eight[2], 0x21);
    six[3] = _mm256_permute4x64_epi64(eight[2], _MM_SHUFFLE(3, 3, 2, 1));
}

static inline void store_six(uint8_t *out, size_t panel, const __m256i eight[3]) {
    __m256i six[4];
    cut(eight, six);
    for (size_t p = 0; p < 4; p++) memcpy(out + p * panel, &six[p], 4 * A_WIDTH);
}

/* Four whole panels of the left factor. A step stores eight words where six are its own: the next step, or at the end an
 * exact one, writes over the other two. */
static void pack_four_a(const int8_t *x, size_t tokens, size_t stride, uint8_t *panels) {
    size_t panel = panel_bytes(A_WIDTH, tokens), t = 0;
    uint8_t *out = panels + 4 * A_WIDTH;
    __m256i word[3], six[4], sums[3];
    for (int j = 0; j < 3; j++) sums[j] = _mm256_setzero_si256();
    for (; t + STEP < tokens; t += STEP, x += STEP * stride, out += 4 * A_WIDTH) {
        for (int j = 0; j < 3; j++) word[j] = inner_words(x + WORD_COLS * j, stride);
        for (int j = 0; j < 3; j++) sums[j] = begin_sums(sums[j], word[j]);
        cut(word, six);
        for (size_t p = 0; p < 4; p++) _mm256_storeu_si256((__m256i *)(out + p * panel), six[p]);
    }
    if (t < tokens) {
        for (int j = 0; j < 3; j++) word[j] = edge_words(x + WORD_COLS * j, tokens - t, stride, WORD_COLS);
        for (int j = 0; j < 3; j++) sums[j] = begin_sums(sums[j], word[j]);
        store_six(out, panel, word);
    }
    store_six(panels, panel, sums);
}

/* One panel of the left factor, of up to A_WIDTH columns. */
static void pack_one_a(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel) {
    __m256i sums = _mm256_setzero_si256();
    uint8_t *out = panel + 4 * A_WIDTH;
    for (size_t t = 0; t < tokens; t += STEP, x += STEP * stride, out += 4 * A_WIDTH) {
        __m256i word = edge_words(x, tokens - t, stride, cols);
        sums = begin_sums(sums, word);
        memcpy(out, &word, 4 * A_WIDTH);
    }
    memcpy(panel, &sums, 4 * A_WIDTH);
}

void NAME(int8_pack_a)(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    size_t c = 0, panel = panel_bytes(A_WIDTH, tokens);
    for (; c + FOUR_PANELS <= cols; c += FOUR_PANELS, panels += 4 * panel) pack_four_a(x + c, tokens, stride, panels);
    for (; c < cols; c += A_WIDTH, panels += panel)
        pack_one_a(x + c, tokens, stride, cols - c < A_WIDTH ? cols - c : A_WIDTH, panels);
}

/* STEP rows go to all panels before the next do: of rows that lie a power of two apart few are needed at a time. */
void NAME(int8_pack_b)(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels) {
    __m256i offset = _mm256_set1_epi8((char)OFFSET);
    size_t panel = panel_bytes(B_WIDTH, tokens), whole = cols - cols % B_WIDTH, padded = whole + (cols > whole ? B_WIDTH : 0);
    for (size_t c = 0; c < padded; c += B_WIDTH) memset(panels + c / B_WIDTH * panel, 0, 4 * B_WIDTH);
    uint8_t *out = panels + 4 * B_WIDTH;
    for (size_t t = 0; t < tokens; t += STEP, x += STEP * stride, out += 4 * B_WIDTH) {
        size_t inner = t + STEP <= tokens ? whole : 0;
        uint8_t *to = out;
        for (size_t c = 0; c < inner; c += B_WIDTH, to += panel)
            for (size_t i = 0; i < B_WIDTH; i += WORD_COLS)
                _mm256_storeu_si256((__m256i *)(to + 4 * i), _mm256_xor_si256(inner_words(x + c + i, stride), offset));
        for (size_t c = inner; c < padded; c += B_WIDTH, to += panel)
            for (size_t i = 0; i < B_WIDTH; i += WORD_COLS) {
                __m256i word = _mm256_setzero_si256();
                if (c + i < cols) word = edge_words(x + c + i, tokens - t, stride, cols - c - i);
                _mm256_storeu_si256((__m256i *)(to + 4 * i), _mm256_xor_si256(word, offset));
            }
    }
}

#endif
