/* The instruction set every machine of the architecture has, SSE2 or NEON, where the compiler names it, else scalars.
 * SSE2 has no product of bytes: int8 values travel as 16 bits. */
#define HQK_NAME(op) op##_portable

#if defined(__aarch64__) && defined(__ARM_NEON)
#include "smlal.h"
#else
#if defined(__SSE2__)
#include <emmintrin.h>
#define REGISTER "x"
#define VECTOR __m128i
#define FLOATS __m128
#define SPLAT(x) _mm_set1_epi8((char)(x))
#define SPLAT_F32(x) _mm_set1_ps(x)
#define DOT8(a, u, v) _mm_add_epi32(a, _mm_madd_epi16(u, v))
#define DOT8_TERMS 8
#define MULTIPLY_ADD(a, u, v) _mm_add_ps(a, _mm_mul_ps(u, v))
#define ADD(a, b) _mm_add_epi64(a, b)
#define LOAD(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define STORE(p, x) _mm_storeu_si128((__m128i *)(void *)(p), x)
#else
#include <stdint.h>
#include <string.h>

#define REGISTER "r"
#define VECTOR uint64_t
#define FLOATS float
#define SPLAT(x) ((uint64_t)(x))
#define SPLAT_F32(x) (x)
#define DOT8(a, u, v) ((a) + (u) * (v))
#define DOT8_TERMS 1
#define MULTIPLY_ADD(a, u, v) ((a) + (u) * (v))
#define ADD(a, b) ((a) + (b))
static uint64_t load(const uint8_t *p) {
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}
#define LOAD(p) load(p)
#define STORE(p, x) memcpy(p, &(uint64_t){x}, 8)
#endif
#define ACCUMULATORS 12
#define DOT8_WIDENED DOT8
#define DOT8_WIDENED_TERMS DOT8_TERMS
#include "body.h"
#endif
