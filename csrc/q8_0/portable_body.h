/* Plain C that compilers vectorize. */
#include "../half.h"
#include "../hqk.h"
#include "layout.h"

#define QUADS (BLOCK / 4)

static float dot_row(const uint8_t *row, size_t blocks, const int8_t *x, const float *x_scales) {
    float lane[2][QUADS] = {{0}};
    for (size_t b = 0; b < blocks; b++, row += BLOCK_BYTES, x += BLOCK) {
        float scale = hqk_float_of_half((uint16_t)(row[0] | row[1] << 8)) * x_scales[b];
        for (int q = 0; q < QUADS; q++) {
            int32_t dot = 0;
            for (int i = 4 * q; i < 4 * q + 4; i++) dot += (int8_t)row[SCALE_BYTES + i] * x[i];
            lane[b % 2][q] += (float)dot * scale;
        }
    }
    float four[4];
    for (int q = 0; q < 4; q++) four[q] = (lane[0][q] + lane[1][q]) + (lane[0][q + 4] + lane[1][q + 4]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}
