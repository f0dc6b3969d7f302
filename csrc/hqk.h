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

/* adamw: moments and sums of the update, then the update itself. */
typedef struct {
    float new_share1, beta2, new_share2, epsilon;     /* 1-beta1, beta2, 1-beta2 */
    float correction1, correction2;                   /* 1/(1-beta1^t), 1/sqrt(1-beta2^t) */
    float previous_correction1, previous_correction2; /* the same at t-1; 0 at t = 1 */
    float bias;                                       /* lean on momentum, -1..1 */
} hqk_adamw_settings;
#define HQK_ADAMW(isa)                                                                                        \
    void hqk_adamw_moments_##isa(const float *gradient, const float *weight, size_t n,                        \
                                 const hqk_adamw_settings *settings, float *first_moment,                     \
                                 float *second_moment, double *sums);                                         \
    void hqk_adamw_apply_##isa(const float *gradient, const float *first_moment, const float *second_moment,  \
                               size_t n, const hqk_adamw_settings *settings, float keep, float rate,          \
                               float *weight);
HQK_EVERY_ISA(HQK_ADAMW)

/* sgd: velocity and sums of the update, then the update itself. */
typedef struct {
    float momentum, weight_decay;
    float whole; /* 1/(1-momentum): length of the velocity of a constant gradient */
    float bias;  /* lean on momentum, -1..1 */
} hqk_sgd_settings;
#define HQK_SGD(isa)                                                                                          \
    void hqk_sgd_velocity_##isa(const float *gradient, const float *weight, size_t n,                         \
                                const hqk_sgd_settings *settings, float *velocity, double *sums);             \
    void hqk_sgd_apply_##isa(const float *gradient, const float *velocity, size_t n,                          \
                             const hqk_sgd_settings *settings, float rate, float *weight);
HQK_EVERY_ISA(HQK_SGD)

/* ternary: the 2-bit layout, and int8 activations times ternary weights (csrc/README.md). */
#define HQK_TERNARY(isa)                                                                                         \
    void hqk_ternary_pack_##isa(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed);                 \
    void hqk_ternary_quantize_pack_##isa(const float *weights, size_t rows, size_t cols,                         \
                                         const float *thresholds, size_t threshold_stride, uint8_t *packed);     \
    void hqk_ternary_unpack_##isa(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits);               \
    void hqk_ternary_count_changed_##isa(const uint8_t *a, const uint8_t *b, size_t bytes, size_t *changed);     \
    void hqk_ternary_panels_##isa(const uint8_t *block, size_t cols, uint8_t *panels);                           \
    void hqk_ternary_panels_transposed_##isa(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,  \
                                             uint8_t *panels);                                                   \
    void hqk_panel_matmul_##isa(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x,                \
                                size_t x_stride, size_t tokens, const float *x_scales, const int32_t *x_sums,    \
                                const float *weight_scales, size_t weight_scale_stride, float *y,                \
                                size_t y_stride);                                                                \
    void hqk_panel_matmul_i32_##isa(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x,            \
                                    size_t x_stride, size_t tokens, const int32_t *x_sums, int32_t *y,           \
                                    size_t y_stride);                                                            \
    void hqk_ternary_matvec_##isa(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,              \
                                  float x_scale, int32_t x_sum, const float *weight_scales,                      \
                                  size_t weight_scale_stride, float *y);                                         \
    void hqk_ternary_matvec_i32_##isa(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,          \
                                      int32_t x_sum, int32_t *y);
HQK_EVERY_ISA(HQK_TERNARY)

/* activation_quant: float rows to int8. `draws` = key[0], key[1], tensor, step of the random stream. */
#define HQK_ACTIVATION_QUANT(isa)                                                                                    \
    void hqk_quantize_rows_##isa(const float *x, size_t rows, size_t width, int8_t *values, float *scales,           \
                                 int32_t *sums);                                                                     \
    void hqk_quantize_rows_stochastic_##isa(const float *x, size_t rows, size_t width, size_t first_row,             \
                                            const uint32_t *draws, int8_t *values, float *scales, int32_t *sums);    \
    void hqk_column_scales_##isa(const float *x, size_t rows, size_t width, size_t stride, const float *row_factors, \
                                 float *scales);                                                                     \
    void hqk_quantize_columns_stochastic_##isa(const float *x, size_t rows, size_t width, size_t first_row,          \
                                               const float *row_factors, const float *scales, const uint32_t *draws, \
                                               int8_t *values);
HQK_EVERY_ISA(HQK_ACTIVATION_QUANT)

#endif
