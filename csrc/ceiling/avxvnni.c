/* AVX-VNNI: one 256-bit vpdpbusd for 32 products. */
#define HQK_NAME(op) op##_avxvnni
#include <immintrin.h>

#define ACCUMULATORS 12
#define REGISTER "x"
#define VECTOR __m256i
#define FLOATS __m256
#define SPLAT(x) _mm256_set1_epi8((char)(x))
#define SPLAT_F32(x) _mm256_set1_ps(x)
#define DOT8(a, u, v) _mm256_dpbusd_avx_epi32(a, u, v)
#define DOT8_TERMS 32
#define DOT8_WIDENED DOT8
#define DOT8_WIDENED_TERMS 32
#define MULTIPLY_ADD(a, u, v) _mm256_fmadd_ps(u, v, a)
#define ADD(a, b) _mm256_add_epi64(a, b)
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STORE(p, x) _mm256_storeu_si256((__m256i *)(void *)(p), x)
#include "body.h"
