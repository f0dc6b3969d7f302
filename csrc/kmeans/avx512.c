/* 12 centroids x 32 points: 24 accumulators, two vectors of points and one broadcast. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define HQK_NAME(op) op##_avx512
#define LANES 16
#define VECTORS 2
#define MOST_CENTROIDS 12

typedef __m512 vec;
typedef __m512i ints;
typedef __mmask16 flags;

static inline vec v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vec a) { _mm512_storeu_ps(p, a); }
static inline vec v_all(float a) { return _mm512_set1_ps(a); }
static inline vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }
static inline vec v_sqrt(vec a) { return _mm512_sqrt_ps(a); }
static inline flags v_less(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vec v_pick(flags f, vec yes, vec no) { return _mm512_mask_mov_ps(no, f, yes); }
static inline uint32_t v_bits(flags f) { return f; }
static inline ints i_load(const uint32_t *p) { return _mm512_loadu_si512(p); }
static inline void i_store(uint32_t *p, ints a) { _mm512_storeu_si512(p, a); }
static inline ints i_all(uint32_t a) { return _mm512_set1_epi32((int)a); }
static inline flags i_same(ints a, ints b) { return _mm512_cmpeq_epi32_mask(a, b); }
static inline ints i_pick(flags f, ints yes, ints no) { return _mm512_mask_mov_epi32(no, f, yes); }

/* Coordinates i to i + 3 of 16 points: rows r, r + 4, r + 8 and r + 12 share a register, then 4 x 4 transposes. */
static inline void transpose4(const float *const *rows, size_t i, float *out, size_t stride) {
    __m512 q[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(rows[r] + i));
        v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps(rows[r + 4] + i));
        v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps(rows[r + 8] + i));
        q[r] = _mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps(rows[r + 12] + i));
    }
    __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(q[0], q[1])), b = _mm512_castps_pd(_mm512_unpackhi_ps(q[0], q[1]));
    __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(q[2], q[3])), d = _mm512_castps_pd(_mm512_unpackhi_ps(q[2], q[3]));
    v_store(out, _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)));
    v_store(out + stride, _mm512_castpd_ps(_mm512_unpackhi_pd(a, c)));
    v_store(out + 2 * stride, _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)));
    v_store(out + 3 * stride, _mm512_castpd_ps(_mm512_unpackhi_pd(b, d)));
}

#include "body.h"
