/* The entry points of products.h. The file that includes this has defined NAME(kernel) as the kernel's full name. */
void NAME(panel_matmul)(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                        size_t tokens, const float *x_scales, const int32_t *x_sums, const float *weight_scales,
                        size_t weight_scale_stride, float *y, size_t y_stride) {
    target to = {x_scales, x_sums, weight_scales, weight_scale_stride, y, NULL, y_stride, outputs};
    multiply_all_panels(panels, k, x, x_stride, tokens, &to);
}

void NAME(panel_matmul_i32)(const uint8_t *panels, size_t outputs, size_t k, const int8_t *x, size_t x_stride,
                            size_t tokens, const int32_t *x_sums, int32_t *y, size_t y_stride) {
    target to = {NULL, x_sums, NULL, 0, NULL, y, y_stride, outputs};
    multiply_all_panels(panels, k, x, x_stride, tokens, &to);
}

void NAME(ternary_matmul)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, size_t x_stride,
                          size_t tokens, const float *x_scales, const int32_t *x_sums, const float *weight_scales,
                          size_t weight_scale_stride, float *y, size_t y_stride) {
    target to = {x_scales, x_sums, weight_scales, weight_scale_stride, y, NULL, y_stride, rows};
    multiply_all_packed(packed, cols, x, x_stride, tokens, &to);
}

void NAME(ternary_matmul_i32)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, size_t x_stride,
                              size_t tokens, const int32_t *x_sums, int32_t *y, size_t y_stride) {
    target to = {NULL, x_sums, NULL, 0, NULL, y, y_stride, rows};
    multiply_all_packed(packed, cols, x, x_stride, tokens, &to);
}
