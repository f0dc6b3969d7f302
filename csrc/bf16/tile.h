/* The tile of products of the x86 versions: A_WIDTH rows x B_VECTORS registers of sums.
 *
 * The file that includes this has defined vector, LANES, B_VECTORS, value, HQK_NAME, and
 *   load, store, zero, broadcast  registers of f32, or of words of two bf16,
 *   dot(sum, a, b)                sum + the products, each added by itself, the odd token's first. */
#define A_WIDTH 6
#define B_WIDTH (B_VECTORS * LANES)

#include "pack.h"

#define EACH_ROW _Pragma("GCC unroll 6") for (int i = 0; i < A_WIDTH; i++)
#define EACH_VECTOR _Pragma("GCC unroll 4") for (int j = 0; j < B_VECTORS; j++)

void HQK_NAME(hqk_bf16_product)(const uint8_t *a_panel, const uint8_t *b_panel, size_t tokens, size_t rows, size_t cols,
                                int32_t accumulate, float *c, size_t c_stride) {
    const value *a = (const value *)(const void *)a_panel, *b = (const value *)(const void *)b_panel;
    vector sum[A_WIDTH][B_VECTORS];
    EACH_ROW EACH_VECTOR sum[i][j] = zero();
    for (size_t n = (tokens + 1) / 2 * PAIR_VALUES; n > 0; n--, a += A_WIDTH, b += B_WIDTH) {
        vector columns[B_VECTORS];
        EACH_VECTOR columns[j] = load(b + LANES * j);
        EACH_ROW {
            vector row = broadcast(a + i);
            EACH_VECTOR sum[i][j] = dot(sum[i][j], row, columns[j]);
        }
    }
    float sums[A_WIDTH * B_WIDTH];
    EACH_ROW EACH_VECTOR store(sums + i * B_WIDTH + LANES * j, sum[i][j]);
    hqk_bf16_store(sums, rows, cols, accumulate, c, c_stride);
}
