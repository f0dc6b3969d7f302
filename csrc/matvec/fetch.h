/* Fetching ahead of a stream of weights. */
#ifndef HQK_MATVEC_FETCH_H
#define HQK_MATVEC_FETCH_H

#include "../ternary/layout.h"

/* Bytes ahead. A core that multiplies has fewer loads under way than one that only reads, and the hardware's own
 * fetching stops at the end of a 4 KiB page: two pages ahead give 10 to 25 % more from memory (Zen 5) and cost nothing
 * measurable from cache. */
#ifndef HQK_FETCH_AHEAD
#define HQK_FETCH_AHEAD 8192
#endif

/* The cache lines of registers 0 to `vectors` - 1 of a step. What lies past the matrix is only a hint. */
HQK_ALWAYS_INLINE void fetch_ahead(const uint8_t *step, int bytes) {
#if HQK_FETCH_AHEAD
    HQK_UNROLL(4) for (int at = 0; at < bytes; at += 64)
        _mm_prefetch((const char *)((uintptr_t)step + (uintptr_t)(HQK_FETCH_AHEAD + at)), _MM_HINT_T0);
#else
    (void)step, (void)bytes;
#endif
}

#endif
