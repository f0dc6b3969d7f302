/* Products: vpmaddubsw on 6 tokens x 64 outputs (products.h), widened after 64 of them as in avx2.c.
 * Panels: field f of a tile is a quad of a panel tile; for the transpose one byte shuffle turns 4 rows x 4 k around. */
#include "../hqk.h"
#include "vector512.h"

/* acc += codes * quad, in pairs of 16 bits (avx2.c says how many fit). */
HQK_ALWAYS_INLINE void dot(vector *acc, vector codes, vector quad) {
    vector pairs = _mm512_maddubs_epi16(codes, quad);
#if defined(__GNUC__)
    __asm__("vpaddw %1, %0, %0" : "+v"(*acc) : "v"(pairs));
#else
    *acc = _mm512_add_epi16(*acc, pairs);
#endif
}

HQK_ALWAYS_INLINE vector widen(vector pairs) { return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)); }

#define VECTORS 4
#define QUADS_AT_ONCE 64
#define NAME(kernel) hqk_##kernel##_avx512
#include "products.h"
#include "product_entries.h"
#include "turned.h"

/* Lane f counts 2f: the shift of field f. */
static inline __m512i field_shifts(void) {
    return _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
}

void hqk_ternary_panels_avx512(const uint8_t *block, size_t cols, uint8_t *panels) {
    __m512i mask = _mm512_set1_epi8(3);
    size_t tile_bytes = hqk_panel_tile_bytes(cols);
    for (size_t s = 0; s < hqk_steps(cols); s++, block += HQK_STEP_BYTES, panels += 4 * HQK_QUAD_BYTES)
        for (size_t v = 0; v < 4; v++) {
            __m512i bytes = _mm512_loadu_si512(block + HQK_TILE_BYTES * v);
            uint8_t *out = panels + v * tile_bytes;
            _mm512_storeu_si512(out, _mm512_and_si512(bytes, mask));
            _mm512_storeu_si512(out + HQK_QUAD_BYTES, _mm512_and_si512(_mm512_srli_epi16(bytes, 2), mask));
            _mm512_storeu_si512(out + 2 * HQK_QUAD_BYTES, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask));
            _mm512_storeu_si512(out + 3 * HQK_QUAD_BYTES, _mm512_and_si512(_mm512_srli_epi16(bytes, 6), mask));
        }
}

void hqk_ternary_panels_transposed_avx512(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,
                                          uint8_t *panels) {
    __m512i mask = _mm512_set1_epi8(3), shifts = field_shifts();
    __m512i turn = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    size_t first_step = first_col / HQK_STEP_COLS, steps = hqk_min(hqk_steps(cols) - first_step, 4);
    size_t tile_bytes = hqk_panel_tile_bytes(rows);
    for (size_t r = 0; r < rows; r += HQK_TILE_ROWS, panels += 4 * HQK_QUAD_BYTES) {
        const uint8_t *tile = packed + hqk_byte_of(r, first_col, cols);
        for (size_t s = 0; s < 4; s++) {
            uint8_t *out = panels + s * tile_bytes;
            __m512i bytes = _mm512_set1_epi8(HQK_ZERO_BYTE);
            if (s < steps) bytes = _mm512_shuffle_epi8(_mm512_loadu_si512(tile + s * HQK_STEP_BYTES), turn);
            /* Lane u holds rows 4u to 4u + 3; the four fields of it are the 16 columns of quad u. */
            __m512i quad = _mm512_shuffle_i32x4(bytes, bytes, 0x00);
            _mm512_storeu_si512(out, _mm512_and_si512(_mm512_srlv_epi32(quad, shifts), mask));
            quad = _mm512_shuffle_i32x4(bytes, bytes, 0x55);
            _mm512_storeu_si512(out + HQK_QUAD_BYTES, _mm512_and_si512(_mm512_srlv_epi32(quad, shifts), mask));
            quad = _mm512_shuffle_i32x4(bytes, bytes, 0xAA);
            _mm512_storeu_si512(out + 2 * HQK_QUAD_BYTES, _mm512_and_si512(_mm512_srlv_epi32(quad, shifts), mask));
            quad = _mm512_shuffle_i32x4(bytes, bytes, 0xFF);
            _mm512_storeu_si512(out + 3 * HQK_QUAD_BYTES, _mm512_and_si512(_mm512_srlv_epi32(quad, shifts), mask));
        }
    }
}
