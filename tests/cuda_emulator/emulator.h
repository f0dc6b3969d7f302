/* Runs CUDA kernels on a CPU: a block's threads are fibers. A warp runs as far as it comes, to a barrier of the block or its
 * end, before the next one moves: it is far ahead of the one and far behind the other of two between which a barrier is missing.
 *
 * What the kernels of cuda/ use is here with the meaning the CUDA manuals give it: barriers, shuffles, matrix products with
 * the documented fragments, asynchronous copies, atomics. It is strict where a GPU is not: a barrier or a warp instruction that
 * not all threads reach, or that differs from lane to lane, ends the program. Under `Schedule::late` threads and blocks run
 * backwards and copies arrive when they are waited for, else forwards and at once: a missing barrier then shows. */
#ifndef HQ_EMULATOR_H
#define HQ_EMULATOR_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "fiber.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define DEVICE static inline
#define UNSANITIZED __attribute__((no_sanitize("address", "undefined"), optimize("O3")))

struct __align__(16) uint4 { uint32_t x, y, z, w; };
struct __align__(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

namespace emulated {

enum class Schedule { early, late };

struct Index { unsigned x = 0, y = 0, z = 0; };

/* Where threads wait for each other: `expected` arrivals end a generation. */
struct Barrier {
    unsigned arrivals = 0, generation = 0, expected = 0;
    const char *what = "";
};

struct Warp {
    Barrier barrier;
    /* What lanes give each other, by parity of the generation: a lane is at most one ahead. */
    uint32_t given[2][32][6];
    int32_t taken[2][32][4];
};

struct Copy { void *to; const void *from; uint32_t bytes; };

struct Thread {
    Fiber fiber;
    Index index;
    bool done = false;
    const Barrier *waits_for = nullptr;
    unsigned generation = 0;
    std::vector<std::vector<Copy>> copies; /* by group; the last is open */
};

inline Schedule schedule = Schedule::early;
inline Index grid, block_size, block;
inline std::vector<std::unique_ptr<Thread>> threads;
inline std::vector<Warp> warps;
inline Barrier block_barrier;
inline Thread *current;
inline std::function<void()> kernel;
/* Work done so far, to tell that something ran. */
inline unsigned long launches, products;

[[noreturn]] inline void fail(const char *message) {
    fprintf(stderr, "emulator: %s (block %u, thread %u)\n", message, block.x, current ? current->index.x : 0);
    abort();
}

inline void arrive(Barrier &barrier, const char *what) {
    if (barrier.arrivals == 0) barrier.what = what;
    if (strcmp(barrier.what, what)) fail("threads meet at different instructions");
    if (++barrier.arrivals == barrier.expected) {
        barrier.arrivals = 0, barrier.generation++;
        return;
    }
    current->waits_for = &barrier, current->generation = barrier.generation;
    current->fiber.leave();
    current->waits_for = nullptr;
}

inline Warp &own_warp() { return warps[current->index.x / 32]; }
inline unsigned own_lane() { return current->index.x % 32; }

template <typename T>
T shuffle(T value, unsigned from, const char *what) {
    static_assert(sizeof value <= sizeof own_warp().given[0][0]);
    Warp &warp = own_warp();
    unsigned parity = warp.barrier.generation % 2;
    memcpy(warp.given[parity][own_lane()], &value, sizeof value);
    arrive(warp.barrier, what);
    memcpy(&value, warp.given[parity][from % 32], sizeof value);
    return value;
}

/* The whole product, once all lanes have given their registers: element [row][k] of the left factor is in lane 4 (row % 8) +
 * k % 16 / 4, register row / 8 + 2 (k / 16), byte k % 4; [k][col] of the right one in lane 4 col + k % 16 / 4, register k / 16. */
UNSANITIZED inline void multiply(const uint32_t (*given)[6], int32_t (*taken)[4], int rows, int depth) {
    int8_t a[16][32], b[8][32];
    for (int k = 0; k < depth; k++) {
        for (int row = 0; row < rows; row++)
            a[row][k] = (int8_t)(given[row % 8 * 4 + k % 16 / 4][row / 8 + 2 * (k / 16)] >> 8 * (k % 4));
        for (int col = 0; col < 8; col++) b[col][k] = (int8_t)(given[col * 4 + k % 16 / 4][4 + k / 16] >> 8 * (k % 4));
    }
    for (int row = 0; row < rows; row++)
        for (int col = 0; col < 8; col++) {
            int32_t sum = 0;
            for (int k = 0; k < depth; k++) sum += a[row][k] * b[col][k];
            taken[row % 8 * 4 + col / 2][row / 8 * 2 + col % 2] = sum;
        }
}

inline void mma(int32_t *c, const uint32_t *a, const uint32_t *b, int rows, int depth, const char *what) {
    Warp &warp = own_warp();
    unsigned parity = warp.barrier.generation % 2, lane = own_lane();
    memcpy(warp.given[parity][lane], a, (size_t)rows / 8 * depth / 16 * 4);
    memcpy(warp.given[parity][lane] + 4, b, (size_t)depth / 16 * 4);
    if (warp.barrier.arrivals == 31) multiply(warp.given[parity], warp.taken[parity], rows, depth), products++;
    arrive(warp.barrier, what);
    for (int i = 0; i < rows / 4; i++) c[i] = (int32_t)((uint32_t)c[i] + (uint32_t)warp.taken[parity][lane][i]);
}

inline void perform(const Copy &copy) {
    if ((uintptr_t)copy.to % 16 || (uintptr_t)copy.from % 16 || copy.bytes > 16) fail("a copy of 16 bytes is off its boundary");
    uint8_t whole[16] = {0};
    memcpy(whole, copy.from, copy.bytes);
    memcpy(copy.to, whole, 16);
}

inline void run_thread() {
    kernel();
    for (auto &group : current->copies)
        if (!group.empty()) fail("a thread ends with copies under way");
    current->done = true;
}

inline void run_block() {
    size_t count = block_size.x, left = count;
    block_barrier = Barrier{0, 0, (unsigned)count, ""};
    for (auto &warp : warps) warp.barrier = Barrier{0, 0, 32, ""};
    for (size_t i = 0; i < count; i++) {
        Thread &thread = *threads[i];
        thread.index.x = (unsigned)i, thread.done = false, thread.copies.assign(1, {}), thread.waits_for = nullptr;
        thread.fiber.begin(run_thread);
    }
    while (left > 0) {
        bool moved = false;
        for (size_t first = 0; first < count; first += 32)
            for (bool again = true; again; moved |= again) {
                again = false;
                for (size_t i = first; i < first + 32; i++) {
                    Thread &thread = *threads[schedule == Schedule::late ? count - 1 - i : i];
                    if (thread.done || (thread.waits_for && thread.waits_for->generation == thread.generation)) continue;
                    current = &thread;
                    thread.fiber.enter();
                    again = true, left -= thread.done;
                }
            }
        if (!moved) fail("threads wait at a barrier that not all of them reach");
    }
}

inline void launch(unsigned blocks, unsigned size, std::function<void()> body) {
    if (size % 32) fail("a block is whole warps here");
    while (threads.size() < size) threads.push_back(std::make_unique<Thread>());
    warps.resize(size / 32);
    grid.x = blocks, block_size.x = size, kernel = std::move(body);
    launches++;
    for (unsigned i = 0; i < blocks; i++) {
        block.x = schedule == Schedule::late ? blocks - 1 - i : i;
        run_block();
    }
}

}  // namespace emulated

#define threadIdx (emulated::current->index)
#define blockIdx (emulated::block)
#define blockDim (emulated::block_size)
#define gridDim (emulated::grid)

inline void __syncthreads() { emulated::arrive(emulated::block_barrier, "__syncthreads"); }

template <typename T>
T __shfl_xor_sync(uint32_t, T value, int step) {
    return emulated::shuffle(value, emulated::own_lane() ^ (unsigned)step, "__shfl_xor_sync");
}

template <typename T>
T __shfl_sync(uint32_t, T value, int from) {
    return emulated::shuffle(value, (unsigned)from, "__shfl_sync");
}

inline int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
    for (int i = 0; i < 4; i++) sum += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return sum;
}

inline void mma_8x8x16(int32_t *c, uint32_t a, uint32_t b) { emulated::mma(c, &a, &b, 8, 16, "mma_8x8x16"); }

#ifndef SMALL_MMA
inline void mma_16x8x32(int32_t *c, const uint32_t *a, const uint32_t *b) { emulated::mma(c, a, b, 16, 32, "mma_16x8x32"); }
#endif

inline void copy_16(void *to, const void *from, uint32_t bytes) {
    emulated::Copy copy = {to, from, bytes};
    if (emulated::schedule == emulated::Schedule::early) return emulated::perform(copy);
    emulated::current->copies.back().push_back(copy);
}

inline void copy_commit() { emulated::current->copies.emplace_back(); }

template <int Pending>
void copy_wait() {
    auto &copies = emulated::current->copies;
    /* The last group is open: what it holds is not waited for. */
    while (copies.size() > Pending + 1) {
        for (const auto &copy : copies.front()) emulated::perform(copy);
        copies.erase(copies.begin());
    }
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    uint64_t both = (uint64_t)high << 32 | low;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) out |= (uint32_t)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return out;
}

inline int32_t __float_as_int(float value) { int32_t bits; memcpy(&bits, &value, 4); return bits; }
inline float __int_as_float(int32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
inline int __clzll(long long value) { return value ? __builtin_clzll((unsigned long long)value) : 64; }
inline long long __double2ll_rn(double value) { return std::fabs(value) < 0x1p63 ? std::llrint(value) : INT64_MIN; }

template <typename T, typename V>
T atomicAdd(T *to, V value) { T before = *to; *to = before + (T)value; return before; }

template <typename T>
T atomicMax(T *to, T value) { T before = *to; *to = std::max(before, value); return before; }

#endif
