/* Fixed-lane reductions: element i of a block goes to lane i mod 16, and the lanes are added as one fixed tree. */
#ifndef HQK_LANES_H
#define HQK_LANES_H

#define HQK_LANES 16

static inline double hqk_sum_lanes(const double lane[HQK_LANES]) {
    double half[8], quarter[4];
    for (int l = 0; l < 8; l++) half[l] = lane[l] + lane[l + 8];
    for (int l = 0; l < 4; l++) quarter[l] = half[l] + half[l + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

#endif
