/* What the kernels use beyond plain CUDA C++: dot and matrix products of int8, asynchronous copies to shared memory. A host
 * compiler finds the same names in tests/cuda_emulator/emulator.h, so that every kernel runs without a GPU too. */
#ifndef HQ_DEVICE_CUH
#define HQ_DEVICE_CUH

#include <stddef.h>
#include <stdint.h>

#ifndef __CUDACC__
#include "emulator.h"
#else

#define DEVICE static __device__ __forceinline__

/* sum + the four products of signed bytes. */
DEVICE int32_t dot4(uint32_t a, uint32_t b, int32_t sum) { return __dp4a((int)a, (int)b, sum); }

#if __CUDA_ARCH__ < 800
#define SMALL_MMA
#endif

/* c[8][8] += a[8][16] b[16][8] over a warp: row g and column g, k = 4 t + i as below. */
DEVICE void mma_8x8x16(int32_t *c, uint32_t a, uint32_t b) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c[0]), "+r"(c[1])
                 : "r"(a), "r"(b));
}

#ifndef SMALL_MMA
DEVICE void mma_16x8x32(int32_t *c, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

/* 16 bytes to shared memory, of which the first `bytes` (0 to 16) come from `from` and the rest are 0; both aligned to 16.
 * They are there after copy_wait and a barrier. Before sm_80 at once. */
DEVICE void copy_16(void *to, const void *from, uint32_t bytes) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from),
                 "r"(bytes)
                 : "memory");
#else
    uint32_t word[4] = {0, 0, 0, 0};
    if (bytes == 16) {
        *(uint4 *)to = *(const uint4 *)from;
    } else {
        for (uint32_t i = 0; i < 16; i++)
            if (i < bytes) word[i / 4] |= (uint32_t)((const uint8_t *)from)[i] << 8 * (i % 4);
        *(uint4 *)to = make_uint4(word[0], word[1], word[2], word[3]);
    }
#endif
}

/* Ends a group of copies of this thread. */
DEVICE void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most the newest `Pending` groups of this thread are under way. */
template <int Pending>
DEVICE void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

#endif

#define ALL_LANES 0xFFFFFFFFu

/* mma_16x8x32: c[16][8] += a[16][32] b[32][8] over a warp. With g = lane / 4, t = lane % 4, i a byte of a register:
 *     a[0], a[1]: rows g, g + 8, k = 4 t + i; a[2], a[3]: the same rows, k = 16 + 4 t + i
 *     b[0], b[1]: column g, k = 4 t + i and 16 + 4 t + i
 *     c[0], c[1]: row g, columns 2 t, 2 t + 1; c[2], c[3]: row g + 8.
 * The four smaller products that sm_75 has instead find their parts in the same registers. */
#ifdef SMALL_MMA
DEVICE void mma_16x8x32(int32_t *c, const uint32_t *a, const uint32_t *b) {
    mma_8x8x16(c, a[0], b[0]);
    mma_8x8x16(c + 2, a[1], b[0]);
    mma_8x8x16(c, a[2], b[1]);
    mma_8x8x16(c + 2, a[3], b[1]);
}
#endif

/* Blocks of the products that a multiprocessor is to hold: two where shared memory has room for both. */
#ifdef SMALL_MMA
#define TWO_WHERE_ROOM 1
#else
#define TWO_WHERE_ROOM 2
#endif

/* A lane's place in the fragments of mma_16x8x32. */
DEVICE int fragment_row() { return (int)(threadIdx.x % 32 / 4); }
DEVICE int fragment_quad() { return (int)(threadIdx.x % 4); }

/* out[j] = byte j of each of the four words, in their order: the transpose of 4 x 4 bytes. */
DEVICE void transpose_bytes(const uint32_t w[4], uint32_t out[4]) {
    uint32_t low01 = __byte_perm(w[0], w[1], 0x5140), high01 = __byte_perm(w[0], w[1], 0x7362);
    uint32_t low23 = __byte_perm(w[2], w[3], 0x5140), high23 = __byte_perm(w[2], w[3], 0x7362);
    out[0] = __byte_perm(low01, low23, 0x5410);
    out[1] = __byte_perm(low01, low23, 0x7632);
    out[2] = __byte_perm(high01, high23, 0x5410);
    out[3] = __byte_perm(high01, high23, 0x7632);
}

DEVICE bool is_aligned(const void *pointer, size_t bytes) { return (uintptr_t)pointer % bytes == 0; }

/* Up to 16 bytes one by one, zeros behind: where rows do not begin at multiples of 16. */
DEVICE uint4 gather_16(const int8_t *from, size_t bytes) {
    uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 16; i++)
        if ((size_t)i < bytes) word[i / 4] |= (uint32_t)(uint8_t)from[i] << 8 * (i % 4);
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* 16 int8 values from `at` on of a row of `len`, zeros behind its end. */
DEVICE uint4 load_16(const int8_t *row, size_t at, size_t len, bool aligned) {
    if (aligned && at + 16 <= len) return *(const uint4 *)(row + at);
    return gather_16(row + at, at < len ? len - at : 0);
}

/* Brings 16 values of a row to shared memory as load_16 does, asynchronously where alignment allows. `row` and `at` may lie
 * outside where `inside` is false: zeros then. */
DEVICE void stage_16(uint8_t *to, const int8_t *base, size_t offset, size_t left, bool aligned) {
    uint32_t bytes = left < 16 ? (uint32_t)left : 16;
    if (aligned)
        copy_16(to, bytes ? base + offset : base, bytes);
    else
        *(uint4 *)to = gather_16(bytes ? base + offset : base, bytes);
}

DEVICE uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

/* How every integer product ends: `sum` over codes {0, 1, 2} less the sum of the token's values, then one conversion and two
 * products, each rounded: the same bits as on a CPU. */
DEVICE float scaled(int32_t centered, float x_scale, float weight_scale) {
    return (float)centered * (x_scale * weight_scale);
}

#endif
