/* The 2-bit layout and the panels, as csrc/README.md defines them: sizes and single elements. */
#ifndef HQK_TERNARY_LAYOUT_H
#define HQK_TERNARY_LAYOUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define HQK_ALWAYS_INLINE static inline __attribute__((always_inline))
#define HQK_NEVER_INLINE __attribute__((noinline))
#define HQK_PRAGMA(text) _Pragma(#text)
#if defined(__clang__) /* "unroll n" comes too late for arrays to become registers */
#define HQK_UNROLL(n) _Pragma("clang loop unroll(full)")
#else
#define HQK_UNROLL(n) HQK_PRAGMA(GCC unroll n)
#endif
#else
#define HQK_ALWAYS_INLINE static inline
#define HQK_NEVER_INLINE
#define HQK_UNROLL(n)
#endif

/* Rows of a block, k of a step, bytes of a step, rows (and bytes) of a tile. */
#define HQK_BLOCK_ROWS 64
#define HQK_STEP_COLS 16
#define HQK_FIVE_TRITS_COLS 20 /* at five trits a byte, where all else is the same */
#define HQK_STEP_BYTES 256
#define HQK_TILE_ROWS 16
#define HQK_TILE_BYTES 64
/* A quad of a panel tile: 16 outputs x 4 k. */
#define HQK_QUAD_BYTES 64
/* Quads of four in the longest reduction, 2^18. */
#define HQK_LONGEST_QUADS 65536
/* Four zero weights. */
#define HQK_ZERO_BYTE 0x55

static inline size_t hqk_min(size_t a, size_t b) { return a < b ? a : b; }

static inline size_t hqk_steps(size_t cols) { return (cols + HQK_STEP_COLS - 1) / HQK_STEP_COLS; }

static inline size_t hqk_block_bytes(size_t cols) { return hqk_steps(cols) * HQK_STEP_BYTES; }

/* From one tile of 16 outputs of the panels of a reduction of `k` to the next. */
static inline size_t hqk_panel_tile_bytes(size_t k) { return hqk_steps(k) * 4 * HQK_QUAD_BYTES; }

/* Where the byte of weight [row][col] lies, and its shift within the byte. */
static inline size_t hqk_byte_of(size_t row, size_t col, size_t cols) {
    size_t tile = row % HQK_BLOCK_ROWS / HQK_TILE_ROWS;
    return row / HQK_BLOCK_ROWS * hqk_block_bytes(cols) + col / HQK_STEP_COLS * HQK_STEP_BYTES +
           tile * HQK_TILE_BYTES + 4 * (row % HQK_TILE_ROWS) + col % 4;
}

static inline unsigned hqk_shift_of(size_t col) { return 2 * (unsigned)(col % HQK_STEP_COLS / 4); }

/* Four int8 values as one 32-bit word; past the end of `left` values come zeros. */
static inline int32_t hqk_quad(const int8_t *x, size_t left) {
    int32_t word = 0;
    memcpy(&word, x, left < 4 ? left : 4);
    return word;
}

static inline int32_t hqk_whole_quad(const int8_t *x) {
    int32_t word;
    memcpy(&word, x, 4);
    return word;
}

/* Weights are stored as {0, 1, 2}: the sum over {-1, 0, 1} is less by the sum of x. Wraps, whatever sum is given. */
static inline int32_t hqk_centered(int32_t acc, int32_t x_sum) { return (int32_t)((uint32_t)acc - (uint32_t)x_sum); }

#endif
