/* 12 centroids x 8 points: 24 accumulators, two vectors of points and one broadcast. */
#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#define HQK_NAME(op) op##_neon
#define LANES 4
#define VECTORS 2
#define MOST_CENTROIDS 12

typedef float32x4_t vec;
typedef uint32x4_t ints;
typedef uint32x4_t flags;

static inline vec v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, vec a) { vst1q_f32(p, a); }
static inline vec v_all(float a) { return vdupq_n_f32(a); }
static inline vec v_add(vec a, vec b) { return vaddq_f32(a, b); }
static inline vec v_sub(vec a, vec b) { return vsubq_f32(a, b); }
static inline vec v_mul(vec a, vec b) { return vmulq_f32(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
static inline vec v_max(vec a, vec b) { return vmaxnmq_f32(a, b); } /* the number where one is NaN */
static inline vec v_min(vec a, vec b) { return vminnmq_f32(a, b); }
static inline vec v_sqrt(vec a) { return vsqrtq_f32(a); }
static inline flags v_less(vec a, vec b) { return vcltq_f32(a, b); }
static inline vec v_pick(flags f, vec yes, vec no) { return vbslq_f32(f, yes, no); }
static inline ints i_load(const uint32_t *p) { return vld1q_u32(p); }
static inline void i_store(uint32_t *p, ints a) { vst1q_u32(p, a); }
static inline ints i_all(uint32_t a) { return vdupq_n_u32(a); }
static inline flags i_same(ints a, ints b) { return vceqq_u32(a, b); }
static inline ints i_pick(flags f, ints yes, ints no) { return vbslq_u32(f, yes, no); }

static inline uint32_t v_bits(flags f) {
    static const uint32_t bit[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(f, vld1q_u32(bit)));
}

/* Coordinates i to i + 3 of 4 points: a 4 x 4 transpose. */
static inline void transpose4(const float *const *rows, size_t i, float *out, size_t stride) {
    float32x4x2_t a = vtrnq_f32(vld1q_f32(rows[0] + i), vld1q_f32(rows[1] + i));
    float32x4x2_t b = vtrnq_f32(vld1q_f32(rows[2] + i), vld1q_f32(rows[3] + i));
    for (int odd = 0; odd < 2; odd++) {
        v_store(out + odd * stride, vcombine_f32(vget_low_f32(a.val[odd]), vget_low_f32(b.val[odd])));
        v_store(out + (odd + 2) * stride, vcombine_f32(vget_high_f32(a.val[odd]), vget_high_f32(b.val[odd])));
    }
}

#include "body.h"
