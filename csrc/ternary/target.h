/* Where the sums of a product go. */
#ifndef HQK_TERNARY_TARGET_H
#define HQK_TERNARY_TARGET_H

#include <stddef.h>
#include <stdint.h>

/* `y_f32` scaled, or `y_i32` as they are; the other one is NULL. */
typedef struct {
    const float *x_scales;
    const int32_t *x_sums;
    const float *weight_scales;
    size_t weight_scale_stride;
    float *y_f32;
    int32_t *y_i32;
    size_t y_stride;
    size_t outputs;
} target;

#endif
