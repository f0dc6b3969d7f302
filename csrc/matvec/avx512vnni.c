/* vpdpbusd on 16 rows at a time: a whole step of 64 rows is four registers. */
#include "../hqk.h"
#include "ops512.h"

/* Written out because gcc 12 copies the accumulators of the intrinsic to the stack every round. */
HQK_ALWAYS_INLINE void dot(vector *acc, vector codes, vector quad) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(codes), "v"(quad));
#else
    *acc = _mm512_dpbusd_epi32(*acc, codes, quad);
#endif
}

#define RUN_STEPS SIZE_MAX
#define TWO_BITS_VECTORS 4
#define NAME(kernel) hqk_##kernel##_avx512vnni
#include "two_bits_fields.h"
#include "five_trits_fractions.h"
#include "walk.h"
