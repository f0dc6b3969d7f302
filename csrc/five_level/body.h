/* Packing and unpacking the five-level layout, written once for every ISA: plain C that the compiler vectorizes. Two
 * rows at a time, since they share the bytes of their third bits. */
#include "../hqk.h"
#include "layout.h"

/* Two rows x 16 columns of codes. */
typedef struct {
    uint8_t code[2][HQK_STEP_COLS];
} pair;

/* Bit 0 of four bytes as the low four bits: byte j lands at bit 24 + j of the product. */
static inline uint32_t gather_bits(uint32_t bytes) { return bytes * 0x01020408u >> 24 & 15; }

/* The opposite: byte j is bit j of `bits`. */
static inline uint32_t spread_bits(uint32_t bits) { return bits * 0x00204081u & 0x01010101u; }

/* Writes rows `row` (even) and `row + 1` of a step. */
static inline void store_pair(const pair *p, size_t row, uint8_t *step) {
    uint32_t word[2][4];
    memcpy(word, p, sizeof word);
    for (int i = 0; i < 2; i++) {
        uint32_t low = 0;
        for (int f = 0; f < 4; f++) low |= (word[i][f] & 0x03030303u) << 2 * f;
        memcpy(step + hqk_five_low(row + i), &low, sizeof low);
    }
    for (int f = 0; f < 4; f++)
        step[hqk_five_high(row) + 8 * f] =
            (uint8_t)(gather_bits(word[0][f] >> 2 & 0x01010101u) | gather_bits(word[1][f] >> 2 & 0x01010101u) << 4);
}

static inline void load_row(const uint8_t *step, size_t row, uint8_t code[HQK_STEP_COLS]) {
    uint32_t low, word[4];
    memcpy(&low, step + hqk_five_low(row), sizeof low);
    for (int f = 0; f < 4; f++) {
        uint32_t third = step[hqk_five_high(row) + 8 * f] >> row % 2 * 4 & 15;
        word[f] = (low >> 2 * f & 0x03030303u) | spread_bits(third) << 2;
    }
    memcpy(code, word, sizeof word);
}

/* Rows past the matrix, up to a whole block, from an even row on. */
static void fill_five_padding(size_t rows, size_t cols, uint8_t *packed) {
    pair zeros;
    memset(&zeros, 2, sizeof zeros);
    for (size_t r = (rows + 1) / 2 * 2; r % HQK_BLOCK_ROWS; r += 2)
        for (size_t c = 0; c < cols; c += HQK_STEP_COLS) store_pair(&zeros, r, packed + hqk_five_step(r, c, cols));
}

static inline void code_row(const int8_t levels[HQK_STEP_COLS], uint8_t code[HQK_STEP_COLS]) {
    for (int l = 0; l < HQK_STEP_COLS; l++) {
        int level = levels[l] > 2 ? 2 : levels[l];
        code[l] = (uint8_t)(2 + (level < -2 ? -2 : level));
    }
}

/* Packs two rows of a step, `stride` apart. */
static inline void pack_pair(const int8_t *levels, size_t stride, size_t row, uint8_t *step) {
    pair p;
    code_row(levels, p.code[0]);
    code_row(levels + stride, p.code[1]);
    store_pair(&p, row, step);
}

void HQK_NAME(hqk_five_level_pack)(const int8_t *levels, size_t rows, size_t cols, uint8_t *packed) {
    fill_five_padding(rows, cols, packed);
    for (size_t r = 0; r < rows; r += 2, levels += 2 * cols) {
        uint8_t *step = packed + hqk_five_step(r, 0, cols);
        size_t c = 0;
        if (r + 1 < rows)
            for (; c + HQK_STEP_COLS <= cols; c += HQK_STEP_COLS, step += HQK_FIVE_STEP_BYTES)
                pack_pair(levels + c, cols, r, step);
        for (; c < cols; c += HQK_STEP_COLS, step += HQK_FIVE_STEP_BYTES) {
            int8_t part[2 * HQK_STEP_COLS] = {0};
            for (size_t i = 0; i < 2 && r + i < rows; i++)
                memcpy(part + i * HQK_STEP_COLS, levels + i * cols + c, hqk_min(cols - c, HQK_STEP_COLS));
            pack_pair(part, HQK_STEP_COLS, r, step);
        }
    }
}

void HQK_NAME(hqk_five_level_unpack)(const uint8_t *packed, size_t rows, size_t cols, int8_t *levels) {
    for (size_t r = 0; r < rows; r++, levels += cols)
        for (size_t c = 0; c < cols; c += HQK_STEP_COLS) {
            uint8_t code[HQK_STEP_COLS];
            load_row(packed + hqk_five_step(r, c, cols), r, code);
            for (int l = 0; l < HQK_STEP_COLS; l++) code[l] = (uint8_t)(code[l] - 2);
            if (cols - c >= HQK_STEP_COLS)
                memcpy(levels + c, code, HQK_STEP_COLS);
            else
                memcpy(levels + c, code, cols - c);
        }
}

void HQK_NAME(hqk_five_level_find_invalid)(const uint8_t *packed, size_t steps, size_t *first) {
    for (size_t s = 0; s < steps; s++, packed += HQK_FIVE_STEP_BYTES)
        for (size_t row = 0; row < HQK_BLOCK_ROWS; row++) {
            uint8_t code[HQK_STEP_COLS], found = 0;
            load_row(packed, row, code);
            for (int l = 0; l < HQK_STEP_COLS; l++) found |= code[l] > 4;
            if (found) {
                *first = s * HQK_FIVE_STEP_BYTES + hqk_five_low(row);
                return;
            }
        }
    *first = steps * HQK_FIVE_STEP_BYTES;
}
