/* Sizes of the layout of five trits a byte (csrc/README.md, "pack5"). */
#ifndef HQK_PACK5_LAYOUT_H
#define HQK_PACK5_LAYOUT_H

#include <stddef.h>

#define ROWS 64
#define TILE_ROWS 16
#define DIGITS 5
#define STEP_K 20
#define STEP_BYTES 256
#define TILE_BYTES 64

static inline size_t at_most(size_t n, size_t limit) { return n < limit ? n : limit; }

static inline size_t steps_of(size_t cols) { return (cols + STEP_K - 1) / STEP_K; }

#endif
