/* The five products an optimizer's first pass gathers, in 16 fixed f64 lanes. A family computes a chunk of its update
 * into a small array and hands it over, so that every sum is a plain loop the compiler vectorizes. */
#ifndef HQK_UPDATE_SUMS_H
#define HQK_UPDATE_SUMS_H

#include <stddef.h>

#include "lanes.h"

/* A multiple of the lanes; four arrays of it stay in the first-level cache. */
#define HQK_CHUNK 512

typedef struct {
    double update_squares[HQK_LANES];
    double weight_squares[HQK_LANES];
    double update_weight[HQK_LANES];
    double gradient_update[HQK_LANES];
    double gradient_previous[HQK_LANES];
} hqk_update_lanes;

static inline void hqk_add_product(const float *x, const float *y, size_t n, double lane[HQK_LANES]) {
    double sum[HQK_LANES];
    for (int l = 0; l < HQK_LANES; l++) sum[l] = lane[l];
    size_t i = 0;
    for (; i + HQK_LANES <= n; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) sum[l] += (double)x[i + l] * (double)y[i + l];
    for (int l = 0; i < n; i++, l++) sum[l] += (double)x[i] * (double)y[i];
    for (int l = 0; l < HQK_LANES; l++) lane[l] = sum[l];
}

/* n <= HQK_CHUNK; every chunk but the last is full, so that element i of a block stays in lane i mod 16. */
static inline void hqk_add_chunk(hqk_update_lanes *lanes, const float *gradient, const float *weight,
                                 const float *update, const float *previous, size_t n) {
    hqk_add_product(update, update, n, lanes->update_squares);
    hqk_add_product(weight, weight, n, lanes->weight_squares);
    hqk_add_product(update, weight, n, lanes->update_weight);
    hqk_add_product(gradient, update, n, lanes->gradient_update);
    hqk_add_product(gradient, previous, n, lanes->gradient_previous);
}

static inline void hqk_store_sums(const hqk_update_lanes *lanes, double sums[5]) {
    sums[0] = hqk_sum_lanes(lanes->update_squares);
    sums[1] = hqk_sum_lanes(lanes->weight_squares);
    sums[2] = hqk_sum_lanes(lanes->update_weight);
    sums[3] = hqk_sum_lanes(lanes->gradient_update);
    sums[4] = hqk_sum_lanes(lanes->gradient_previous);
}

#endif
