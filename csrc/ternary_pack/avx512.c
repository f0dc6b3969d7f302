/* 16 floats of a row become 16 codes; the packs of four rows leave field f of all four in lane f, so a shift by lane
 * and an OR of the lanes is a quarter of a tile. */
#define HQK_NAME(op) op##_avx512
#define HQK_TRITS_BY_EIGHT_ROWS
#include "body.h"
#include "../lanes.h"
#include "../prefetch.h"
#include "trits256.h"

/* Lane f counts 2f: the shift of field f. */
static inline __m512i field_shifts(void) {
    return _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
}

static inline __m512d widen_low(__m512 v) { return _mm512_cvtps_pd(_mm512_castps512_ps256(v)); }

static inline __m512d widen_high(__m512 v) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)); }

/* Quantizes `count` (1 to 4) rows of 16 floats under `mask` into 16 bytes of a tile; `lanes` (or NULL) takes the
 * magnitudes above the thresholds. */
HQK_ALWAYS_INLINE void pack_rows(const float *w, size_t cols, size_t count, __mmask16 mask, const float limits[4],
                                 uint8_t *out, __m512d *lanes) {
    __m512i row[4], one = _mm512_set1_epi32(1);
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) {
        row[i] = one;
        if (i >= count) continue;
        __m512 v = _mm512_maskz_loadu_ps(mask, w + i * cols);
        hqk_prefetch(w + i * cols, 4 * cols * sizeof *w); /* the next four rows */
        __mmask16 above = _mm512_cmp_ps_mask(v, _mm512_set1_ps(limits[i]), _CMP_GT_OQ);
        __mmask16 below = _mm512_cmp_ps_mask(v, _mm512_set1_ps(-limits[i]), _CMP_LT_OQ);
        row[i] = _mm512_mask_sub_epi32(_mm512_mask_add_epi32(one, above, one, one), below, one, one);
        if (lanes) {
            __m512 kept = _mm512_maskz_mov_ps(above | below, _mm512_abs_ps(v));
            lanes[0] = _mm512_add_pd(lanes[0], widen_low(kept));
            lanes[1] = _mm512_add_pd(lanes[1], widen_high(kept));
        }
    }
    __m512i codes = _mm512_packs_epi16(_mm512_packs_epi32(row[0], row[1]), _mm512_packs_epi32(row[2], row[3]));
    codes = _mm512_sllv_epi32(codes, field_shifts());
    __m256i half = _mm256_or_si256(_mm512_castsi512_si256(codes), _mm512_extracti64x4_epi64(codes, 1));
    __m128i bytes = _mm_or_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128((__m128i *)out, bytes);
}

HQK_ALWAYS_INLINE void quantize_pack(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                     size_t threshold_stride, uint8_t *packed, __m512d *lanes) {
    size_t whole = cols / HQK_STEP_COLS * HQK_STEP_COLS;
    __mmask16 tail = (__mmask16)((1u << (cols - whole)) - 1);
    fill_padding(rows, cols, packed);
    for (size_t r = 0; r < rows; r += 4) {
        size_t count = hqk_min(rows - r, 4);
        const float *w = weights + r * cols;
        float limits[4] = {0};
        for (size_t i = 0; i < count; i++) limits[i] = thresholds[(r + i) * threshold_stride];
        uint8_t *out = row_start(packed, r, cols);
        if (count == 4)
            for (size_t c = 0; c < whole; c += HQK_STEP_COLS, out += HQK_STEP_BYTES)
                pack_rows(w + c, cols, 4, 0xFFFF, limits, out, lanes);
        else
            for (size_t c = 0; c < whole; c += HQK_STEP_COLS, out += HQK_STEP_BYTES)
                pack_rows(w + c, cols, count, 0xFFFF, limits, out, lanes);
        if (whole < cols) pack_rows(w + whole, cols, count, tail, limits, out, lanes);
    }
}

void hqk_ternary_quantize_pack_avx512(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                      size_t threshold_stride, uint8_t *packed) {
    quantize_pack(weights, rows, cols, thresholds, threshold_stride, packed, NULL);
}

void hqk_ternary_quantize_pack_sum_avx512(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                          size_t threshold_stride, uint8_t *packed, double *kept) {
    __m512d lanes[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    quantize_pack(weights, rows, cols, thresholds, threshold_stride, packed, lanes);
    double lane[HQK_LANES];
    _mm512_storeu_pd(lane, lanes[0]);
    _mm512_storeu_pd(lane + 8, lanes[1]);
    *kept = hqk_sum_lanes(lane);
}
