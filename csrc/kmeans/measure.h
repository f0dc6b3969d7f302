/* k-means: distances and sums in f64, 16 fixed lanes each. */
#ifndef HQK_KMEANS_MEASURE_H
#define HQK_KMEANS_MEASURE_H

#include "../hqk.h"
#include "../lanes.h"

static double exact_distance(const float *x, const float *c, size_t dim) {
    double lane[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= dim; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) {
            double d = (double)x[i + l] - (double)c[i + l];
            lane[l] += d * d;
        }
    for (int l = 0; i < dim; i++, l++) {
        double d = (double)x[i] - (double)c[i];
        lane[l] += d * d;
    }
    return hqk_sum_lanes(lane);
}

static double squared_norm(const float *x, size_t dim) {
    double lane[HQK_LANES] = {0};
    size_t i = 0;
    for (; i + HQK_LANES <= dim; i += HQK_LANES)
        for (int l = 0; l < HQK_LANES; l++) lane[l] += (double)x[i + l] * (double)x[i + l];
    for (int l = 0; i < dim; i++, l++) lane[l] += (double)x[i] * (double)x[i];
    return hqk_sum_lanes(lane);
}

void HQK_NAME(hqk_kmeans_norms)(const float *points, size_t n, size_t dim, float *norms) {
    for (size_t t = 0; t < n; t++) norms[t] = (float)squared_norm(points + t * dim, dim);
}

void HQK_NAME(hqk_kmeans_distances)(const float *points, size_t n, size_t dim, const float *centroids,
                                    const uint32_t *labels, float *distances) {
    for (size_t t = 0; t < n; t++)
        distances[t] = (float)exact_distance(points + t * dim, centroids + labels[t] * dim, dim);
}

void HQK_NAME(hqk_kmeans_nearer)(const float *points, size_t n, size_t dim, const float *centroid, uint32_t number,
                                 const float *reach, uint32_t *labels, float *distances) {
    for (size_t t = 0; t < n; t++) {
        if (distances[t] < reach[labels[t]]) continue;
        float distance = (float)exact_distance(points + t * dim, centroid, dim);
        if (distance < distances[t]) distances[t] = distance, labels[t] = number;
    }
}

void HQK_NAME(hqk_kmeans_move)(const float *points, size_t n, size_t dim, const uint32_t *before, const uint32_t *after,
                               double *sums, int64_t *counts, uint8_t *touched) {
    for (size_t t = 0; t < n; t++, points += dim) {
        if (before[t] == after[t]) continue;
        double *to = sums + (size_t)after[t] * dim;
        for (size_t i = 0; i < dim; i++) to[i] += (double)points[i];
        counts[after[t]]++;
        touched[after[t]] = 1;
        if (before[t] == UINT32_MAX) continue;
        double *from = sums + (size_t)before[t] * dim;
        for (size_t i = 0; i < dim; i++) from[i] -= (double)points[i];
        counts[before[t]]--;
        touched[before[t]] = 1;
    }
}

#endif
