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
    for (size_t s = 0; s < hqk_steps(cols); s++, block += HQK_STEP_BYTES, panels += 4 * HQK_PANEL_BYTES)
        for (int v = 0; v < 8; v++) {
            __m256i bytes = load(block + 32 * v);
            uint8_t *out = panels + 32 * v;
            store(out, _mm256_and_si256(bytes, mask));
            store(out + HQK_PANEL_BYTES, _mm256_and_si256(_mm256_srli_epi16(bytes, 2), mask));
            store(out + 2 * HQK_PANEL_BYTES, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask));
            store(out + 3 * HQK_PANEL_BYTES, _mm256_and_si256(_mm256_srli_epi16(bytes, 6), mask));
        }
}

void hqk_ternary_panels_transposed_avx2(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,
                                        uint8_t *panels) {
    __m256i mask = _mm256_set1_epi8(3);
    __m256i fields01 = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2), fields23 = _mm256_add_epi32(fields01, _mm256_set1_epi32(4));
    __m128i turn = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    size_t steps = hqk_min(hqk_steps(cols) - first_col / HQK_STEP_COLS, 4);
    for (size_t r = 0; r < rows; r += HQK_TILE_ROWS, panels += 4 * HQK_PANEL_BYTES) {
        const uint8_t *tile = packed + hqk_byte_of(r, first_col, cols);
        for (size_t s = 0; s < 4; s++)
            for (size_t u = 0; u < 4; u++) {
                /* Rows 4u to 4u + 3 of the tile; its four fields are the 16 columns of panel u. */
                __m128i bytes = _mm_set1_epi8(HQK_ZERO_BYTE);
                if (s < steps) bytes = _mm_loadu_si128((const __m128i *)(tile + s * HQK_STEP_BYTES + 16 * u));
                __m256i quad = _mm256_broadcastsi128_si256(_mm_shuffle_epi8(bytes, turn));
                uint8_t *out = panels + HQK_PANEL_BYTES * u + 64 * s;
                store(out, _mm256_and_si256(_mm256_srlv_epi32(quad, fields01), mask));
                store(out + 32, _mm256_and_si256(_mm256_srlv_epi32(quad, fields23), mask));
            }
    }
}

/* Codes of 8 weights. */
static inline __m256i codes_of(const float *w, float threshold) {
    __m256 v = _mm256_loadu_ps(w);
    __m256i above = _mm256_castps_si256(_mm256_cmp_ps(v, _mm256_set1_ps(threshold), _CMP_GT_OQ));
    __m256i below = _mm256_castps_si256(_mm256_cmp_ps(v, _mm256_set1_ps(-threshold), _CMP_LT_OQ));
    return _mm256_add_epi32(_mm256_sub_epi32(_mm256_set1_epi32(1), above), below);
}

/* Quantizes 4 rows of 16 floats into 16 bytes of a tile. The packs of four rows leave one field of all four in each
 * 128-bit lane; a shift by lane and an OR of the lanes join the fields. */
static inline void pack_rows(const float *w, size_t stride, const float *thresholds, uint8_t *out) {
    __m256i pairs[4];
    for (size_t i = 0; i < 2; i++)
        for (size_t h = 0; h < 2; h++)
            pairs[2 * i + h] = _mm256_packs_epi32(codes_of(w + 2 * i * stride + 8 * h, thresholds[2 * i]),
                                                  codes_of(w + (2 * i + 1) * stride + 8 * h, thresholds[2 * i + 1]));
    __m256i fields01 = _mm256_packs_epi16(pairs[0], pairs[2]), fields23 = _mm256_packs_epi16(pairs[1], pairs[3]);
    fields01 = _mm256_sllv_epi32(fields01, _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2));
    fields23 = _mm256_sllv_epi32(fields23, _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6));
    __m256i both = _mm256_or_si256(fields01, fields23);
    _mm_storeu_si128((__m128i *)out, _mm_or_si128(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
}

void hqk_ternary_quantize_pack_avx2(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                    size_t threshold_stride, uint8_t *packed) {
    for (size_t first = 0; first < rows; first += HQK_BLOCK_ROWS, packed += hqk_block_bytes(cols))
        for (size_t r = 0; r < HQK_BLOCK_ROWS; r += 4) {
            size_t count = first + r < rows ? hqk_min(rows - first - r, 4) : 0, c = 0;
            float limits[4] = {0};
            for (size_t i = 0; i < count; i++) limits[i] = thresholds[(first + r + i) * threshold_stride];
            uint8_t *out = packed + 4 * r;
            if (count == 4)
                for (; c + HQK_STEP_COLS <= cols; c += HQK_STEP_COLS, out += HQK_STEP_BYTES)
                    pack_rows(weights + (first + r) * cols + c, cols, limits, out);
            for (; c < cols; c += HQK_STEP_COLS, out += HQK_STEP_BYTES) {
                float part[4 * HQK_STEP_COLS] = {0};
                for (size_t i = 0; i < count; i++)
                    memcpy(part + i * HQK_STEP_COLS, weights + (first + r + i) * cols + c,
                           hqk_min(cols - c, HQK_STEP_COLS) * sizeof *part);
                pack_rows(part, HQK_STEP_COLS, limits, out);
            }
        }
}

void hqk_ternary_count_changed_avx2(const uint8_t *a, const uint8_t *b, size_t bytes, size_t *changed) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t left = 0, right = 0;
        size_t n = hqk_min(bytes - i, 8);
        memcpy(&left, a + i, n);
        memcpy(&right, b + i, n);
        uint64_t differs = left ^ right;
        count += (size_t)_mm_popcnt_u64((differs | differs >> 1) & 0x5555555555555555u);
    }
    *changed = count;
}
