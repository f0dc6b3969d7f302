/* As the 2-bit layout: the packs of four rows leave field f of all four in lane f, one code a byte. Two bits go through
 * shifts by lane and an OR of the lanes; the third bits are a mask of all bytes, 16 bits a field. */
#define HQK_NAME(op) op##_avx512
#include "body.h"
#include "../prefetch.h"

#include <immintrin.h>

HQK_ALWAYS_INLINE void pack_rows(const float *w, size_t cols, size_t count, __mmask16 mask, const float inner[4],
                                 const float outer[4], size_t row, uint8_t *step) {
    __m512i codes[4], one = _mm512_set1_epi32(1), two = _mm512_set1_epi32(2);
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) {
        codes[i] = two;
        if (i >= count) continue;
        __m512 v = _mm512_maskz_loadu_ps(mask, w + i * cols);
        hqk_prefetch(w + i * cols, 4 * cols * sizeof *w); /* the next four rows */
        __m512i code = _mm512_mask_add_epi32(two, _mm512_cmp_ps_mask(v, _mm512_set1_ps(inner[i]), _CMP_GT_OQ), two, one);
        code = _mm512_mask_add_epi32(code, _mm512_cmp_ps_mask(v, _mm512_set1_ps(outer[i]), _CMP_GT_OQ), code, one);
        code = _mm512_mask_sub_epi32(code, _mm512_cmp_ps_mask(v, _mm512_set1_ps(-inner[i]), _CMP_LT_OQ), code, one);
        codes[i] = _mm512_mask_sub_epi32(code, _mm512_cmp_ps_mask(v, _mm512_set1_ps(-outer[i]), _CMP_LT_OQ), code, one);
    }
    __m512i all = _mm512_packs_epi16(_mm512_packs_epi32(codes[0], codes[1]), _mm512_packs_epi32(codes[2], codes[3]));
    uint64_t third = _mm512_test_epi8_mask(all, _mm512_set1_epi8(4));
    all = _mm512_and_si512(all, _mm512_set1_epi8(3));
    all = _mm512_sllv_epi32(all, _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6));
    __m256i half = _mm256_or_si256(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    __m128i low = _mm_or_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128((__m128i *)(step + hqk_five_low(row)), low);
    uint8_t *high = step + hqk_five_high(row);
    HQK_UNROLL(4) for (int f = 0; f < 4; f++) {
        uint16_t bits = (uint16_t)(third >> 16 * f);
        memcpy(high + 8 * f, &bits, sizeof bits);
    }
}

void hqk_five_level_quantize_pack_avx512(const float *weights, size_t rows, size_t cols, const float *limits,
                                         size_t limit_stride, uint8_t *packed) {
    size_t whole = cols / HQK_STEP_COLS * HQK_STEP_COLS;
    __mmask16 tail = (__mmask16)((1u << (cols - whole)) - 1);
    fill_five_padding(rows, cols, packed);
    for (size_t r = 0; r < rows; r += 4) {
        size_t count = hqk_min(rows - r, 4);
        const float *w = weights + r * cols;
        float inner[4] = {0}, outer[4] = {0};
        for (size_t i = 0; i < count; i++) {
            inner[i] = limits[(r + i) * limit_stride];
            outer[i] = limits[(r + i) * limit_stride + 1];
        }
        uint8_t *step = packed + hqk_five_step(r, 0, cols);
        if (count == 4)
            for (size_t c = 0; c < whole; c += HQK_STEP_COLS, step += HQK_FIVE_STEP_BYTES)
                pack_rows(w + c, cols, 4, 0xFFFF, inner, outer, r, step);
        else
            for (size_t c = 0; c < whole; c += HQK_STEP_COLS, step += HQK_FIVE_STEP_BYTES)
                pack_rows(w + c, cols, count, 0xFFFF, inner, outer, r, step);
        if (whole < cols) pack_rows(w + whole, cols, count, tail, inner, outer, r, step);
    }
}
