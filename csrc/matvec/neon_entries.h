/* The entry points of one token. The file that includes this has defined NAME(kernel) as the kernel's full name and
 * two_bits and five_trits, which multiply a whole matrix. */
void NAME(ternary_matvec)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, float x_scale,
                          int32_t x_sum, const float *weight_scales, size_t weight_scale_stride, float *y) {
    hqk_target to = {&x_scale, &x_sum, weight_scales, weight_scale_stride, y, 0, rows};
    two_bits(packed, cols, x, &to);
}

void NAME(ternary_matvec_i32)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, int32_t x_sum,
                              int32_t *y) {
    hqk_target to = {NULL, &x_sum, NULL, 0, y, 0, rows};
    two_bits(packed, cols, x, &to);
}

void NAME(pack5_matvec)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, float x_scale,
                        int32_t x_sum, const float *weight_scales, size_t weight_scale_stride, float *y) {
    hqk_target to = {&x_scale, &x_sum, weight_scales, weight_scale_stride, y, 0, rows};
    five_trits(packed, cols, x, &to);
}

void NAME(pack5_matvec_i32)(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, int32_t x_sum,
                            int32_t *y) {
    hqk_target to = {NULL, &x_sum, NULL, 0, y, 0, rows};
    five_trits(packed, cols, x, &to);
}
