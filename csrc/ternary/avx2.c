/* vpmaddubsw on codes {0, 1, 2}: a 16-bit lane grows by at most 2 * 2 * 128 a time, so 63 of them are added before the
 * sums are widened to 32 bits.
 *
 * Many tokens: 6 tokens x 16 outputs are 12 accumulators of 16 bits. */
#include "../hqk.h"
#include "layout.h"

#include <immintrin.h>

#define TOKENS_AT_ONCE 6
#define PANELS_BEFORE_WIDENING 48

static inline __m256i load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

static inline void store(uint8_t *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

static inline __m256i broadcast_quad(const int8_t *x) {
    int32_t word;
    memcpy(&word, x, 4);
    return _mm256_set1_epi32(word);
}

/* Where sums go: `y_f32` scaled, or `y_i32` as they are; the other one is NULL. */
typedef struct {
    const float *x_scales;
    const int32_t *x_sums;
    const float *weight_scales;
    size_t weight_scale_stride;
    float *y_f32;
    int32_t *y_i32;
    size_t y_stride;
    size_t outputs;
} target;

/* Writes 8 sums of token `t`, outputs from `first` on. */
static inline void store_sums(const target *to, size_t t, size_t first, __m256i acc) {
    if (first >= to->outputs) return;
    size_t count = hqk_min(to->outputs - first, 8), at = t * to->y_stride + first;
    __m256i sum = _mm256_sub_epi32(acc, _mm256_set1_epi32(to->x_sums[t]));
    if (to->y_i32) {
        int32_t part[8];
        _mm256_storeu_si256((__m256i *)part, sum);
        memcpy(to->y_i32 + at, part, count * sizeof *part);
        return;
    }
    float part[8] = {0};
    __m256 scale = _mm256_set1_ps(to->weight_scales[0]);
    if (to->weight_scale_stride) {
        memcpy(part, to->weight_scales + first, count * sizeof *part);
        scale = _mm256_loadu_ps(part);
    }
    scale = _mm256_mul_ps(_mm256_set1_ps(to->x_scales[t]), scale);
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
    if (count == 8) {
        _mm256_storeu_ps(to->y_f32 + at, y);
        return;
    }
    _mm256_storeu_ps(part, y);
    memcpy(to->y_f32 + at, part, count * sizeof *part);
}

/* acc += codes * quad, in pairs of 16 bits. The sum is written out because gcc 12 copies the accumulators of the
 * intrinsic to the stack every round. */
HQK_ALWAYS_INLINE void dot(__m256i *acc, __m256i codes, __m256i quad) {
    __m256i pairs = _mm256_maddubs_epi16(codes, quad);
#if defined(__GNUC__)
    __asm__("vpaddw %1, %0, %0" : "+x"(*acc) : "x"(pairs));
#else
    *acc = _mm256_add_epi16(*acc, pairs);
#endif
}

HQK_ALWAYS_INLINE __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

/* 16 outputs (a quarter of each panel) for `tokens` tokens. */
HQK_ALWAYS_INLINE void multiply(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, int tokens,
                                __m256i sums[TOKENS_AT_ONCE][2]) {
    size_t whole = k / 4 * 4;
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++) sums[t][0] = sums[t][1] = _mm256_setzero_si256();
    for (size_t i = 0; i < k;) {
        __m256i acc[TOKENS_AT_ONCE][2];
        HQK_UNROLL(6) for (int t = 0; t < tokens; t++) acc[t][0] = acc[t][1] = _mm256_setzero_si256();
        if (i < whole) {
            size_t end = hqk_min(whole, i + 4 * PANELS_BEFORE_WIDENING);
            for (; i < end; i += 4, panels += HQK_PANEL_BYTES) {
                __m256i w0 = load(panels), w1 = load(panels + 32);
                HQK_UNROLL(6) for (int t = 0; t < tokens; t++) {
                    __m256i quad = broadcast_quad(x + t * x_stride + i);
                    dot(&acc[t][0], w0, quad);
                    dot(&acc[t][1], w1, quad);
                }
            }
        } else {
            HQK_UNROLL(6) for (int t = 0; t < tokens; t++) {
                __m256i quad = _mm256_set1_epi32(hqk_quad(x + t * x_stride + i, k - i));
                dot(&acc[t][0], load(panels), quad);
                dot(&acc[t][1], load(panels + 32), quad);
            }
            i = k;
        }
        HQK_UNROLL(6) for (int t = 0; t < tokens; t++) {
            sums[t][0] = _mm256_add_epi32(sums[t][0], widen(acc[t][0]));
            sums[t][1] = _mm256_add_epi32(sums[t][1], widen(acc[t][1]));
        }
    }
}

HQK_ALWAYS_INLINE void multiply_and_store(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride,
                                          int tokens, size_t first_token, const target *to) {
    for (size_t first = 0; first < to->outputs; first += 16) {
        __m256i sums[TOKENS_AT_ONCE][2];
        multiply(panels + 4 * first, k, x, x_stride, tokens, sums);
        for (int t = 0; t < tokens; t++) {
            store_sums(to, first_token + t, first, sums[t][0]);
            store_sums(to, first_token + t, first + 8, sums[t][1]);
        }
    }
}

static void multiply_all(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                         const target *to) {
    size_t t = 0;
    for (; t + TOKENS_AT_ONCE <= tokens; t += TOKENS_AT_ONCE, x += TOKENS_AT_ONCE * x_stride)
        multiply_and_store(panels, k, x, x_stride, TOKENS_AT_ONCE, t, to);
    for (; t + 3 <= tokens; t += 3, x += 3 * x_stride) multiply_and_store(panels, k, x, x_stride, 3, t, to);
    for (; t < tokens; t++, x += x_stride) multiply_and_store(panels, k, x, x_stride, 1, t, to);
}

void hqk_panel_matmul_avx2(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                           size_t tokens, const float *x_scales, const int32_t *x_sums, const float *weight_scales,
                           size_t weight_scale_stride, float *y, size_t y_stride) {
    target to = {x_scales, x_sums, weight_scales, weight_scale_stride, y, NULL, y_stride, outputs};
    multiply_all(panels, k, x, x_stride, tokens, &to);
}

void hqk_panel_matmul_i32_avx2(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                               size_t tokens, const int32_t *x_sums, int32_t *y, size_t y_stride) {
    target to = {NULL, x_sums, NULL, 0, NULL, y, y_stride, outputs};
    multiply_all(panels, k, x, x_stride, tokens, &to);
}

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
