/* How the products of one token walk through a packed matrix: block by block, and within a block by runs of steps, so
 * that an ISA whose registers do not hold all 64 rows passes several times over bytes that are still in the first
 * cache. The whole matrix is one stream.
 *
 * The file that includes this has defined `vector` and its functions (ops256.h, ops512.h) and, for each format,
 *   <FORMAT>_VECTORS     registers of rows of one pass,
 *   <FORMAT>_STEPS       steps of one run, at most,
 *   <format>_steps(first byte, x, steps, sums)  adds the products of `steps` steps to `sums`,
 * and NAME(kernel), the kernel's full name. */

#define BLOCK_VECTORS (HQK_BLOCK_ROWS / LANES)

#define WALK(steps_of, step_cols, run_steps, vectors)                                                                \
    int8_t tail[step_cols] = {0};                                                                                     \
    size_t whole = cols / (step_cols) * (step_cols);                                                                  \
    memcpy(tail, x + whole, cols - whole);                                                                            \
    for (size_t r = 0; r < to->outputs; r += HQK_BLOCK_ROWS) {                                                        \
        vector sums[BLOCK_VECTORS];                                                                                   \
        HQK_UNROLL(8) for (int v = 0; v < BLOCK_VECTORS; v++) sums[v] = zero();                                       \
        for (size_t c = 0, steps; c < cols; c += steps * (step_cols), packed += steps * HQK_STEP_BYTES) {             \
            steps = c < whole ? hqk_min((whole - c) / (step_cols), run_steps) : 1;                                    \
            const int8_t *from = c < whole ? x + c : tail;                                                            \
            for (int v = 0; v < BLOCK_VECTORS; v += vectors) steps_of(packed + 4 * LANES * v, from, steps, sums + v); \
        }                                                                                                             \
        HQK_UNROLL(8) for (int v = 0; v < BLOCK_VECTORS; v++) store_sums(to, 0, r + LANES * v, sums[v]);              \
    }

static void two_bits(const uint8_t *packed, size_t cols, const int8_t *x, const target *to) {
    WALK(two_bits_steps, HQK_STEP_COLS, TWO_BITS_STEPS, TWO_BITS_VECTORS)
}

static void five_trits(const uint8_t *packed, size_t cols, const int8_t *x, const target *to) {
    WALK(five_trits_steps, HQK_FIVE_TRITS_COLS, FIVE_TRITS_STEPS, FIVE_TRITS_VECTORS)
}

void NAME(ternary_matvec)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, float x_scale,
                          int32_t x_sum, const float *weight_scales, size_t weight_scale_stride, float *y) {
    target to = {&x_scale, &x_sum, weight_scales, weight_scale_stride, y, NULL, 0, rows};
    two_bits(packed, cols, x, &to);
}

void NAME(ternary_matvec_i32)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, int32_t x_sum,
                              int32_t *y) {
    target to = {NULL, &x_sum, NULL, 0, NULL, y, 0, rows};
    two_bits(packed, cols, x, &to);
}

void NAME(pack5_matvec)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, float x_scale,
                        int32_t x_sum, const float *weight_scales, size_t weight_scale_stride, float *y) {
    target to = {&x_scale, &x_sum, weight_scales, weight_scale_stride, y, NULL, 0, rows};
    five_trits(packed, cols, x, &to);
}

void NAME(pack5_matvec_i32)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, int32_t x_sum,
                            int32_t *y) {
    target to = {NULL, &x_sum, NULL, 0, NULL, y, 0, rows};
    five_trits(packed, cols, x, &to);
}
