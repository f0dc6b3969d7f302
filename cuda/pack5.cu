/* Floats or trits to five trits a byte and back. A thread makes the word of one row and step; the 64 threads of a step write its
 * 256 bytes side by side, and what they read of each row their neighbours' steps find in the cache. */
#include "layout.cuh"

constexpr int PACK5_THREADS = 256, DIGITS = 5;

/* A byte is ceil(256 v / 243) for the digits' number v; 256 v + 242 is below 2^16, where the product is the division. */
DEVICE uint32_t five_trits(uint32_t v) { return (256 * v + 242) * 69043u >> 24; }

/* `digit(row, col)`: 0, 1 or 2 inside the matrix. */
template <typename Digit>
DEVICE void pack5(size_t rows, size_t cols, uint8_t *__restrict__ packed, Digit digit) {
    size_t steps = ceil_div(cols, STEP_COLS_FIVE), words = ceil_div(rows, BLOCK_ROWS) * steps * BLOCK_ROWS;
    size_t threads = (size_t)gridDim.x * PACK5_THREADS;
    for (size_t item = (size_t)blockIdx.x * PACK5_THREADS + threadIdx.x; item < words; item += threads) {
        size_t step = item / BLOCK_ROWS % steps, row = item / BLOCK_ROWS / steps * BLOCK_ROWS + item % BLOCK_ROWS;
        uint32_t word = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t v = 0;
#pragma unroll
            for (int f = 0; f < DIGITS; f++) {
                size_t col = step * STEP_COLS_FIVE + 4 * f + j;
                v = 3 * v + (row < rows && col < cols ? digit(row, col) : 1);
            }
            word |= five_trits(v) << 8 * j;
        }
        ((uint32_t *)packed)[item] = word;
    }
}

extern "C" __global__ void __launch_bounds__(PACK5_THREADS)
    hqk_pack5_cuda(const int8_t *__restrict__ trits, size_t rows, size_t cols, uint8_t *packed) {
    pack5(rows, cols, packed, [=](size_t row, size_t col) {
        int8_t trit = trits[row * cols + col];
        return (uint32_t)(1 + (trit > 0) - (trit < 0));
    });
}

extern "C" __global__ void __launch_bounds__(PACK5_THREADS)
    hqk_quantize_pack5_cuda(const float *__restrict__ weights, size_t rows, size_t cols,
                            const float *__restrict__ thresholds, size_t threshold_stride, uint8_t *packed) {
    pack5(rows, cols, packed, [=](size_t row, size_t col) {
        float weight = weights[row * cols + col], threshold = thresholds[row * threshold_stride];
        return (uint32_t)(1 + (weight > threshold) - (weight < -threshold));
    });
}

extern "C" __global__ void __launch_bounds__(PACK5_THREADS)
    hqk_unpack5_cuda(const uint8_t *__restrict__ packed, size_t rows, size_t cols, int8_t *__restrict__ trits) {
    size_t steps = ceil_div(cols, STEP_COLS_FIVE), words = ceil_div(rows, BLOCK_ROWS) * steps * BLOCK_ROWS;
    size_t threads = (size_t)gridDim.x * PACK5_THREADS;
    for (size_t item = (size_t)blockIdx.x * PACK5_THREADS + threadIdx.x; item < words; item += threads) {
        size_t step = item / BLOCK_ROWS % steps, row = item / BLOCK_ROWS / steps * BLOCK_ROWS + item % BLOCK_ROWS;
        if (row >= rows) continue;
        uint32_t word = ((const uint32_t *)packed)[item];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t fraction = word >> 8 * j & 255;
#pragma unroll
            for (int f = 0; f < DIGITS; f++) {
                size_t col = step * STEP_COLS_FIVE + 4 * f + j;
                fraction *= 3;
                if (col < cols) trits[row * cols + col] = (int8_t)((int32_t)(fraction >> 8) - 1);
                fraction &= 255;
            }
        }
    }
}
