/* NEON with smmla: two rows by two rows of eight, 32 products an instruction. */
#define HQK_NAME(op) op##_neoni8mm
#include <arm_neon.h>

#define DOT8(a, u, v) vmmlaq_s32(a, BYTES(u), BYTES(v))
#define DOT8_TERMS 32
#include "neon.h"
