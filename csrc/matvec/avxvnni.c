/* vpdpbusd on 8 rows at a time. With HQK_EVEX the instruction is encoded for AVX-512 VL, so that the file can be tested
 * where AVX-VNNI is missing. */
#include "../hqk.h"
#include "ops256.h"

/* Written out because gcc 12 copies the accumulators of the intrinsic to the stack every round. */
HQK_ALWAYS_INLINE void dot(vector *acc, vector codes, vector quad) {
#if defined(HQK_EVEX)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(codes), "v"(quad));
#elif defined(__GNUC__) && !defined(__clang__)
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*acc) : "x"(codes), "x"(quad));
#else
    *acc = _mm256_dpbusd_avx_epi32(*acc, codes, quad);
#endif
}

/* 4 KiB of weights a run. */
#define RUN_STEPS 16
#define TWO_BITS_VECTORS 2
#define NAME(kernel) hqk_##kernel##_avxvnni
#include "two_bits_fields.h"
#include "five_trits_fractions.h"
#include "walk.h"
