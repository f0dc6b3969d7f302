/* A product's tile for ISAs with fused multiply-adds; the ISA file defines `vector`, `mask`, their operations, LANES and
 * VECTORS (how many vectors wide a tile is). Every element is one chain of fused multiply-adds in the order of the
 * reduction: the same bits at every width. */
#ifndef HQK_ATTENTION_TILE_H
#define HQK_ATTENTION_TILE_H

#include <stddef.h>

#if defined(_MSC_VER)
#define TILE_INLINE static __forceinline
#else
#define TILE_INLINE static inline __attribute__((always_inline))
#endif
#define TILE_ROWS 6
#define TILE_COLUMNS (VECTORS * LANES)

/* Row and vector counts are constants at every call, so that the accumulators are registers. */
TILE_INLINE void fixed_tile(const size_t rows, const size_t vectors, mask last, size_t k, const float *a, size_t a_row,
                            size_t a_step, const float *b, size_t b_stride, float *c, size_t c_stride, int accumulate) {
    vector sum[TILE_ROWS][VECTORS];
    const mask whole = first_lanes(LANES);
#define LANES_OF(v) ((v) + 1 == vectors ? last : whole)
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++)
            sum[r][v] = accumulate ? load(c + r * c_stride + v * LANES, LANES_OF(v)) : zero();
    for (size_t i = 0; i < k; i++, a += a_step, b += b_stride) {
        vector row[VECTORS];
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) row[v] = load(b + v * LANES, LANES_OF(v));
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) {
            const vector factor = broadcast(a + r * a_row);
#pragma GCC unroll 8
            for (size_t v = 0; v < vectors; v++) sum[r][v] = fma_lanes(factor, row[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) store(c + r * c_stride + v * LANES, LANES_OF(v), sum[r][v]);
#undef LANES_OF
}

/* See body.h. */
static void tile(size_t rows, size_t columns, size_t k, const float *a, size_t a_row, size_t a_step, const float *b,
                 size_t b_stride, float *c, size_t c_stride, int accumulate) {
    const size_t vectors = (columns + LANES - 1) / LANES;
    const mask last = first_lanes(columns - (vectors - 1) * LANES);
#define FIXED(r, v) \
    case (r) * 8 + (v): fixed_tile(r, v, last, k, a, a_row, a_step, b, b_stride, c, c_stride, accumulate); break;
#if VECTORS == 4
#define EACH_WIDTH(r) FIXED(r, 1) FIXED(r, 2) FIXED(r, 3) FIXED(r, 4)
#else
#define EACH_WIDTH(r) FIXED(r, 1) FIXED(r, 2)
#endif
    switch (rows * 8 + vectors) {
        EACH_WIDTH(1) EACH_WIDTH(2) EACH_WIDTH(3) EACH_WIDTH(4) EACH_WIDTH(5) EACH_WIDTH(6)
    }
#undef FIXED
#undef EACH_WIDTH
}

#endif
