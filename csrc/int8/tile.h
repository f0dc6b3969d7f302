/* Packing (pack.h) and the tile of products, in the order all x86 versions share: a product takes one word of the left panel
 * to all lanes and meets registers of words of the right panel. A tile is 6 rows x B_VECTORS registers.
 *
 * The file that includes this has defined
 *   vector, LANES, load, put, broadcast    the registers of sums,
 *   B_VECTORS                              registers of columns in a tile,
 *   words(rows)                            8 columns of STEP rows of int8 as words,
 *   dot(acc, b, a)                         acc += the products of words,
 *   OFFSET                                 what is added to each value of the right panel, and the sums make good for,
 *   NAME(kernel)                           the kernel's full name. */
#ifndef HQK_INT8_TILE_H
#define HQK_INT8_TILE_H

#include "../ternary/layout.h"

#define A_WIDTH 6
#define B_WIDTH (B_VECTORS * LANES)

#include "pack.h"
#include "pack_rows.h"

#define EACH_ROW HQK_UNROLL(6) for (int i = 0; i < A_WIDTH; i++)
#define EACH_VECTOR HQK_UNROLL(4) for (int j = 0; j < vectors; j++)

void NAME(int8_geometry)(size_t *geometry) {
    geometry[0] = A_WIDTH, geometry[1] = B_WIDTH, geometry[2] = STEP, geometry[3] = 4 / STEP;
}

/* The outputs are on their way while the products are added: they seldom are in a near cache. */
static inline void fetch_outputs(size_t rows, size_t cols, const float *c, size_t c_stride) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j += 16) _mm_prefetch((const char *)(c + i * c_stride + j), _MM_HINT_T0);
}

/* A tile of `vectors` registers of columns. */
HQK_ALWAYS_INLINE void multiply(const uint8_t *a, const uint8_t *b, int vectors, size_t tokens, size_t rows, size_t cols,
                                const float *scales, int accumulate, float *c, size_t c_stride) {
    vector sum[A_WIDTH][B_VECTORS];
    fetch_outputs(rows, cols, c, c_stride);
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
    EACH_ROW EACH_VECTOR if ((size_t)i < rows && (size_t)(LANES * j) < cols)
        put(c + (size_t)i * c_stride + LANES * j, cols - (size_t)(LANES * j), sum[i][j], scales[i], accumulate);
}

/* The last few columns take one register. */
void NAME(int8_product)(const uint8_t *a, const uint8_t *b, size_t tokens, size_t rows, size_t cols,
                        const float *scales, int accumulate, float *c, size_t c_stride) {
    if (cols > LANES)
        multiply(a, b, B_VECTORS, tokens, rows, cols, scales, accumulate, c, c_stride);
    else
        multiply(a, b, 1, tokens, rows, cols, scales, accumulate, c, c_stride);
}

#endif
