/* NEON with sdot: sixteen products an instruction. */
#define HQK_NAME(op) op##_neondotprod
#include <arm_neon.h>

#define DOT8(a, u, v) vdotq_s32(a, BYTES(u), BYTES(v))
#define DOT8_TERMS 16
#include "neon.h"
