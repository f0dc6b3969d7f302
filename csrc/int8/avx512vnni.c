/* vpdpbusd on quads of tokens: a tile of 6 x 64, 24 accumulators. */
#include "../hqk.h"
#include "quads.h"
#include "vector512.h"

#define NAME(kernel) hqk_##kernel##_avx512vnni

static inline void dot(vector *acc, vector b, vector a) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(b), "v"(a));
#else
    *acc = _mm512_dpbusd_epi32(*acc, b, a);
#endif
}

#include "tile.h"
