/* Float rows to int8, one scale a row, a block a row: the largest magnitude is found on bit patterns, whose order is that of the
 * magnitudes and which put NaN and infinity on top; the second pass finds the row in the cache. */
#include "device.cuh"

constexpr int QUANTIZE_THREADS = 256;
constexpr int32_t INFINITY_BITS = 0x7F800000;

/* `join` of all threads' values, in every thread; uses `parts` (one a warp). */
template <typename Join>
DEVICE int32_t join_block(int32_t value, int32_t *parts, Join join) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_xor_sync(ALL_LANES, value, step));
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = parts[0];
    for (int warp = 1; warp < QUANTIZE_THREADS / 32; warp++) value = join(value, parts[warp]);
    __syncthreads();
    return value;
}

/* Half to even by an addition: the integer is then in the low bits. */
DEVICE int32_t round_even(float v) { return __float_as_int(v + 12582912.0f) - 0x4B400000; }

DEVICE int32_t magnitude_bits(float v) { return __float_as_int(v) & 0x7FFFFFFF; }

DEVICE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

extern "C" __global__ void __launch_bounds__(QUANTIZE_THREADS)
    hqk_quantize_rows_cuda(const float *__restrict__ x, size_t rows, size_t width, int8_t *__restrict__ values,
                           float *__restrict__ scales, int32_t *__restrict__ sums) {
    __shared__ int32_t parts[QUANTIZE_THREADS / 32];
    size_t quads = width % 4 == 0 && is_aligned(x, 16) && is_aligned(values, 4) ? width / 4 : 0;
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *from = x + row * width;
        int8_t *to = values + row * width;
        int32_t max = 0, sum = 0;
        for (size_t i = threadIdx.x; i < quads; i += QUANTIZE_THREADS) {
            float4 v = ((const float4 *)from)[i];
            max = larger(max, larger(larger(magnitude_bits(v.x), magnitude_bits(v.y)),
                                     larger(magnitude_bits(v.z), magnitude_bits(v.w))));
        }
        for (size_t i = 4 * quads + threadIdx.x; i < width; i += QUANTIZE_THREADS)
            max = larger(max, magnitude_bits(from[i]));
        max = join_block(max, parts, [](int32_t a, int32_t b) { return larger(a, b); });

        bool finite = max < INFINITY_BITS;
        float a = __int_as_float(max);
        a = a > 1e-5f ? a : 1e-5f;
        float factor = finite ? 127.0f / a : 0.0f;
        auto quantize = [=](float v) { return finite ? round_even(v * factor) : 0; };
        for (size_t i = threadIdx.x; i < quads; i += QUANTIZE_THREADS) {
            float4 v = ((const float4 *)from)[i];
            int32_t q[4] = {quantize(v.x), quantize(v.y), quantize(v.z), quantize(v.w)};
            sum += q[0] + q[1] + q[2] + q[3];
            ((uint32_t *)to)[i] = (q[0] & 255) | (q[1] & 255) << 8 | (q[2] & 255) << 16 | (uint32_t)q[3] << 24;
        }
        for (size_t i = 4 * quads + threadIdx.x; i < width; i += QUANTIZE_THREADS) {
            int32_t q = quantize(from[i]);
            sum += q;
            to[i] = (int8_t)q;
        }
        sum = join_block(sum, parts, [](int32_t a, int32_t b) { return a + b; });
        if (threadIdx.x == 0) scales[row] = finite ? a / 127.0f : __int_as_float(0x7FC00000), sums[row] = sum;
    }
}
