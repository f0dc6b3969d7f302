/* vpdpbusd on 256-bit registers: 6 tokens x 16 outputs are 12 accumulators (products.h). The instruction is the VEX form
 * where -mavxvnni is given; built with AVX-512 VL and VNNI instead, the same file gives the EVEX form. */
#include "../hqk.h"
#include "vector256.h"

#if defined(__AVXVNNI__)
#define DOT "%{vex%} vpdpbusd %2, %1, %0"
#else
#define DOT "vpdpbusd %2, %1, %0"
#endif

/* acc += codes * quad. Written out because gcc 12 copies the accumulators of the intrinsic to the stack every round. */
HQK_ALWAYS_INLINE void dot(vector *acc, vector codes, vector quad) {
#if defined(__GNUC__)
    __asm__(DOT : "+x"(*acc) : "x"(codes), "x"(quad));
#else
    *acc = _mm256_dpbusd_avx_epi32(*acc, codes, quad);
#endif
}

HQK_ALWAYS_INLINE vector widen(vector acc) { return acc; }

#define VECTORS 2
#define QUADS_AT_ONCE HQK_LONGEST_QUADS
#define NAME(kernel) hqk_##kernel##_avxvnni
#include "products.h"
#include "product_entries.h"
