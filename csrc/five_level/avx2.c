/* As the 2-bit layout: the packs of four rows leave one field of all four in each 128-bit lane, one code a byte. Two bits
 * go through shifts by lane and an OR of the lanes; the third bits are the sign bits of the bytes after a shift. */
#define HQK_NAME(op) op##_avx2
#include "body.h"
#include "../prefetch.h"

#include <immintrin.h>

/* Codes of 8 weights. */
static inline __m256i codes_of(const float *w, float inner, float outer) {
    __m256 v = _mm256_loadu_ps(w);
    __m256i up = _mm256_add_epi32(_mm256_castps_si256(_mm256_cmp_ps(v, _mm256_set1_ps(inner), _CMP_GT_OQ)),
                                  _mm256_castps_si256(_mm256_cmp_ps(v, _mm256_set1_ps(outer), _CMP_GT_OQ)));
    __m256i down = _mm256_add_epi32(_mm256_castps_si256(_mm256_cmp_ps(v, _mm256_set1_ps(-inner), _CMP_LT_OQ)),
                                    _mm256_castps_si256(_mm256_cmp_ps(v, _mm256_set1_ps(-outer), _CMP_LT_OQ)));
    return _mm256_add_epi32(_mm256_sub_epi32(_mm256_set1_epi32(2), up), down);
}

/* Quantizes 4 rows of 16 floats into their bytes of a step. */
HQK_ALWAYS_INLINE void pack_rows(const float *w, size_t stride, const float inner[4], const float outer[4], size_t row,
                                 uint8_t *step) {
    __m256i pairs[4];
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) hqk_prefetch(w + i * stride, 4 * stride * sizeof *w); /* the next four rows */
    HQK_UNROLL(2) for (size_t i = 0; i < 2; i++)
        HQK_UNROLL(2) for (size_t h = 0; h < 2; h++)
            pairs[2 * i + h] =
                _mm256_packs_epi32(codes_of(w + 2 * i * stride + 8 * h, inner[2 * i], outer[2 * i]),
                                   codes_of(w + (2 * i + 1) * stride + 8 * h, inner[2 * i + 1], outer[2 * i + 1]));
    __m256i fields01 = _mm256_packs_epi16(pairs[0], pairs[2]), fields23 = _mm256_packs_epi16(pairs[1], pairs[3]);
    uint32_t third[2] = {(uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(fields01, 5)),
                         (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(fields23, 5))};
    __m256i two_bits = _mm256_set1_epi8(3);
    fields01 = _mm256_sllv_epi32(_mm256_and_si256(fields01, two_bits), _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2));
    fields23 = _mm256_sllv_epi32(_mm256_and_si256(fields23, two_bits), _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6));
    __m256i both = _mm256_or_si256(fields01, fields23);
    __m128i low = _mm_or_si128(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    _mm_storeu_si128((__m128i *)(step + hqk_five_low(row)), low);
    uint8_t *high = step + hqk_five_high(row);
    for (int f = 0; f < 4; f++) {
        uint16_t bits = (uint16_t)(third[f / 2] >> 16 * (f % 2));
        memcpy(high + 8 * f, &bits, sizeof bits);
    }
}

void hqk_five_level_quantize_pack_avx2(const float *weights, size_t rows, size_t cols, const float *limits,
                                       size_t limit_stride, uint8_t *packed) {
    fill_five_padding(rows, cols, packed);
    for (size_t r = 0; r < rows; r += 4) {
        size_t count = hqk_min(rows - r, 4), c = 0;
        const float *w = weights + r * cols;
        float inner[4] = {0}, outer[4] = {0};
        for (size_t i = 0; i < count; i++) {
            inner[i] = limits[(r + i) * limit_stride];
            outer[i] = limits[(r + i) * limit_stride + 1];
        }
        uint8_t *step = packed + hqk_five_step(r, 0, cols);
        if (count == 4)
            for (; c + HQK_STEP_COLS <= cols; c += HQK_STEP_COLS, step += HQK_FIVE_STEP_BYTES)
                pack_rows(w + c, cols, inner, outer, r, step);
        for (; c < cols; c += HQK_STEP_COLS, step += HQK_FIVE_STEP_BYTES) {
            float part[4 * HQK_STEP_COLS] = {0};
            for (size_t i = 0; i < count; i++)
                memcpy(part + i * HQK_STEP_COLS, w + i * cols + c, hqk_min(cols - c, HQK_STEP_COLS) * sizeof *part);
            pack_rows(part, HQK_STEP_COLS, inner, outer, r, step);
        }
    }
}
