/* 6 points x 16 centroids: 12 accumulators, one broadcast of a point for two fused multiply-adds. */
#include <immintrin.h>
#include <stddef.h>

#define HQK_NAME(op) op##_avx2
#define POINTS 6
#define PANEL 16

static void tile(const float *points, size_t count, const float *panel, size_t dim, const float *norms, float *out,
                 size_t stride) {
    const float *x[POINTS];
    __m256 sum[POINTS][2];
#pragma GCC unroll 8
    for (size_t t = 0; t < POINTS; t++) {
        x[t] = points + (t < count ? t : 0) * dim; /* rows beyond the last repeat the first */
        sum[t][0] = sum[t][1] = _mm256_setzero_ps();
    }
    for (size_t i = 0; i < dim; i++, panel += PANEL) {
        __m256 c0 = _mm256_loadu_ps(panel), c1 = _mm256_loadu_ps(panel + 8);
#pragma GCC unroll 8
        for (int t = 0; t < POINTS; t++) {
            __m256 value = _mm256_broadcast_ss(x[t] + i);
            sum[t][0] = _mm256_fmadd_ps(value, c0, sum[t][0]);
            sum[t][1] = _mm256_fmadd_ps(value, c1, sum[t][1]);
        }
    }
    __m256 minus_two = _mm256_set1_ps(-2.0f), n0 = _mm256_loadu_ps(norms), n1 = _mm256_loadu_ps(norms + 8);
#pragma GCC unroll 8
    for (int t = 0; t < POINTS; t++, out += stride) {
        _mm256_storeu_ps(out, _mm256_fmadd_ps(minus_two, sum[t][0], n0));
        _mm256_storeu_ps(out + 8, _mm256_fmadd_ps(minus_two, sum[t][1], n1));
    }
}

static inline void panel_least(const float *d, float *least) {
    for (int h = 0; h < PANEL; h += 8)
        _mm256_storeu_ps(least + h, _mm256_min_ps(_mm256_loadu_ps(d + h), _mm256_loadu_ps(least + h)));
}

static inline int panel_within(const float *d, float limit) {
    __m256 bound = _mm256_set1_ps(limit);
    __m256 low = _mm256_cmp_ps(_mm256_loadu_ps(d), bound, _CMP_NGT_UQ);
    __m256 high = _mm256_cmp_ps(_mm256_loadu_ps(d + 8), bound, _CMP_NGT_UQ);
    return _mm256_movemask_ps(_mm256_or_ps(low, high));
}

#include "body.h"
