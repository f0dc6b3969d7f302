/* The five-level layout (csrc/README.md): steps of 64 rows x 16 columns, low bits as in the 2-bit layout, then the third
 * bits. */
#ifndef HQK_FIVE_LEVEL_LAYOUT_H
#define HQK_FIVE_LEVEL_LAYOUT_H

#include "../ternary/layout.h"

/* Bytes of a step: low bits, then third bits. */
#define HQK_FIVE_STEP_BYTES 384
#define HQK_FIVE_LOW_BYTES 256
/* Four weights of code 2 (zero): the low bits. The third bits are 0. */
#define HQK_FIVE_ZERO_BYTE 0xAA

static inline size_t hqk_five_block_bytes(size_t cols) { return hqk_steps(cols) * HQK_FIVE_STEP_BYTES; }

/* Where the step of row `row`, column `col` starts. */
static inline size_t hqk_five_step(size_t row, size_t col, size_t cols) {
    return row / HQK_BLOCK_ROWS * hqk_five_block_bytes(cols) + col / HQK_STEP_COLS * HQK_FIVE_STEP_BYTES;
}

/* Offset in a step of the word of low bits of a row. */
static inline size_t hqk_five_low(size_t row) { return row % HQK_BLOCK_ROWS * 4; }

/* Offset in a step of the byte of third bits of a row in field 0; field f follows 8 f bytes later. An even row has the
 * lower half of the byte. */
static inline size_t hqk_five_high(size_t row) {
    return HQK_FIVE_LOW_BYTES + row % HQK_BLOCK_ROWS / HQK_TILE_ROWS * 32 + row % HQK_TILE_ROWS / 2;
}

#endif
