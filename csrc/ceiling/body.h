/* The ceiling family, written once: loops that do nothing but the instruction in question, on registers, and streams.
 *
 * The including file defines VECTOR (integers), FLOATS, ACCUMULATORS (12 or 16 independent chains: more than latency
 * times throughput of any known core), and the operations below. KEEP hides a value from the compiler, so that no loop
 * is folded; it costs no instruction. */
#include "../hqk.h"

#if defined(__GNUC__)
#define KEEP(x) __asm__ volatile("" : "+" REGISTER(x))
#else
#define KEEP(x) ((void)0)
#endif

#if ACCUMULATORS == 16
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#else
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#endif

/* Each accumulator has a name: an array would live in memory. */
#define DECLARE(i) a##i = start,
#define FINISH(i) KEEP(a##i);
#define DOT(i)                   \
    KEEP(u);                     \
    a##i = DOT8(a##i, u, v);     \
    KEEP(a##i);
#define WIDENED(i)                   \
    KEEP(u);                         \
    a##i = DOT8_WIDENED(a##i, u, v); \
    KEEP(a##i);
#define FMA(i)                       \
    KEEP(u);                         \
    a##i = MULTIPLY_ADD(a##i, u, v); \
    KEEP(a##i);

void HQK_NAME(hqk_ceiling_int8)(size_t rounds, uint64_t *operations) {
    volatile int seed = 1;
    VECTOR u = SPLAT(seed), v = SPLAT(seed), start = u, EACH(DECLARE) last = start;
    for (size_t r = 0; r < rounds; r++) {
        EACH(DOT)
    }
    EACH(FINISH)
    KEEP(last);
    *operations = (uint64_t)rounds * ACCUMULATORS * DOT8_TERMS * 2;
}

void HQK_NAME(hqk_ceiling_int8_widened)(size_t rounds, uint64_t *operations) {
    volatile int seed = 1;
    VECTOR u = SPLAT(seed), v = SPLAT(seed), start = u, EACH(DECLARE) last = start;
    for (size_t r = 0; r < rounds; r++) {
        EACH(WIDENED)
    }
    EACH(FINISH)
    KEEP(last);
    *operations = (uint64_t)rounds * ACCUMULATORS * DOT8_WIDENED_TERMS * 2;
}

void HQK_NAME(hqk_ceiling_f32)(size_t rounds, uint64_t *operations) {
    volatile float seed = 1.0f;
    FLOATS u = SPLAT_F32(seed), v = SPLAT_F32(seed), start = u, EACH(DECLARE) last = start;
    for (size_t r = 0; r < rounds; r++) {
        EACH(FMA)
    }
    EACH(FINISH)
    KEEP(last);
    *operations = (uint64_t)rounds * ACCUMULATORS * (sizeof(FLOATS) / 4) * 2;
}

void HQK_NAME(hqk_ceiling_read)(const uint8_t *bytes, size_t n, uint64_t *sum) {
    VECTOR s0 = SPLAT(0), s1 = s0, s2 = s0, s3 = s0;
    const size_t w = sizeof(VECTOR);
    size_t i = 0;
    for (; i + 4 * w <= n; i += 4 * w) {
        s0 = ADD(s0, LOAD(bytes + i));
        s1 = ADD(s1, LOAD(bytes + i + w));
        s2 = ADD(s2, LOAD(bytes + i + 2 * w));
        s3 = ADD(s3, LOAD(bytes + i + 3 * w));
    }
    s0 = ADD(ADD(s0, s1), ADD(s2, s3));
    uint64_t total = 0, part[sizeof(VECTOR) / 8];
    STORE((uint8_t *)part, s0);
    for (size_t l = 0; l < sizeof(VECTOR) / 8; l++) total += part[l];
    for (; i < n; i++) total += bytes[i];
    *sum = total;
}

void HQK_NAME(hqk_ceiling_update)(uint8_t *bytes, size_t n) {
    volatile int seed = 0;
    VECTOR zero = SPLAT(seed);
    const size_t w = sizeof(VECTOR);
    for (size_t i = 0; i + 4 * w <= n; i += 4 * w) {
        STORE(bytes + i, ADD(LOAD(bytes + i), zero));
        STORE(bytes + i + w, ADD(LOAD(bytes + i + w), zero));
        STORE(bytes + i + 2 * w, ADD(LOAD(bytes + i + 2 * w), zero));
        STORE(bytes + i + 3 * w, ADD(LOAD(bytes + i + 3 * w), zero));
    }
}
