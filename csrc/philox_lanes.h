/* 16 blocks of Philox4x32-10 (philox.h) side by side, written so that a compiler turns the lane loop into vectors.
 *
 * Stochastic rounding takes 16 random bits an element. A row of a matrix is cut into groups of 128 columns; group g of
 * row t owns the 16 blocks from 16 (t G + g) on, G = ceil(width / 128). Column 128 g + 32 w + 16 h + l uses half h
 * (0 low, 1 high) of word w of the group's block l: lanes are neighbouring columns, so nothing is shuffled. */
#ifndef HQK_PHILOX_LANES_H
#define HQK_PHILOX_LANES_H

#include <stddef.h>
#include <stdint.h>

#define HQK_DRAW_LANES 16
#define HQK_DRAW_GROUP 128

/* draws = key[0], key[1], tensor, step. word[w][l] = word w of block 16 * group + l. */
static inline void hqk_philox_lanes(const uint32_t draws[4], uint64_t group, uint32_t word[4][HQK_DRAW_LANES]) {
    uint32_t first = (uint32_t)(group * HQK_DRAW_LANES), high = (uint32_t)(group * HQK_DRAW_LANES >> 32);
    uint32_t key0 = draws[0], key1 = draws[1], tensor = draws[2], step = draws[3];
    for (uint32_t l = 0; l < HQK_DRAW_LANES; l++) {
        uint32_t c0 = first + l, c1 = high, c2 = tensor, c3 = step;
#define HQK_ROUND(r)                                                                  \
    {                                                                                 \
        uint32_t h0 = (uint32_t)((uint64_t)0xD2511F53u * c0 >> 32), l0 = 0xD2511F53u * c0; \
        uint32_t h1 = (uint32_t)((uint64_t)0xCD9E8D57u * c2 >> 32), l1 = 0xCD9E8D57u * c2; \
        c0 = h1 ^ c1 ^ (key0 + (r)*0x9E3779B9u), c1 = l1;                             \
        c2 = h0 ^ c3 ^ (key1 + (r)*0xBB67AE85u), c3 = l0;                             \
    }
        HQK_ROUND(0u)
        HQK_ROUND(1u)
        HQK_ROUND(2u)
        HQK_ROUND(3u)
        HQK_ROUND(4u)
        HQK_ROUND(5u)
        HQK_ROUND(6u)
        HQK_ROUND(7u)
        HQK_ROUND(8u)
        HQK_ROUND(9u)
#undef HQK_ROUND
        word[0][l] = c0, word[1][l] = c1, word[2][l] = c2, word[3][l] = c3;
    }
}

#endif
