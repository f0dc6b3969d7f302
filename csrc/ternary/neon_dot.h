/* sdot by lane. */
#ifndef HQK_TERNARY_NEON_DOT_H
#define HQK_TERNARY_NEON_DOT_H

#include "neon.h"

/* acc += codes * quad `lane` of values, codes signed. Written out because gcc 12 copies the accumulators of the
 * intrinsic. */
#if defined(__GNUC__)
#define HQK_DOT(acc, codes, values, lane) \
    __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(acc) : "w"(codes), "w"(values))
#else
#define HQK_DOT(acc, codes, values, lane) (acc = vdotq_laneq_s32(acc, vreinterpretq_s8_u8(codes), values, lane))
#endif

#endif
