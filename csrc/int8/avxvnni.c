/* vpdpbusd on quads of tokens in 256-bit registers: a tile of 6 x 16, 12 accumulators. The VEX form where -mavxvnni is
 * given; built with AVX-512 VL and VNNI instead, the same file gives the EVEX form. */
#include "../hqk.h"
#include "quads.h"
#include "vector256.h"

#define NAME(kernel) hqk_##kernel##_avxvnni

static inline void dot(vector *acc, vector b, vector a) {
#if !defined(__GNUC__)
    *acc = _mm256_dpbusd_avx_epi32(*acc, b, a);
#elif defined(__AVXVNNI__)
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*acc) : "x"(b), "x"(a));
#else
    __asm__("vpdpbusd %2, %1, %0" : "+x"(*acc) : "x"(b), "x"(a));
#endif
}

#include "tile.h"
