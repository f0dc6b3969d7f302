/* 6 centroids x 16 points: 12 accumulators, two vectors of points and one broadcast fill the 16 registers. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define HQK_NAME(op) op##_avx2
#define LANES 8
#define VECTORS 2
#define MOST_CENTROIDS 6

typedef __m256 vec;
typedef __m256i ints;
typedef __m256 flags;

static inline vec v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vec a) { _mm256_storeu_ps(p, a); }
static inline vec v_all(float a) { return _mm256_set1_ps(a); }
static inline vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec v_min(vec a, vec b) { return _mm256_min_ps(a, b); }
static inline vec v_sqrt(vec a) { return _mm256_sqrt_ps(a); }
static inline flags v_less(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vec v_pick(flags f, vec yes, vec no) { return _mm256_blendv_ps(no, yes, f); }
static inline uint32_t v_bits(flags f) { return (uint32_t)_mm256_movemask_ps(f); }
static inline ints i_load(const uint32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void i_store(uint32_t *p, ints a) { _mm256_storeu_si256((__m256i *)p, a); }
static inline ints i_all(uint32_t a) { return _mm256_set1_epi32((int)a); }
static inline flags i_same(ints a, ints b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
static inline ints i_pick(flags f, ints yes, ints no) { return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(f)); }

/* Coordinates i to i + 3 of 8 points: rows r and r + 4 share a register, then 4 x 4 transposes. */
static inline void transpose4(const float *const *rows, size_t i, float *out, size_t stride) {
    __m256 q[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++)
        q[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[r] + i)), _mm_loadu_ps(rows[r + 4] + i), 1);
    __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(q[0], q[1])), b = _mm256_castps_pd(_mm256_unpackhi_ps(q[0], q[1]));
    __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(q[2], q[3])), d = _mm256_castps_pd(_mm256_unpackhi_ps(q[2], q[3]));
    v_store(out, _mm256_castpd_ps(_mm256_unpacklo_pd(a, c)));
    v_store(out + stride, _mm256_castpd_ps(_mm256_unpackhi_pd(a, c)));
    v_store(out + 2 * stride, _mm256_castpd_ps(_mm256_unpacklo_pd(b, d)));
    v_store(out + 3 * stride, _mm256_castpd_ps(_mm256_unpackhi_pd(b, d)));
}

#include "body.h"
