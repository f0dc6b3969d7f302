/* 6 rows x 16 columns: 24 accumulators, four loads and six broadcasts for 24 fused multiply-adds. */
#include <arm_neon.h>
#include <stddef.h>

#define HQK_NAME(op) op##_neon
#define VECTORS 4
#define LANES 4
typedef float32x4_t vector;
typedef size_t mask; /* lanes in use */

static inline mask first_lanes(size_t n) { return n; }
static inline vector load(const float *p, mask m) {
    if (m == LANES) return vld1q_f32(p);
    float lanes[LANES] = {0};
    for (size_t l = 0; l < m; l++) lanes[l] = p[l];
    return vld1q_f32(lanes);
}
static inline void store(float *p, mask m, vector v) {
    if (m == LANES) {
        vst1q_f32(p, v);
        return;
    }
    float lanes[LANES];
    vst1q_f32(lanes, v);
    for (size_t l = 0; l < m; l++) p[l] = lanes[l];
}
static inline vector broadcast(const float *p) { return vld1q_dup_f32(p); }
static inline vector zero(void) { return vdupq_n_f32(0); }
static inline vector fma_lanes(vector a, vector b, vector c) { return vfmaq_f32(c, a, b); }

#include "tile.h"
#include "body.h"
