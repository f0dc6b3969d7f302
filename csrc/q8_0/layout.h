/* ggml's Q8_0: a half-precision scale, then 32 int8 values. */
#define BLOCK 32
#define BLOCK_BYTES 34
#define SCALE_BYTES 2

#define MATVEC(name)                                                                                        \
    void name(const uint8_t *blocks, size_t rows, size_t cols, const int8_t *x, const float *x_scales,      \
              float *y) {                                                                                   \
        for (size_t r = 0; r < rows; r++)                                                                   \
            y[r] = dot_row(blocks + r * (cols / BLOCK) * BLOCK_BYTES, cols / BLOCK, x, x_scales);           \
    }
