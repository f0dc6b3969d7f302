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
    DECLARE(avx512bf16)        \
    DECLARE(neon)              \
    DECLARE(neondotprod)       \
    DECLARE(neoni8mm)

/* norm: reductions in 16 fixed f64 lanes, and scaling. */
#define HQK_NORM(isa)                                                                \
    void hqk_abs_sum_##isa(const float *x, size_t n, double *out);                   \
    void hqk_sum_squares_##isa(const float *x, size_t n, double *out);               \
    void hqk_dot_##isa(const float *x, const float *y, size_t n, double *out);       \
    void hqk_dot_i8_##isa(const int8_t *x, const float *y, size_t n, double *out);   \
    void hqk_abs_and_square_sums_##isa(const float *x, size_t n, double *out);       \
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

/* steepest: momentum and what it will be shaped from, sums of the shaped update, then the update itself. */
#define HQK_STEEPEST(isa)                                                                                     \
    void hqk_steepest_momentum_##isa(const float *gradient, const float *weight, size_t n, float new_share,   \
                                     float lean, float *momentum, float *update, double *sums);               \
    void hqk_steepest_sums_##isa(const float *gradient, const float *weight, const float *update, size_t n,   \
                                 double *sums);                                                               \
    void hqk_steepest_apply_##isa(const float *update, size_t n, float keep, float rate, float *weight);
HQK_EVERY_ISA(HQK_STEEPEST)

/* newton_schulz: what the iteration does between its int8 products. */
#define HQK_NEWTON_SCHULZ(isa)                                                                                   \
    void hqk_newton_schulz_finish_##isa(const float *scales, const float *a, const float *a_diagonal,            \
                                        const float *b, const float *b_diagonal, float of_product, float of_a,   \
                                        float of_b, size_t side, float *sums, float *diagonal);                  \
    void hqk_newton_schulz_round_columns_##isa(const float *x, size_t rows, size_t cols, const float *scales,    \
                                               int8_t *codes);                                                   \
    void hqk_newton_schulz_add_rows_##isa(const float *sums, size_t rows, size_t cols, const float *of_sums,     \
                                          const float *of_x, float *x);
HQK_EVERY_ISA(HQK_NEWTON_SCHULZ)

/* state: an optimizer's moments in 16 and 8 bits. */
#define HQK_STATE(isa)                                                                                          \
    void hqk_state_encode_bf16_##isa(const float *x, size_t n, size_t first_group, const uint32_t *draws,       \
                                     uint16_t *values);                                                         \
    void hqk_state_decode_bf16_##isa(const uint16_t *values, size_t n, float *x);                               \
    void hqk_state_encode_int8_##isa(const float *x, size_t n, size_t first_group, const uint32_t *draws,       \
                                     int32_t is_signed, uint8_t *codes, float *maxima);                         \
    void hqk_state_decode_int8_##isa(const uint8_t *codes, const float *maxima, size_t n, int32_t is_signed,    \
                                     float *x);
HQK_EVERY_ISA(HQK_STATE)

/* ternary_pack: the 2-bit layout: quantizing, packing, unpacking, comparing, checking (csrc/README.md). */
#define HQK_TERNARY_PACK(isa)                                                                                       \
    void hqk_ternary_pack_##isa(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed);                    \
    void hqk_ternary_quantize_pack_##isa(const float *weights, size_t rows, size_t cols, const float *thresholds,   \
                                         size_t threshold_stride, uint8_t *packed);                                 \
    void hqk_ternary_quantize_pack_sum_##isa(const float *weights, size_t rows, size_t cols,                        \
                                             const float *thresholds, size_t threshold_stride, uint8_t *packed,     \
                                             double *kept);                                                         \
    void hqk_ternary_unpack_##isa(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits);                  \
    void hqk_ternary_count_changed_##isa(const uint8_t *a, const uint8_t *b, size_t bytes, size_t *changed);        \
    void hqk_ternary_count_nonzero_##isa(const uint8_t *packed, size_t bytes, size_t *nonzero);                     \
    void hqk_ternary_find_invalid_##isa(const uint8_t *packed, size_t bytes, size_t *first);
HQK_EVERY_ISA(HQK_TERNARY_PACK)

/* ternary: int8 activations times ternary weights in the 2-bit layout (csrc/README.md). */
#define HQK_TERNARY(isa)                                                                                         \
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
    void hqk_ternary_matmul_##isa(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,              \
                                  size_t x_stride, size_t tokens, const float *x_scales, const int32_t *x_sums,  \
                                  const float *weight_scales, size_t weight_scale_stride, float *y,              \
                                  size_t y_stride);                                                              \
    void hqk_ternary_matmul_i32_##isa(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,          \
                                      size_t x_stride, size_t tokens, const int32_t *x_sums, int32_t *y,         \
                                      size_t y_stride);                                                          \
    void hqk_ternary_matmul_transposed_##isa(const uint8_t *packed, size_t rows, size_t cols, size_t first_col,  \
                                             size_t outputs, const int8_t *x, size_t x_stride, size_t tokens,    \
                                             const float *x_scales, const int32_t *x_sums, float *y,             \
                                             size_t y_stride);
HQK_EVERY_ISA(HQK_TERNARY)

/* matvec: one token of int8 activations times ternary weights, straight from a packed layout (csrc/README.md). */
#define HQK_MATVEC(isa)                                                                                        \
    void hqk_ternary_matvec_##isa(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,            \
                                  float x_scale, int32_t x_sum, const float *weight_scales,                    \
                                  size_t weight_scale_stride, float *y);                                       \
    void hqk_ternary_matvec_i32_##isa(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,        \
                                      int32_t x_sum, int32_t *y);                                              \
    void hqk_pack5_matvec_##isa(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,              \
                                float x_scale, int32_t x_sum, const float *weight_scales,                      \
                                size_t weight_scale_stride, float *y);                                         \
    void hqk_pack5_matvec_i32_##isa(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x,          \
                                    int32_t x_sum, int32_t *y);
HQK_EVERY_ISA(HQK_MATVEC)

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
                                               int8_t *values);                                                      \
    void hqk_gradient_maxima_##isa(const float *x, size_t rows, size_t width, const float *row_factors,              \
                                   const float *column_factors, float *row_maxima, float *column_maxima);            \
    void hqk_quantize_gradient_##isa(const float *x, size_t rows, size_t width, size_t stride, size_t first_group,   \
                                     const float *row_factors, const float *column_factors, const float *row_scales, \
                                     const float *column_scales, const uint32_t *draws, int8_t *by_row,              \
                                     int8_t *by_column, int32_t *sums);
HQK_EVERY_ISA(HQK_ACTIVATION_QUANT)

/* five_level: {-2, .., 2} in 3 bits. `limits`: the largest magnitude of level 0 and of level 1, for all rows or each. */
#define HQK_FIVE_LEVEL(isa)                                                                                       \
    void hqk_five_level_quantize_pack_##isa(const float *weights, size_t rows, size_t cols, const float *limits,  \
                                            size_t limit_stride, uint8_t *packed);                                \
    void hqk_five_level_pack_##isa(const int8_t *levels, size_t rows, size_t cols, uint8_t *packed);              \
    void hqk_five_level_unpack_##isa(const uint8_t *packed, size_t rows, size_t cols, int8_t *levels);            \
    void hqk_five_level_find_invalid_##isa(const uint8_t *packed, size_t steps, size_t *first);
HQK_EVERY_ISA(HQK_FIVE_LEVEL)

/* gguf_ternary: GGUF's blocks of 256 ternary values, TQ1_0 (54 bytes) and TQ2_0 (66 bytes). */
#define HQK_GGUF_TERNARY(isa)                                                                                       \
    void hqk_tq1_0_quantize_##isa(const float *x, size_t blocks, uint8_t *out);                                     \
    void hqk_tq2_0_quantize_##isa(const float *x, size_t blocks, uint8_t *out);                                     \
    void hqk_tq1_0_pack_##isa(const int8_t *trits, const float *scales, size_t scale_stride, size_t blocks,         \
                              uint8_t *out);                                                                        \
    void hqk_tq2_0_pack_##isa(const int8_t *trits, const float *scales, size_t scale_stride, size_t blocks,         \
                              uint8_t *out);                                                                        \
    void hqk_tq1_0_unpack_##isa(const uint8_t *in, size_t blocks, int8_t *trits, float *scales);                    \
    void hqk_tq2_0_unpack_##isa(const uint8_t *in, size_t blocks, int8_t *trits, float *scales);                    \
    void hqk_tq1_0_dequantize_##isa(const uint8_t *in, size_t blocks, float *y);                                    \
    void hqk_tq2_0_dequantize_##isa(const uint8_t *in, size_t blocks, float *y);
HQK_EVERY_ISA(HQK_GGUF_TERNARY)

/* q8_0: one token times int8 weights in GGUF's blocks of 32 (csrc/README.md). */
#define HQK_Q8_0(isa)                                                                                             \
    void hqk_q8_0_matvec_##isa(const uint8_t *blocks, size_t rows, size_t cols, const int8_t *x,                  \
                               const float *x_scales, float *y);
HQK_EVERY_ISA(HQK_Q8_0)

/* softmax: cross entropy, row by row. */
#define HQK_SOFTMAX(isa)                                                                                          \
    void hqk_cross_entropy_rows_##isa(float *logits, size_t rows, size_t vocabulary, const uint32_t *targets,     \
                                      float gradient_scale, float *losses);                                       \
    void hqk_cross_entropy_losses_rows_##isa(const float *logits, size_t rows, size_t vocabulary,                 \
                                             const uint32_t *targets, float *losses);
HQK_EVERY_ISA(HQK_SOFTMAX)

/* attention: one head, forward and backward. */
#define HQK_ATTENTION_QUERIES 24 /* queries taken together */
typedef struct {
    size_t queries, keys, head_dim;
    size_t first;  /* position of the first query; key j is at position j */
    size_t window; /* positions a query sees, itself included, where causal */
    int causal;    /* whether a query sees no key behind its own position */
    float scale;
    size_t q_stride, k_stride, v_stride, y_stride;
    uint32_t drop_below;  /* draws below it drop a probability; 0: none is drawn */
    float keep_factor;    /* of the probabilities that stay */
    uint32_t drop_key[2], drop_tensor, drop_step;
    uint32_t drop_row;    /* that of the first query */
} hqk_attention_shape;
#define HQK_ATTENTION(isa)                                                                                        \
    void hqk_attention_forward_##isa(const hqk_attention_shape *shape, const float *q, const float *k,            \
                                     const float *v, float *scratch, float *y);                                   \
    void hqk_attention_backward_##isa(const hqk_attention_shape *shape, const float *q, const float *k,           \
                                      const float *v, const float *dy, float *scratch, float *dq, float *dk,      \
                                      float *dv);
HQK_EVERY_ISA(HQK_ATTENTION)

/* activation: exp.h's functions and the feed-forward nonlinearities, forward and backward. */
#define HQK_ACTIVATION(isa)                                                                                 \
    void hqk_exp_values_##isa(const float *x, size_t n, float *y);                                          \
    void hqk_log_values_##isa(const float *x, size_t n, float *y);                                          \
    void hqk_tanh_values_##isa(const float *x, size_t n, float *y);                                         \
    void hqk_sigmoid_values_##isa(const float *x, size_t n, float *y);                                      \
    void hqk_gelu_##isa(const float *x, size_t n, float *y);                                                \
    void hqk_gelu_backward_##isa(const float *x, const float *dy, size_t n, float *dx);                     \
    void hqk_gelu_exact_##isa(const float *x, size_t n, float *y);                                          \
    void hqk_gelu_exact_backward_##isa(const float *x, const float *dy, size_t n, float *dx);               \
    void hqk_silu_gate_##isa(const float *gate, const float *up, size_t n, float *y);                       \
    void hqk_silu_gate_backward_##isa(const float *gate, const float *up, const float *dy, size_t n,        \
                                      float *dgate, float *dup);                                            \
    void hqk_relu2_##isa(const float *x, size_t n, float *y);                                               \
    void hqk_relu2_backward_##isa(const float *x, const float *dy, size_t n, float *dx);                    \
    void hqk_relu2_gate_##isa(const float *gate, const float *up, size_t n, float *y);                      \
    void hqk_relu2_gate_backward_##isa(const float *gate, const float *up, const float *dy, size_t n,       \
                                       float *dgate, float *dup);
HQK_EVERY_ISA(HQK_ACTIVATION)

/* row_norm: RMSNorm (with fused int8 quantization) and LayerNorm, forward and backward. */
#define HQK_ROW_NORM(isa)                                                                                          \
    void hqk_rms_norm_rows_##isa(const float *x, const float *gain, size_t rows, size_t width, float eps,          \
                                 float *y, float *inverses);                                                       \
    void hqk_rms_norm_quantize_rows_##isa(const float *x, const float *gain, size_t rows, size_t width, float eps, \
                                          int8_t *values, float *scales, int32_t *sums, float *inverses);          \
    void hqk_rms_norm_backward_rows_##isa(const float *x, const float *gain, const float *inverses,                \
                                          const float *dy, size_t rows, size_t width, float *dx,                   \
                                          float *gain_gradient);                                                   \
    void hqk_layer_norm_rows_##isa(const float *x, const float *gain, const float *bias, size_t rows,              \
                                   size_t width, float eps, float *y, float *statistics);                          \
    void hqk_layer_norm_backward_rows_##isa(const float *x, const float *gain, const float *statistics,            \
                                            const float *dy, size_t rows, size_t width, float *dx,                 \
                                            float *gain_gradient, float *bias_gradient);
HQK_EVERY_ISA(HQK_ROW_NORM)

/* dropout: `first` is the stream position of x[0], a multiple of 4. */
#define HQK_DROPOUT(isa)                                                                                \
    void hqk_dropout_##isa(const float *x, size_t n, const uint32_t *key, uint32_t tensor,              \
                           uint32_t step, uint64_t first, uint32_t threshold, float factor, float *y);
HQK_EVERY_ISA(HQK_DROPOUT)

/* int8: products that sum over tokens. Panels hold one i32 a column, then the packed values; geometry = left panel
 * width, right panel width, token step, bytes a value. */
#define HQK_INT8(isa)                                                                                                 \
    void hqk_int8_geometry_##isa(size_t *geometry);                                                                   \
    void hqk_int8_pack_a_##isa(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel);           \
    void hqk_int8_pack_b_##isa(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel);           \
    void hqk_int8_pack_a_rows_##isa(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels);     \
    void hqk_int8_pack_b_rows_##isa(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panels);     \
    void hqk_int8_product_##isa(const uint8_t *a_panel, const uint8_t *b_panel, size_t tokens, size_t rows,           \
                                size_t cols, const float *scales, int accumulate, float *c, size_t c_stride);
HQK_EVERY_ISA(HQK_INT8)

/* bf16: the same with a left factor rounded to bf16. geometry = left panel width, right panel width, bytes of a column for two
 * tokens. */
#define HQK_BF16(isa)                                                                                                 \
    void hqk_bf16_geometry_##isa(size_t *geometry);                                                                   \
    void hqk_bf16_pack_a_##isa(const float *x, size_t tokens, size_t stride, const float *factors, size_t cols,       \
                               uint8_t *panel);                                                                       \
    void hqk_bf16_pack_b_##isa(const int8_t *x, size_t tokens, size_t stride, size_t cols, uint8_t *panel);           \
    void hqk_bf16_product_##isa(const uint8_t *a_panel, const uint8_t *b_panel, size_t tokens, size_t rows,           \
                                size_t cols, int32_t accumulate, float *c, size_t c_stride);
HQK_EVERY_ISA(HQK_BF16)

/* kmeans: nearest centroids, bounds that spare their search, and sums of the points of each cluster. */
typedef struct {
    const float *centroids; /* [k, dim] */
    size_t k, dim;
    size_t groups;           /* of neighbours in number, 1 to 64 and at most k */
    const float *packed;     /* the rest as kmeans_pack left it */
    const float *half_norms; /* [k] */
    double max_norm;
} hqk_kmeans_centroids;
typedef struct {
    float *upper;             /* [n] distance to the own centroid, at most */
    float *lower;             /* [n] distance to every other centroid, at least */
    float *group_lower;       /* [n, groups] the same for the centroids of a group; not read if there is one group */
    const float *moved;       /* [k] how far each centroid has moved so far */
    const float *group_moved; /* [groups] the sum of the farthest moves of a group's centroids */
    float most_moved;         /* the same for all centroids */
} hqk_kmeans_bounds;
#define HQK_KMEANS(isa)                                                                                               \
    void hqk_kmeans_pack_##isa(const float *centroids, size_t k, size_t dim, size_t groups, float *packed,            \
                               float *half_norms, double *max_norm);                                                  \
    void hqk_kmeans_norms_##isa(const float *points, size_t n, size_t dim, float *norms);                             \
    void hqk_kmeans_assign_##isa(const float *points, const float *norms, const uint32_t *rows, size_t n,             \
                                 const hqk_kmeans_centroids *to, const hqk_kmeans_bounds *bounds, float *scratch,     \
                                 uint32_t *labels);                                                                   \
    void hqk_kmeans_filter_##isa(const float *points, size_t n, const hqk_kmeans_centroids *to,                       \
                                 const hqk_kmeans_bounds *bounds, const uint32_t *labels, int measure,                \
                                 uint32_t *rows, size_t *count);                                                      \
    void hqk_kmeans_distances_##isa(const float *points, size_t n, size_t dim, const float *centroids,                \
                                    const uint32_t *labels, float *distances);                                        \
    void hqk_kmeans_nearer_##isa(const float *points, size_t n, size_t dim, const float *centroid, uint32_t number,   \
                                 const float *reach, uint32_t *labels, float *distances);                             \
    void hqk_kmeans_move_##isa(const float *points, size_t n, size_t dim, const uint32_t *before,                     \
                               const uint32_t *after, double *sums, int64_t *counts, uint8_t *touched);
HQK_EVERY_ISA(HQK_KMEANS)

/* pack5: ternary weights at 1.6 bits, five trits a byte (csrc/README.md, "five trits a byte"). */
#define HQK_PACK5(isa)                                                                                                \
    void hqk_pack5_##isa(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed);                             \
    void hqk_unpack5_##isa(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits);
HQK_EVERY_ISA(HQK_PACK5)

/* ceiling: what a core can do at best, for benchmarks. */
#define HQK_CEILING(isa)                                                                \
    void hqk_ceiling_int8_##isa(size_t rounds, uint64_t *operations);                   \
    void hqk_ceiling_int8_widened_##isa(size_t rounds, uint64_t *operations);           \
    void hqk_ceiling_f32_##isa(size_t rounds, uint64_t *operations);                    \
    void hqk_ceiling_read_##isa(const uint8_t *bytes, size_t n, uint64_t *sum);         \
    void hqk_ceiling_update_##isa(uint8_t *bytes, size_t n);
HQK_EVERY_ISA(HQK_CEILING)

#endif
