/* vpmaddubsw on codes {0, 1, 2}: a 16-bit lane moves by -512 to 508 a time, so 64 of them are added before the sums
 * are widened to 32 bits: -32768 to 32512, which just fits.
 *
 * Several tokens (products.h): 6 tokens x 16 outputs are 12 accumulators of 16 bits. */
#include "../hqk.h"
#include "vector256.h"

/* acc += codes * quad, in pairs of 16 bits. The sum is written out because gcc 12 copies the accumulators of the
 * intrinsic to the stack every round. */
HQK_ALWAYS_INLINE void dot(vector *acc, vector codes, vector quad) {
    vector pairs = _mm256_maddubs_epi16(codes, quad);
#if defined(__GNUC__)
    __asm__("vpaddw %1, %0, %0" : "+x"(*acc) : "x"(pairs));
#else
    *acc = _mm256_add_epi16(*acc, pairs);
#endif
}

HQK_ALWAYS_INLINE vector widen(vector pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

#define VECTORS 2
#define QUADS_AT_ONCE 64
#define NAME(kernel) hqk_##kernel##_avx2
#include "products.h"
#include "product_entries.h"

void hqk_ternary_panels_avx2(const uint8_t *block, size_t cols, uint8_t *panels) {
    __m256i mask = _mm256_set1_epi8(3);
    size_t tile_bytes = hqk_panel_tile_bytes(cols);
    for (size_t s = 0; s < hqk_steps(cols); s++, block += HQK_STEP_BYTES, panels += 4 * HQK_QUAD_BYTES)
        for (size_t v = 0; v < 8; v++) {
            __m256i bytes = load(block + 32 * v);
            uint8_t *out = panels + v / 2 * tile_bytes + v % 2 * 32;
            store(out, _mm256_and_si256(bytes, mask));
            store(out + HQK_QUAD_BYTES, _mm256_and_si256(_mm256_srli_epi16(bytes, 2), mask));
            store(out + 2 * HQK_QUAD_BYTES, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask));
            store(out + 3 * HQK_QUAD_BYTES, _mm256_and_si256(_mm256_srli_epi16(bytes, 6), mask));
        }
}

void hqk_ternary_panels_transposed_avx2(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,
                                        uint8_t *panels) {
    __m256i mask = _mm256_set1_epi8(3);
    __m256i fields01 = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2), fields23 = _mm256_add_epi32(fields01, _mm256_set1_epi32(4));
    __m128i turn = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    size_t steps = hqk_min(hqk_steps(cols) - first_col / HQK_STEP_COLS, 4), tile_bytes = hqk_panel_tile_bytes(rows);
    for (size_t r = 0; r < rows; r += HQK_TILE_ROWS, panels += 4 * HQK_QUAD_BYTES) {
        const uint8_t *tile = packed + hqk_byte_of(r, first_col, cols);
        for (size_t s = 0; s < 4; s++)
            for (size_t u = 0; u < 4; u++) {
                /* Rows 4u to 4u + 3 of the tile; its four fields are the 16 columns of quad u. */
                __m128i bytes = _mm_set1_epi8(HQK_ZERO_BYTE);
                if (s < steps) bytes = _mm_loadu_si128((const __m128i *)(tile + s * HQK_STEP_BYTES + 16 * u));
                __m256i quad = _mm256_broadcastsi128_si256(_mm_shuffle_epi8(bytes, turn));
                uint8_t *out = panels + s * tile_bytes + HQK_QUAD_BYTES * u;
                store(out, _mm256_and_si256(_mm256_srlv_epi32(quad, fields01), mask));
                store(out + 32, _mm256_and_si256(_mm256_srlv_epi32(quad, fields23), mask));
            }
    }
}
