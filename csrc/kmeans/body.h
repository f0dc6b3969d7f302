/* k-means. The including file defines, for panels of 16 centroids,
 *     tile: out[t][j] = norms[j] - 2 (point t) . (centroid j) in f32, for count <= POINTS points, rows of out at
 *         `stride`; whatever it writes to the rows beyond count is not read;
 *     panel_least: least[j] = min(d[j], least[j]), a NaN d[j] left out;
 *     panel_within: whether a d[j] is not above the limit (NaN is not).
 *
 * Assignment takes f32 distances only to rule centroids out: all whose f32 distance comes within the error bound of the
 * least one are measured again in f64, so the label is the f64 minimum, the lowest on a tie, on every ISA. */
#include "../hqk.h"
#include "../lanes.h"

#include <float.h>
#include <math.h>

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

void HQK_NAME(hqk_kmeans_panels)(const float *centroids, size_t k, size_t dim, float *panels, float *norms,
                                 double *max_norm) {
    double max = 0;
    for (size_t first = 0; first < k; first += PANEL, panels += dim * PANEL)
        for (size_t j = 0; j < PANEL; j++) {
            const float *c = centroids + (first + j) * dim;
            double norm = first + j < k ? squared_norm(c, dim) : 0;
            for (size_t i = 0; i < dim; i++) panels[i * PANEL + j] = first + j < k ? c[i] : 0.0f;
            norms[first + j] = (float)norm;
            max = !(norm <= max) ? norm : max;
        }
    *max_norm = max;
}

/* The nearest of the candidates d[j] <= limit (NaN counts as one). */
static uint32_t nearest(const float *x, const float *centroids, size_t k, size_t dim, const float *d, float limit,
                        double *distance) {
    uint32_t label = 0;
    double best = INFINITY;
    int any = 0;
    for (size_t j = 0; j < k; j++) {
        if (j % PANEL == 0 && j + PANEL <= k && !panel_within(d + j, limit)) {
            j += PANEL - 1;
            continue;
        }
        if (d[j] > limit) continue;
        double exact = exact_distance(x, centroids + j * dim, dim);
        if (!any || exact < best || (best != best && exact == exact)) best = exact, label = (uint32_t)j;
        any = 1;
    }
    *distance = best;
    return label;
}

void HQK_NAME(hqk_kmeans_assign)(const float *points, size_t n, size_t dim, const float *centroids, size_t k,
                                 const float *panels, const float *norms, double max_norm, float *scratch,
                                 uint32_t *labels, float *distances) {
    size_t padded = (k + PANEL - 1) / PANEL * PANEL;
    for (size_t first = 0; first < n; first += POINTS) {
        size_t count = n - first < POINTS ? n - first : POINTS;
        const float *block = points + first * dim;
        for (size_t p = 0; p < padded; p += PANEL)
            tile(block, count, panels + p * dim, dim, norms + p, scratch + p, padded);
        for (size_t t = 0; t < count; t++) {
            const float *x = block + t * dim, *d = scratch + t * padded;
            float lane[PANEL], least = INFINITY;
            for (int j = 0; j < PANEL; j++) lane[j] = INFINITY;
            size_t j = 0;
            for (; j + PANEL <= k; j += PANEL) panel_least(d + j, lane);
            for (; j < k; j++) least = d[j] < least ? d[j] : least;
            for (int l = 0; l < PANEL; l++) least = lane[l] < least ? lane[l] : least;
            /* A dot product errs by at most dim u |x| |c| in any order (u = 2^-24), the norm and the subtraction by a
             * few u more; underflow by dim * FLT_MIN. Two distances are compared, hence twice. */
            double squared = squared_norm(x, dim);
            double error = ((double)dim + 8) * 0x1p-24 * (2 * sqrt(squared * max_norm) + max_norm) +
                           2 * (double)dim * FLT_MIN;
            float limit = (float)((double)least + 2.02 * error);
            limit += fabsf(limit) * 0x1p-23f;
            if (!(squared < 1e37 && max_norm < 1e37)) limit = INFINITY; /* f32 may have overflowed */
            double distance;
            labels[first + t] = nearest(x, centroids, k, dim, d, limit, &distance);
            distances[first + t] = (float)distance;
        }
    }
}

void HQK_NAME(hqk_kmeans_sums)(const float *points, size_t n, size_t dim, const uint32_t *labels, double *sums,
                               uint64_t *counts) {
    for (size_t t = 0; t < n; t++, points += dim) {
        double *sum = sums + (size_t)labels[t] * dim;
        for (size_t i = 0; i < dim; i++) sum[i] += (double)points[i];
        counts[labels[t]]++;
    }
}
