/* Packing, unpacking and comparing the 2-bit layout, written once for every ISA: plain C that the compiler vectorizes.
 *
 * 16 columns of a row are 16 codes, one a byte; as four 32-bit words, shifted by 0, 2, 4, 6 and joined, they are the
 * word of the row in its tile. Counting works on 64 bits at a time. */
#include "../hqk.h"
#include "../ternary/layout.h"

#define EVERY_FIELD 0x5555555555555555u

/* The codes of 16 columns, joined. */
static inline uint32_t join_fields(const uint8_t code[HQK_STEP_COLS]) {
    uint32_t word[4];
    memcpy(word, code, sizeof word);
    return word[0] | word[1] << 2 | word[2] << 4 | word[3] << 6;
}

static inline uint8_t *row_start(uint8_t *packed, size_t row, size_t cols) { return packed + hqk_byte_of(row, 0, cols); }

/* Rows past the matrix, up to a whole block. */
static void fill_padding(size_t rows, size_t cols, uint8_t *packed) {
    for (size_t r = rows; r % HQK_BLOCK_ROWS; r++)
        for (size_t s = 0; s < hqk_steps(cols); s++)
            memset(row_start(packed, r, cols) + s * HQK_STEP_BYTES, HQK_ZERO_BYTE, 4);
}

/* The word of 16 columns of a row in its tile. */
static inline uint32_t pack_columns(const int8_t trits[HQK_STEP_COLS]) {
    uint8_t code[HQK_STEP_COLS];
    for (int l = 0; l < HQK_STEP_COLS; l++) code[l] = (uint8_t)(1 + (trits[l] > 0) - (trits[l] < 0));
    return join_fields(code);
}

/* Rows `first` to `rows`; `trits` is the first of them. */
static void pack_trits(const int8_t *trits, size_t first, size_t rows, size_t cols, uint8_t *packed) {
    size_t whole = cols / HQK_STEP_COLS * HQK_STEP_COLS;
    for (size_t r = first; r < rows; r++, trits += cols) {
        uint8_t *out = row_start(packed, r, cols);
        uint32_t word;
        for (size_t c = 0; c < whole; c += HQK_STEP_COLS, out += HQK_STEP_BYTES) {
            word = pack_columns(trits + c);
            memcpy(out, &word, sizeof word);
        }
        if (whole < cols) {
            int8_t part[HQK_STEP_COLS] = {0};
            memcpy(part, trits + whole, cols - whole);
            word = pack_columns(part);
            memcpy(out, &word, sizeof word);
        }
    }
}

#ifndef HQK_TRITS_BY_EIGHT_ROWS
void HQK_NAME(hqk_ternary_pack)(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed) {
    fill_padding(rows, cols, packed);
    pack_trits(trits, 0, rows, cols, packed);
}
#endif

/* Rows `first` to `rows`; `trits` is the first of them. */
static void unpack_trits(const uint8_t *packed, size_t first, size_t rows, size_t cols, int8_t *trits) {
    for (size_t r = first; r < rows; r++, trits += cols) {
        const uint8_t *in = packed + hqk_byte_of(r, 0, cols);
        for (size_t c = 0; c < cols; c += HQK_STEP_COLS, in += HQK_STEP_BYTES) {
            uint32_t word, field[4];
            int8_t part[HQK_STEP_COLS];
            memcpy(&word, in, sizeof word);
            for (int f = 0; f < 4; f++) field[f] = word >> 2 * f & 0x03030303;
            memcpy(part, field, sizeof part);
            for (int l = 0; l < HQK_STEP_COLS; l++) part[l] = (int8_t)(part[l] - 1);
            if (cols - c >= HQK_STEP_COLS)
                memcpy(trits + c, part, HQK_STEP_COLS);
            else
                memcpy(trits + c, part, cols - c);
        }
    }
}

#ifndef HQK_TRITS_BY_EIGHT_ROWS
void HQK_NAME(hqk_ternary_unpack)(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits) {
    unpack_trits(packed, 0, rows, cols, trits);
}
#endif

/* Number of set bits of a word in which only even bits are set. */
static inline uint64_t count_even_bits(uint64_t x) {
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
    return x * 0x0101010101010101u >> 56;
}

/* Bit 2f of a byte is set where its fields `f` differ. */
static inline uint64_t differing_fields(uint64_t a, uint64_t b) { return ((a ^ b) | (a ^ b) >> 1) & EVERY_FIELD; }

static inline uint64_t load_word(const uint8_t *p, size_t bytes, uint64_t rest) {
    memcpy(&rest, p, bytes);
    return rest;
}

void HQK_NAME(hqk_ternary_count_changed)(const uint8_t *a, const uint8_t *b, size_t bytes, size_t *changed) {
    uint64_t count = 0;
    size_t i = 0;
    for (; i + 8 <= bytes; i += 8)
        count += count_even_bits(differing_fields(load_word(a + i, 8, 0), load_word(b + i, 8, 0)));
    if (i < bytes)
        count += count_even_bits(differing_fields(load_word(a + i, bytes - i, 0), load_word(b + i, bytes - i, 0)));
    *changed = (size_t)count;
}

void HQK_NAME(hqk_ternary_count_nonzero)(const uint8_t *packed, size_t bytes, size_t *nonzero) {
    uint64_t count = 0;
    size_t i = 0;
    for (; i + 8 <= bytes; i += 8) count += count_even_bits(differing_fields(load_word(packed + i, 8, 0), EVERY_FIELD));
    if (i < bytes)
        count += count_even_bits(differing_fields(load_word(packed + i, bytes - i, EVERY_FIELD), EVERY_FIELD));
    *nonzero = (size_t)count;
}

void HQK_NAME(hqk_ternary_find_invalid)(const uint8_t *packed, size_t bytes, size_t *first) {
    enum { CHUNK = 256 };
    size_t i = 0;
    for (; i + CHUNK <= bytes; i += CHUNK) {
        uint8_t found = 0;
        for (int b = 0; b < CHUNK; b++) found |= packed[i + b] & packed[i + b] >> 1 & 0x55;
        if (found) break;
    }
    while (i < bytes && !(packed[i] & packed[i] >> 1 & 0x55)) i++;
    *first = i;
}
