/* vpmaddwd on pairs of tokens: a tile of 6 x 64, 24 accumulators. */
#include "../hqk.h"
#include "pairs.h"
#include "vector512.h"

#define NAME(kernel) hqk_##kernel##_avx512

static inline void dot(vector *acc, vector b, vector a) {
    vector products = _mm512_madd_epi16(b, a);
#if defined(__GNUC__)
    __asm__("vpaddd %1, %0, %0" : "+v"(*acc) : "v"(products));
#else
    *acc = _mm512_add_epi32(*acc, products);
#endif
}

#include "tile.h"
