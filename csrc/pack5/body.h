/* Five trits a byte. A group of five digits d0..d4 in {0, 1, 2} is v = 81 d0 + 27 d1 + 9 d2 + 3 d3 + d4; the byte is
 * ceil(256 v / 243), the fraction v / 243 with 8 binary places. The next digit is then the integer part of 3 * fraction,
 * which is 1 from 86 / 256 and 2 from 171 / 256: two comparisons, and 3 * fraction mod 1 is the next fraction. */
#include "../hqk.h"

#define ROWS 64
#define STEP_K 20
#define STEP_BYTES 256

void HQK_NAME(hqk_pack5)(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed) {
    for (size_t r0 = 0; r0 < rows; r0 += ROWS)
        for (size_t k0 = 0; k0 < cols; k0 += STEP_K, packed += STEP_BYTES)
            for (size_t b = 0; b < STEP_BYTES; b++) {
                size_t r = r0 + b / 64 * 16 + b % 64 / 4;
                unsigned v = 0;
                for (size_t f = 0; f < 5; f++) {
                    size_t k = k0 + 4 * f + b % 4;
                    v = 3 * v + (r < rows && k < cols ? (unsigned)(trits[r * cols + k] + 1) : 1u);
                }
                packed[b] = (uint8_t)((256 * v + 242) / 243);
            }
}

/* One tile: 64 bytes to five fields of 64 digits. */
static inline void fields(const uint8_t *tile, uint8_t digit[5][64]) {
    uint8_t fraction[64];
    for (int b = 0; b < 64; b++) fraction[b] = tile[b];
    for (int f = 0; f < 5; f++)
        for (int b = 0; b < 64; b++) {
            digit[f][b] = (uint8_t)((fraction[b] >= 86) + (fraction[b] >= 171));
            fraction[b] = (uint8_t)(3 * fraction[b]);
        }
}

void HQK_NAME(hqk_unpack5)(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits) {
    for (size_t r0 = 0; r0 < rows; r0 += ROWS)
        for (size_t k0 = 0; k0 < cols; k0 += STEP_K, packed += STEP_BYTES)
            for (size_t q = 0; q < 4; q++) {
                uint8_t digit[5][64];
                fields(packed + 64 * q, digit);
                for (size_t r = 0; r < 16 && r0 + 16 * q + r < rows; r++) {
                    int8_t *row = trits + (r0 + 16 * q + r) * cols;
                    for (size_t k = 0; k < STEP_K && k0 + k < cols; k++)
                        row[k0 + k] = (int8_t)(digit[k / 4][4 * r + k % 4] - 1);
                }
            }
}
