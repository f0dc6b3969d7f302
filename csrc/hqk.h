/* Every CPU kernel of hybridq, declared once.
 *
 * A kernel `hqk_<op>_<isa>` lives in `csrc/<family>/<isa>.c`. All versions of a kernel share the signature below and
 * the contract in csrc/README.md. Kernels return nothing and cannot fail: the safe wrappers in src/kernels check
 * sizes first. Sizes are `size_t`, strides count elements, matrices are row-major, outputs come last.
 *
 * Each family has one macro that declares it for a given ISA; HQK_EVERY_ISA expands it for all of them. A version
 * that is not written is never referenced. */
#ifndef HQK_H
#define HQK_H

#include <stddef.h>
#include <stdint.h>

#define HQK_EVERY_ISA(DECLARE) \
    DECLARE(portable)          \
    DECLARE(avx2)              \
    DECLARE(avxvnni)           \
    DECLARE(avx512)            \
    DECLARE(avx512vnni)        \
    DECLARE(neon)

/* norm: reductions in 16 fixed f64 lanes, and scaling. */
#define HQK_NORM(isa)                                                                \
    void hqk_abs_sum_##isa(const float *x, size_t n, double *out);                   \
    void hqk_sum_squares_##isa(const float *x, size_t n, double *out);               \
    void hqk_dot_##isa(const float *x, const float *y, size_t n, double *out);       \
    void hqk_scale_##isa(float *x, size_t n, float factor);
HQK_EVERY_ISA(HQK_NORM)

#endif
