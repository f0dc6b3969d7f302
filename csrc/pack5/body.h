/* Five trits a byte. A group of five digits d0..d4 in {0, 1, 2} is v = 81 d0 + 27 d1 + 9 d2 + 3 d3 + d4; the byte is
 * ceil(256 v / 243), the fraction v / 243 with 8 binary places. The next digit is then the integer part of 3 * fraction,
 * which is 1 from 86 / 256 and 2 from 171 / 256: two comparisons, and 3 * fraction mod 1 is the next fraction.
 *
 * Trits move between rows and digits four at a time, the four columns of a byte group; the rest is loops over the 64
 * bytes of a tile, which compilers vectorize. */
#include "../hqk.h"
#include "../ternary/layout.h"

#include <string.h>

#define DIGITS 5

static inline void bytes_of(int8_t trits[DIGITS][HQK_TILE_BYTES], uint8_t *tile) {
    for (int b = 0; b < HQK_TILE_BYTES; b++) {
        unsigned v = 0;
        for (int f = 0; f < DIGITS; f++) v = 3 * v + (unsigned)(1 + (trits[f][b] > 0) - (trits[f][b] < 0));
        /* 256 v + 242 is below 2^16, where this product is the division by 243. */
        tile[b] = (uint8_t)((256 * v + 242) * 69043u >> 24);
    }
}

void HQK_NAME(hqk_pack5)(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed) {
    size_t steps = (cols + HQK_FIVE_TRITS_COLS - 1) / HQK_FIVE_TRITS_COLS;
    for (size_t r0 = 0; r0 < rows; r0 += HQK_BLOCK_ROWS, packed += steps * HQK_STEP_BYTES)
        for (size_t q = 0; q < HQK_BLOCK_ROWS / HQK_TILE_ROWS; q++) {
            size_t first = r0 + q * HQK_TILE_ROWS, count = first < rows ? hqk_min(rows - first, HQK_TILE_ROWS) : 0;
            for (size_t s = 0; s < steps; s++) {
                int8_t digits[DIGITS][HQK_TILE_BYTES] = {{0}};
                size_t k = s * HQK_FIVE_TRITS_COLS, width = hqk_min(cols - k, HQK_FIVE_TRITS_COLS);
                for (size_t r = 0; r < count; r++) {
                    const int8_t *row = trits + (first + r) * cols + k;
                    if (width == HQK_FIVE_TRITS_COLS)
                        for (size_t f = 0; f < DIGITS; f++) memcpy(&digits[f][4 * r], row + 4 * f, 4);
                    else
                        for (size_t i = 0; i < width; i++) digits[i / 4][4 * r + i % 4] = row[i];
                }
                bytes_of(digits, packed + s * HQK_STEP_BYTES + q * HQK_TILE_BYTES);
            }
        }
}

static inline void trits_of(const uint8_t *tile, int8_t trits[DIGITS][HQK_TILE_BYTES]) {
    uint8_t fraction[HQK_TILE_BYTES];
    memcpy(fraction, tile, HQK_TILE_BYTES);
    for (int f = 0; f < DIGITS; f++)
        for (int b = 0; b < HQK_TILE_BYTES; b++) {
            trits[f][b] = (int8_t)((fraction[b] >= 86) + (fraction[b] >= 171) - 1);
            fraction[b] = (uint8_t)(3 * fraction[b]);
        }
}

void HQK_NAME(hqk_unpack5)(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits) {
    size_t steps = (cols + HQK_FIVE_TRITS_COLS - 1) / HQK_FIVE_TRITS_COLS;
    for (size_t r0 = 0; r0 < rows; r0 += HQK_BLOCK_ROWS, packed += steps * HQK_STEP_BYTES)
        for (size_t first = r0; first < hqk_min(rows, r0 + HQK_BLOCK_ROWS); first += HQK_TILE_ROWS) {
            size_t count = hqk_min(rows - first, HQK_TILE_ROWS);
            const uint8_t *tile = packed + (first - r0) / HQK_TILE_ROWS * HQK_TILE_BYTES;
            for (size_t s = 0; s < steps; s++, tile += HQK_STEP_BYTES) {
                int8_t digits[DIGITS][HQK_TILE_BYTES];
                trits_of(tile, digits);
                size_t k = s * HQK_FIVE_TRITS_COLS, width = hqk_min(cols - k, HQK_FIVE_TRITS_COLS);
                for (size_t r = 0; r < count; r++) {
                    int8_t *row = trits + (first + r) * cols + k;
                    if (width == HQK_FIVE_TRITS_COLS)
                        for (size_t f = 0; f < DIGITS; f++) memcpy(row + 4 * f, &digits[f][4 * r], 4);
                    else
                        for (size_t i = 0; i < width; i++) row[i] = digits[i / 4][4 * r + i % 4];
                }
            }
        }
}
