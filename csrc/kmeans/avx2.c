/* 6 points x 16 centroids: 12 accumulators, one broadcast of a point for two fused multiply-adds. */
#include <immintrin.h>
#include <stddef.h>

#define HQK_NAME(op) op##_avx2
#define POINTS 6
#define PANEL 16

static void tile(const float *points, size_t stride, size_t count, const float *panel, size_t dim,
                 float dots[POINTS][PANEL]) {
    const float *x[POINTS];
    __m256 sum[POINTS][2];
#pragma GCC unroll 8
    for (size_t t = 0; t < POINTS; t++) {
        x[t] = points + (t < count ? t : 0) * stride; /* rows beyond the last repeat the first */
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
#pragma GCC unroll 8
    for (int t = 0; t < POINTS; t++) {
        _mm256_storeu_ps(dots[t], sum[t][0]);
        _mm256_storeu_ps(dots[t] + 8, sum[t][1]);
    }
}

#include "body.h"
