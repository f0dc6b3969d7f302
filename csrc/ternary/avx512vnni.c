/* vpdpbusd multiplies 64 weight codes (unsigned) by four int8 activations broadcast to 16 lanes: a lane is an output
 * row, so nothing is ever added across lanes.
 *
 * Many tokens: 6 tokens x 64 outputs are 24 accumulators; the panel's four registers serve all six tokens. */
#include "../hqk.h"
#include "layout.h"

#include <immintrin.h>

#define VECTORS 4      /* registers of 16 outputs in 64 */
#define TOKENS_AT_ONCE 6

static inline int32_t load_word(const int8_t *x) {
    int32_t word;
    memcpy(&word, x, 4);
    return word;
}

/* acc += codes * quad. Written out because gcc 12 copies the accumulators of the intrinsic to the stack every round. */
HQK_ALWAYS_INLINE void dot(__m512i *acc, __m512i codes, __m512i quad) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(codes), "v"(quad));
#else
    *acc = _mm512_dpbusd_epi32(*acc, codes, quad);
#endif
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

HQK_ALWAYS_INLINE __mmask16 lanes_before(size_t end, size_t first) {
    return end <= first ? 0 : end - first >= 16 ? 0xFFFF : (__mmask16)((1u << (end - first)) - 1);
}

/* Writes 16 sums of token `t`, outputs from `first` on. */
HQK_ALWAYS_INLINE void store_sums(const target *to, size_t t, size_t first, __m512i acc) {
    __mmask16 mask = lanes_before(to->outputs, first);
    __m512i sum = _mm512_sub_epi32(acc, _mm512_set1_epi32(to->x_sums[t]));
    if (to->y_i32) {
        _mm512_mask_storeu_epi32(to->y_i32 + t * to->y_stride + first, mask, sum);
        return;
    }
    __m512 scale = _mm512_set1_ps(to->weight_scales[0]);
    if (to->weight_scale_stride) scale = _mm512_maskz_loadu_ps(mask, to->weight_scales + first);
    scale = _mm512_mul_ps(_mm512_set1_ps(to->x_scales[t]), scale);
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
    float *at = to->y_f32 + t * to->y_stride + first;
    if (mask == 0xFFFF)
        _mm512_storeu_ps(at, y);
    else
        _mm512_mask_storeu_ps(at, mask, y);
}

/* One panel: 64 outputs x 4 k, for `tokens` tokens; `words` are their activations. */
#define MULTIPLY_PANEL(tokens, word_of)                                                            \
    do {                                                                                           \
        __m512i w[VECTORS];                                                                        \
        HQK_UNROLL(4) for (int v = 0; v < VECTORS; v++) w[v] = _mm512_loadu_si512(panels + 64 * v); \
        HQK_UNROLL(6) for (int t = 0; t < (tokens); t++) {                                         \
            __m512i quad = _mm512_set1_epi32(word_of);                                             \
            HQK_UNROLL(4) for (int v = 0; v < VECTORS; v++)                                        \
                dot(&acc[t][v], w[v], quad);                            \
        }                                                                                          \
    } while (0)

HQK_ALWAYS_INLINE void multiply(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, int tokens,
                                size_t first_token, const target *to) {
    __m512i acc[TOKENS_AT_ONCE][VECTORS];
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++)
        HQK_UNROLL(4) for (int v = 0; v < VECTORS; v++) acc[t][v] = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 4 <= k; i += 4, panels += HQK_PANEL_BYTES) MULTIPLY_PANEL(tokens, load_word(x + t * x_stride + i));
    if (i < k) MULTIPLY_PANEL(tokens, hqk_quad(x + t * x_stride + i, k - i));
    HQK_UNROLL(6) for (int t = 0; t < tokens; t++)
        HQK_UNROLL(4) for (int v = 0; v < VECTORS; v++) store_sums(to, first_token + t, 16 * v, acc[t][v]);
}

HQK_ALWAYS_INLINE void multiply_all(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                                    const target *to) {
    size_t t = 0;
    for (; t + TOKENS_AT_ONCE <= tokens; t += TOKENS_AT_ONCE, x += TOKENS_AT_ONCE * x_stride)
        multiply(panels, k, x, x_stride, TOKENS_AT_ONCE, t, to);
    switch (tokens - t) {
        case 5: multiply(panels, k, x, x_stride, 5, t, to); break;
        case 4: multiply(panels, k, x, x_stride, 4, t, to); break;
        case 3: multiply(panels, k, x, x_stride, 3, t, to); break;
        case 2: multiply(panels, k, x, x_stride, 2, t, to); break;
        case 1: multiply(panels, k, x, x_stride, 1, t, to); break;
    }
}

void hqk_panel_matmul_avx512vnni(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                                 size_t tokens, const float *x_scales, const int32_t *x_sums,
                                 const float *weight_scales, size_t weight_scale_stride, float *y, size_t y_stride) {
    target to = {x_scales, x_sums, weight_scales, weight_scale_stride, y, NULL, y_stride, outputs};
    multiply_all(panels, k, x, x_stride, tokens, &to);
}

void hqk_panel_matmul_i32_avx512vnni(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x,
                                     size_t x_stride, size_t tokens, const int32_t *x_sums, int32_t *y,
                                     size_t y_stride) {
    target to = {NULL, x_sums, NULL, 0, NULL, y, y_stride, outputs};
    multiply_all(panels, k, x, x_stride, tokens, &to);
}
