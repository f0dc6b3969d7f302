/* 8 floats of a row become 8 codes; the packs of four rows leave one field of all four in each 128-bit lane, so a shift
 * by lane and an OR of the lanes is a quarter of a tile. */
#define HQK_NAME(op) op##_avx2
#define HQK_TRITS_BY_EIGHT_ROWS
#include "body.h"
#include "../lanes.h"
#include "../prefetch.h"
#include "trits256.h"

/* Codes of 8 weights; `lanes` (or NULL: two registers of f64 sums) takes the magnitudes above the threshold. */
HQK_ALWAYS_INLINE __m256i codes_of(const float *w, float threshold, __m256d *lanes) {
    __m256 v = _mm256_loadu_ps(w);
    __m256 above = _mm256_cmp_ps(v, _mm256_set1_ps(threshold), _CMP_GT_OQ);
    __m256 below = _mm256_cmp_ps(v, _mm256_set1_ps(-threshold), _CMP_LT_OQ);
    if (lanes) {
        __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
        __m256 kept = _mm256_and_ps(magnitude, _mm256_or_ps(above, below));
        lanes[0] = _mm256_add_pd(lanes[0], _mm256_cvtps_pd(_mm256_castps256_ps128(kept)));
        lanes[1] = _mm256_add_pd(lanes[1], _mm256_cvtps_pd(_mm256_extractf128_ps(kept, 1)));
    }
    __m256i codes = _mm256_sub_epi32(_mm256_set1_epi32(1), _mm256_castps_si256(above));
    return _mm256_add_epi32(codes, _mm256_castps_si256(below));
}

/* Quantizes 4 rows of 16 floats into 16 bytes of a tile. */
HQK_ALWAYS_INLINE void pack_rows(const float *w, size_t stride, const float limits[4], uint8_t *out, __m256d *lanes) {
    __m256i code[4][2], pairs[4];
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) hqk_prefetch(w + i * stride, 4 * stride * sizeof *w); /* the next four rows */
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++)
        HQK_UNROLL(2) for (size_t h = 0; h < 2; h++)
            code[i][h] = codes_of(w + i * stride + 8 * h, limits[i], lanes ? lanes + 2 * h : NULL);
    HQK_UNROLL(2) for (size_t i = 0; i < 2; i++)
        HQK_UNROLL(2) for (size_t h = 0; h < 2; h++)
            pairs[2 * i + h] = _mm256_packs_epi32(code[2 * i][h], code[2 * i + 1][h]);
    __m256i fields01 = _mm256_packs_epi16(pairs[0], pairs[2]), fields23 = _mm256_packs_epi16(pairs[1], pairs[3]);
    fields01 = _mm256_sllv_epi32(fields01, _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2));
    fields23 = _mm256_sllv_epi32(fields23, _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6));
    __m256i both = _mm256_or_si256(fields01, fields23);
    _mm_storeu_si128((__m128i *)out, _mm_or_si128(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
}

HQK_ALWAYS_INLINE void quantize_pack(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                     size_t threshold_stride, uint8_t *packed, __m256d *lanes) {
    fill_padding(rows, cols, packed);
    for (size_t r = 0; r < rows; r += 4) {
        size_t count = hqk_min(rows - r, 4), c = 0;
        const float *w = weights + r * cols;
        float limits[4] = {0};
        for (size_t i = 0; i < count; i++) limits[i] = thresholds[(r + i) * threshold_stride];
        uint8_t *out = row_start(packed, r, cols);
        if (count == 4)
            for (; c + HQK_STEP_COLS <= cols; c += HQK_STEP_COLS, out += HQK_STEP_BYTES)
                pack_rows(w + c, cols, limits, out, lanes);
        for (; c < cols; c += HQK_STEP_COLS, out += HQK_STEP_BYTES) {
            float part[4 * HQK_STEP_COLS] = {0};
            for (size_t i = 0; i < count; i++)
                memcpy(part + i * HQK_STEP_COLS, w + i * cols + c, hqk_min(cols - c, HQK_STEP_COLS) * sizeof *part);
            pack_rows(part, HQK_STEP_COLS, limits, out, lanes);
        }
    }
}

void hqk_ternary_quantize_pack_avx2(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                    size_t threshold_stride, uint8_t *packed) {
    quantize_pack(weights, rows, cols, thresholds, threshold_stride, packed, NULL);
}

void hqk_ternary_quantize_pack_sum_avx2(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                        size_t threshold_stride, uint8_t *packed, double *kept) {
    __m256d lanes[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    quantize_pack(weights, rows, cols, thresholds, threshold_stride, packed, lanes);
    double lane[HQK_LANES];
    for (size_t i = 0; i < 4; i++) _mm256_storeu_pd(lane + 4 * i, lanes[i]);
    *kept = hqk_sum_lanes(lane);
}
