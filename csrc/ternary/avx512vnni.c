/* vpdpbusd multiplies 64 weight codes (unsigned) by four int8 activations broadcast to 16 lanes: a lane is an output
 * row, so nothing is ever added across lanes.
 *
 * Several tokens (products.h): 6 tokens x 64 outputs are 24 accumulators. */
#include "../hqk.h"
#include "vector512.h"

/* acc += codes * quad. Written out because gcc 12 copies the accumulators of the intrinsic to the stack every round. */
HQK_ALWAYS_INLINE void dot(vector *acc, vector codes, vector quad) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(codes), "v"(quad));
#else
    *acc = _mm512_dpbusd_epi32(*acc, codes, quad);
#endif
}

HQK_ALWAYS_INLINE vector widen(vector acc) { return acc; }

#define VECTORS 4
#define QUADS_AT_ONCE HQK_LONGEST_QUADS
#define NAME(kernel) hqk_##kernel##_avx512vnni
#include "products.h"
#include "product_entries.h"
#include "turned.h"
