/* 6 points x 16 centroids: 24 accumulators; four coordinates of a point are one register, used by lane. */
#include <arm_neon.h>
#include <stddef.h>

#define HQK_NAME(op) op##_neon
#define POINTS 6
#define PANEL 16

/* sum += panel row * coordinate `lane` of the point. Written out because gcc 12 copies the accumulators. */
#if defined(__GNUC__) && !defined(__clang__)
#define MULTIPLY_ADD(sum, c, x, lane) __asm__("fmla %0.4s, %1.4s, %2.s[" #lane "]" : "+w"(sum) : "w"(c), "w"(x))
#else
#define MULTIPLY_ADD(sum, c, x, lane) (sum = vfmaq_laneq_f32(sum, c, x, lane))
#endif

#define MULTIPLY_COORDINATE(lane)                                                  \
    _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++) {                          \
        float32x4_t c = vld1q_f32(panel + lane * PANEL + 4 * v);                   \
        _Pragma("GCC unroll 6") for (int t = 0; t < POINTS; t++) MULTIPLY_ADD(sum[t][v], c, x[t], lane); \
    }

static void tile(const float *points, size_t count, const float *panel, size_t dim, const float *norms, float *out,
                 size_t stride) {
    const float *point[POINTS];
    float32x4_t sum[POINTS][4], x[POINTS];
#pragma GCC unroll 6
    for (size_t t = 0; t < POINTS; t++) {
        point[t] = points + (t < count ? t : 0) * dim; /* rows beyond the last repeat the first */
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) sum[t][v] = vdupq_n_f32(0);
    }
    size_t i = 0;
    for (; i + 4 <= dim; i += 4, panel += 4 * PANEL) {
#pragma GCC unroll 6
        for (int t = 0; t < POINTS; t++) x[t] = vld1q_f32(point[t] + i);
        MULTIPLY_COORDINATE(0)
        MULTIPLY_COORDINATE(1)
        MULTIPLY_COORDINATE(2)
        MULTIPLY_COORDINATE(3)
    }
    for (; i < dim; i++, panel += PANEL) {
#pragma GCC unroll 6
        for (int t = 0; t < POINTS; t++) x[t] = vld1q_dup_f32(point[t] + i);
        MULTIPLY_COORDINATE(0)
    }
#pragma GCC unroll 6
    for (int t = 0; t < POINTS; t++, out += stride)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) vst1q_f32(out + 4 * v, vfmaq_n_f32(vld1q_f32(norms + 4 * v), sum[t][v], -2.0f));
}

/* fminnm takes the number where d[j] is NaN. */
static inline void panel_least(const float *d, float *least) {
    for (int j = 0; j < PANEL; j += 4) vst1q_f32(least + j, vminnmq_f32(vld1q_f32(d + j), vld1q_f32(least + j)));
}

static inline int panel_within(const float *d, float limit) {
    uint32x4_t above = vdupq_n_u32(~0u);
    for (int j = 0; j < PANEL; j += 4) above = vandq_u32(above, vcgtq_f32(vld1q_f32(d + j), vdupq_n_f32(limit)));
    return vminvq_u32(above) == 0;
}

#include "body.h"
