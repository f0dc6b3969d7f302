/* Kernels over rows: activation_quant, newton_schulz, cross entropy, attention, row_norm. */
#include "harness.h"

static void quantization(size_t rows, size_t width) {
    float *x = floats(rows * width), *scales = floats(rows), *factors = floats(rows);
    float *column_scales = floats(width);
    int8_t *values = bytes(rows * width);
    int32_t *sums = NEW(int32_t, rows);
    uint32_t *draws = NEW(uint32_t, 4);
    for (int i = 0; i < 4; i++) draws[i] = draw();
    RUN(quantize_rows, x, rows, width, values, scales, sums);
    RUN(quantize_rows_stochastic, x, rows, width, 1000, draws, values, scales, sums);
    RUN(column_scales, x, rows, width, width, factors, column_scales);
    RUN(quantize_columns_stochastic, x, rows, width, 1000, factors, column_scales, draws, values);
    float *column_factors = floats(width), *row_maxima = floats(rows), *column_maxima = floats(width);
    RUN(gradient_maxima, x, rows, width, factors, column_factors, row_maxima, column_maxima);
    RUN(quantize_gradient, x, rows, width, width, 1000, factors, column_factors, scales, column_scales, draws, values,
        bytes(rows * width), sums);
    free_all();
    if (!rows) return;
    /* A window of columns: the last row ends with the window. */
    size_t stride = width + 5;
    float *window = floats((rows - 1) * stride + width);
    factors = floats(rows), column_scales = floats(width);
    RUN(column_scales, window, rows, width, stride, factors, column_scales);
    draws = NEW(uint32_t, 4);
    for (int i = 0; i < 4; i++) draws[i] = draw();
    RUN(quantize_gradient, window, rows, width, stride, 1000, factors, floats(width), floats(rows), column_scales, draws,
        bytes(rows * width), bytes(rows * width), NEW(int32_t, rows));
    free_all();
}

static void newton_schulz(size_t rows, size_t width) {
    float *x = floats(rows * width), *sums = floats(rows * width), *scales = floats(width), *of_x = floats(width);
    RUN(newton_schulz_add_rows, sums, rows, width, scales, of_x, x);
    RUN(newton_schulz_round_columns, x, rows, width, scales, bytes(rows * width));
    free_all();
    if (width > 80) return;
    float *a = floats(width * width), *a_diagonal = floats(width), *b = floats(width * width), *b_diagonal = floats(width);
    sums = floats(width * width), scales = floats(width);
    RUN(newton_schulz_finish, scales, rows ? a : NULL, a_diagonal, b, b_diagonal, 0.5f, -1.0f, 2.0f, width, sums, floats(width));
    free_all();
}

static void cross_entropy(size_t rows, size_t width) {
    if (!width) return;
    float *logits = floats(rows * width), *losses = floats(rows);
    uint32_t *targets = NEW(uint32_t, rows);
    for (size_t r = 0; r < rows; r++) targets[r] = draw() % width;
    RUN(cross_entropy_losses_rows, logits, rows, width, targets, losses);
    RUN(cross_entropy_rows, logits, rows, width, targets, 0.1f, losses);
    free_all();
}

/* `rows` rows of `width`, `stride` apart; the last one ends with its last element. */
static float *spaced(size_t rows, size_t width, size_t stride) { return floats(rows ? (rows - 1) * stride + width : 0); }

static void attention(size_t queries, size_t keys, size_t head_dim, int causal, uint32_t drop_below) {
    size_t first = keys > queries ? keys - queries : 0, scratch = (head_dim + 24) * round_up(keys, 16);
    hqk_attention_shape shape = {queries, keys, head_dim, first, 5, causal, 0.5f,
                                 head_dim + 1, head_dim + 2, head_dim + 3, head_dim + 4,
                                 drop_below, 2.0f, {1, 2}, 3, 4, 5};
    float *q = spaced(queries, head_dim, shape.q_stride), *k = spaced(keys, head_dim, shape.k_stride);
    float *v = spaced(keys, head_dim, shape.v_stride), *y = spaced(queries, head_dim, shape.y_stride);
    float *dq = floats(queries * head_dim), *dk = floats(keys * head_dim), *dv = floats(keys * head_dim);
    RUN(attention_forward, &shape, q, k, v, floats(scratch), y);
    RUN(attention_backward, &shape, q, k, v, y, floats(2 * scratch), dq, dk, dv);
    free_all();
}

static void norms(size_t rows, size_t width) {
    float *x = floats(rows * width), *y = floats(rows * width), *dx = floats(rows * width);
    float *gain = floats(width), *bias = floats(width), *gain_gradient = floats(width), *bias_gradient = floats(width);
    float *inverses = floats(rows), *statistics = floats(2 * rows), *scales = floats(rows);
    int8_t *values = bytes(rows * width);
    int32_t *sums = NEW(int32_t, rows);
    RUN(rms_norm_rows, x, gain, rows, width, 1e-5f, y, inverses);
    RUN(rms_norm_quantize_rows, x, gain, rows, width, 1e-5f, values, scales, sums, inverses);
    RUN(rms_norm_backward_rows, x, gain, inverses, y, rows, width, dx, gain_gradient);
    RUN(layer_norm_rows, x, gain, bias, rows, width, 1e-5f, y, statistics);
    RUN(layer_norm_backward_rows, x, gain, statistics, y, rows, width, dx, gain_gradient, bias_gradient);
    free_all();
}

void run_rows(void) {
    static const size_t sizes[] = {ODD_SIZES, 383, 1031};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t rows = 0; rows < 4; rows++) {
            quantization(rows, sizes[i]);
            newton_schulz(rows, sizes[i]);
            cross_entropy(rows, sizes[i]);
            norms(rows, sizes[i]);
        }
    static const size_t few[] = {0, 1, 2, 3, 15, 16, 17, 24, 25, 33};
    static const size_t head_dims[] = {1, 3, 8, 16, 17, 64};
    for (size_t queries = 0; queries < COUNT(few); queries++)
        for (size_t keys = 0; keys < COUNT(few); keys++)
            for (size_t d = 0; d < COUNT(head_dims); d++)
                for (int causal = 0; causal < 2; causal++)
                    attention(few[queries], few[keys], head_dims[d], causal, causal ? 1u << 30 : 0);
}
