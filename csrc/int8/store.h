/* The last step of every int8 product: exact sums to scaled floats, the same arithmetic on every ISA. */
#ifndef HQK_INT8_STORE_H
#define HQK_INT8_STORE_H

#include <stddef.h>
#include <stdint.h>

static inline void hqk_int8_store(const int32_t *sums, size_t sums_stride, size_t rows, size_t cols,
                                  const float *scales, int accumulate, float *c, size_t c_stride) {
    for (size_t i = 0; i < rows; i++, c += c_stride, sums += sums_stride) {
        float scale = scales[i];
        if (accumulate)
            for (size_t j = 0; j < cols; j++) c[j] += (float)sums[j] * scale;
        else
            for (size_t j = 0; j < cols; j++) c[j] = (float)sums[j] * scale;
    }
}

#endif
