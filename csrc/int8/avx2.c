/* vpmaddwd on pairs of tokens: a tile of 6 x 16, 12 accumulators. */
#include "../hqk.h"
#include "pairs.h"
#include "vector256.h"

#define NAME(kernel) hqk_##kernel##_avx2

/* The sum is written out because gcc 12 copies the accumulators of the intrinsic to the stack every round. */
static inline void dot(vector *acc, vector b, vector a) {
    vector products = _mm256_madd_epi16(b, a);
#if defined(__GNUC__)
    __asm__("vpaddd %1, %0, %0" : "+x"(*acc) : "x"(products));
#else
    *acc = _mm256_add_epi32(*acc, products);
#endif
}

#include "tile.h"
