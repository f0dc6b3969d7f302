/* NEON without dot products: eight bytes multiplied to 16 bits and added to their sums at once. */
#include <arm_neon.h>

#define LOW(x) vget_low_s8(BYTES(x))
#define DOT8(a, u, v) vreinterpretq_s32_s16(vmlal_s8(vreinterpretq_s16_s32(a), LOW(u), LOW(v)))
#define DOT8_TERMS 8
#include "neon.h"
