/* The packed layouts of csrc/README.md: blocks of 64 rows, contiguous along k; a step is 256 bytes, four tiles of 16 rows; the
 * word 4 r of a tile holds row r of 16 columns at two bits, or of 20 at five trits a byte. */
#ifndef HQ_LAYOUT_CUH
#define HQ_LAYOUT_CUH

#include "device.cuh"

constexpr int BLOCK_ROWS = 64, TILE_ROWS = 16, STEP_BYTES = 256, TILE_BYTES = 64;
constexpr int STEP_COLS = 16, STEP_COLS_FIVE = 20;
constexpr uint32_t FIELDS = 0x03030303;

/* Four columns of a word at two bits: codes 0 to 2, one a byte. */
DEVICE uint32_t field(uint32_t word, int f) { return word >> 2 * f & FIELDS; }

/* Where the 256 bytes of a step begin. */
DEVICE size_t step_at(size_t block, size_t steps, size_t step) { return (block * steps + step) * STEP_BYTES; }

/* What a product is to write: floats, or the integers where `integers` is given. */
struct Product {
    float *y;
    int32_t *integers;
    size_t stride;
    const float *x_scales;
    const int32_t *x_sums;
    const float *weight_scales; /* NULL: 1 */
    size_t weight_scale_stride;
};

DEVICE void write(const Product &to, size_t token, size_t output, int32_t sum) {
    int32_t centered = (int32_t)((uint32_t)sum - (uint32_t)to.x_sums[token]);
    size_t at = token * to.stride + output;
    if (to.integers) {
        to.integers[at] = centered;
    } else {
        float weight_scale = to.weight_scales ? to.weight_scales[output * to.weight_scale_stride] : 1.0f;
        to.y[at] = scaled(centered, to.x_scales[token], weight_scale);
    }
}

#endif
