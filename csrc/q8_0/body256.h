/* One block of 32 at a time in 256-bit registers. `dot_quads(a, b)` of the file that includes this: 8 sums of four
 * products each, unsigned a (up to 128) times signed b. */
#include "../half.h"
#include "../hqk.h"

#include <immintrin.h>

static inline __m256 add_block(__m256 sum, const uint8_t *block, const int8_t *x, float x_scale) {
    __m256i w = _mm256_loadu_si256((const __m256i *)(block + SCALE_BYTES));
    __m256i v = _mm256_loadu_si256((const __m256i *)x);
    __m256i dots = dot_quads(_mm256_abs_epi8(w), _mm256_sign_epi8(v, w));
    float scale = hqk_float_of_half((uint16_t)(block[0] | block[1] << 8)) * x_scale;
    return _mm256_add_ps(sum, _mm256_mul_ps(_mm256_cvtepi32_ps(dots), _mm256_set1_ps(scale)));
}

static float dot_row(const uint8_t *row, size_t blocks, const int8_t *x, const float *x_scales) {
    __m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
    size_t b = 0;
    for (; b + 2 <= blocks; b += 2) {
        even = add_block(even, row + b * BLOCK_BYTES, x + b * BLOCK, x_scales[b]);
        odd = add_block(odd, row + (b + 1) * BLOCK_BYTES, x + (b + 1) * BLOCK, x_scales[b + 1]);
    }
    if (b < blocks) even = add_block(even, row + b * BLOCK_BYTES, x + b * BLOCK, x_scales[b]);
    __m256 eight = _mm256_add_ps(even, odd);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(two) + _mm_cvtss_f32(_mm_shuffle_ps(two, two, 1));
}
