/* More operations on registers of 256 bits, for the products of one token; elements of 8, 16 and 32 bits. */
#ifndef HQK_MATVEC_OPS256_H
#define HQK_MATVEC_OPS256_H

#include "../ternary/vector256.h"

HQK_ALWAYS_INLINE vector both(vector a, vector b) { return _mm256_and_si256(a, b); }

/* 3 a mod 256 of each byte. Hidden from clang, which would turn a chain of these into multiplications by 9, 27, 81. */
HQK_ALWAYS_INLINE vector times_three8(vector a) {
    a = _mm256_add_epi8(a, _mm256_add_epi8(a, a));
#if defined(__clang__)
    __asm__("" : "+x"(a));
#endif
    return a;
}

HQK_ALWAYS_INLINE vector broadcast8(int byte) { return _mm256_set1_epi8((char)byte); }

HQK_ALWAYS_INLINE vector broadcast16(int word) { return _mm256_set1_epi16((short)word); }

HQK_ALWAYS_INLINE vector shift_left16(vector a, int bits) { return _mm256_slli_epi16(a, bits); }

HQK_ALWAYS_INLINE vector shift_right16(vector a, int bits) { return _mm256_srli_epi16(a, bits); }

/* Upper half of the products of unsigned 16-bit elements. */
HQK_ALWAYS_INLINE vector multiply_high16(vector a, vector b) { return _mm256_mulhi_epu16(a, b); }

/* Sums of two products each: signed 16-bit elements to 32 bits; unsigned times signed bytes to 16 bits. */
HQK_ALWAYS_INLINE vector multiply_pairs16(vector a, vector b) { return _mm256_madd_epi16(a, b); }

HQK_ALWAYS_INLINE vector multiply_pairs8(vector codes, vector x) { return _mm256_maddubs_epi16(codes, x); }

HQK_ALWAYS_INLINE vector subtract(vector a, vector b) { return _mm256_sub_epi32(a, b); }

/* Arithmetic shift. */
HQK_ALWAYS_INLINE vector shift_right(vector a, int bits) { return _mm256_srai_epi32(a, bits); }

/* Sums are added by hand: gcc 12 copies accumulators that go through the intrinsic to the stack every round. */
HQK_ALWAYS_INLINE void add_to16(vector *acc, vector a) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("vpaddw %1, %0, %0" : "+x"(*acc) : "x"(a));
#else
    *acc = _mm256_add_epi16(*acc, a);
#endif
}

HQK_ALWAYS_INLINE void add_to32(vector *acc, vector a) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("vpaddd %1, %0, %0" : "+x"(*acc) : "x"(a));
#else
    *acc = _mm256_add_epi32(*acc, a);
#endif
}

#endif
