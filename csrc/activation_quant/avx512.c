#define HQK_NAME(op) op##_avx512
/* A group is eight registers of 512 bits; gcc would take sixteen of 256, for a third more time. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")
#endif
#include "body.h"
