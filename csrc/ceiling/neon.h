/* What the NEON versions have alike; DOT8 and its number of products are the including file's. */
#define ACCUMULATORS 12
#define REGISTER "w"
#define VECTOR int32x4_t
#define FLOATS float32x4_t
#define BYTES(x) vreinterpretq_s8_s32(x)
#define SPLAT(x) vreinterpretq_s32_s8(vdupq_n_s8((int8_t)(x)))
#define SPLAT_F32(x) vdupq_n_f32(x)
#define MULTIPLY_ADD(a, u, v) vfmaq_f32(a, u, v)
#define ADD(a, b) vaddq_s32(a, b)
#define LOAD(p) vreinterpretq_s32_u8(vld1q_u8(p))
#define STORE(p, x) vst1q_u8(p, vreinterpretq_u8_s32(x))
#define DOT8_WIDENED DOT8
#define DOT8_WIDENED_TERMS DOT8_TERMS
#include "body.h"
