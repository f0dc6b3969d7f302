/* Sums, norms and clipping, the same bits as on a CPU: blocks of 65,536 elements, in each 16 lanes in f64 (element i in lane i
 * mod 16) added as one fixed tree, blocks added in order. Four threads have the 16 lanes of a block, four each: one 16-byte load
 * a step. A large sum has enough blocks to fill a GPU; a small one is short anyway. */
#include "device.cuh"

constexpr int SUM_THREADS = 64, SUM_BLOCK = 1 << 16, LANES = 16;

struct Magnitude {
    __device__ __forceinline__ double operator()(float v) const { return (double)fabsf(v); }
};
struct Square {
    __device__ __forceinline__ double operator()(float v) const { return (double)v * (double)v; }
};

/* Adds value `i` of a thread's four. */
template <typename Of>
DEVICE void block_sums(const float *__restrict__ x, size_t n, double *__restrict__ sums, Of of) {
    constexpr int PER_BLOCK = SUM_THREADS / 4;
    size_t blocks = ceil_div(n, SUM_BLOCK);
    int quad = threadIdx.x % 4;
    bool aligned = is_aligned(x, 16);
    for (size_t first = (size_t)blockIdx.x * PER_BLOCK; first < blocks; first += (size_t)gridDim.x * PER_BLOCK) {
        size_t block = first + threadIdx.x / 4;
        size_t start = block * SUM_BLOCK, count = block < blocks ? (n - start < SUM_BLOCK ? n - start : SUM_BLOCK) : 0;
        const float *from = x + start + 4 * quad;
        double lane[4] = {0.0, 0.0, 0.0, 0.0};
        int steps = (int)(count / LANES);
        if (aligned) {
#pragma unroll 8
            for (int i = 0; i < steps; i++) {
                float4 v = *(const float4 *)(from + (size_t)i * LANES);
                lane[0] += of(v.x), lane[1] += of(v.y), lane[2] += of(v.z), lane[3] += of(v.w);
            }
        } else {
            for (int i = 0; i < steps; i++)
#pragma unroll
                for (int l = 0; l < 4; l++) lane[l] += of(from[(size_t)i * LANES + l]);
        }
#pragma unroll
        for (int l = 0; l < 4; l++)
            if ((size_t)steps * LANES + 4 * quad + l < count) lane[l] += of(from[(size_t)steps * LANES + l]);
        /* Lanes l and l + 8 are two threads apart, l and l + 4 one: the tree of lanes.h. */
#pragma unroll
        for (int l = 0; l < 4; l++) {
            lane[l] += __shfl_xor_sync(ALL_LANES, lane[l], 2);
            lane[l] += __shfl_xor_sync(ALL_LANES, lane[l], 1);
        }
        if (quad == 0 && block < blocks) sums[block] = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    }
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    hqk_block_abs_sums_cuda(const float *x, size_t n, double *sums) {
    block_sums(x, n, sums, Magnitude());
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    hqk_block_square_sums_cuda(const float *x, size_t n, double *sums) {
    block_sums(x, n, sums, Square());
}

/* total = the sums added in order, by one warp: loads run 32 ahead of the chain of additions. */
extern "C" __global__ void __launch_bounds__(32) hqk_sum_in_order_cuda(const double *__restrict__ sums, size_t count, double *total) {
    double sum = 0.0;
    if (blockIdx.x != 0) return;
    for (size_t first = 0; first < count; first += 32) {
        double own = first + threadIdx.x < count ? sums[first + threadIdx.x] : 0.0;
        int here = count - first < 32 ? (int)(count - first) : 32;
        for (int i = 0; i < here; i++) sum += __shfl_sync(ALL_LANES, own, i);
    }
    if (threadIdx.x == 0) *total = sum;
}

constexpr int SCALE_THREADS = 256;

DEVICE void scale(float *x, size_t n, float factor) {
    size_t threads = (size_t)gridDim.x * SCALE_THREADS, thread = (size_t)blockIdx.x * SCALE_THREADS + threadIdx.x;
    size_t quads = is_aligned(x, 16) ? n / 4 : 0;
#pragma unroll 4
    for (size_t i = thread; i < quads; i += threads) {
        float4 v = ((const float4 *)x)[i];
        v.x *= factor, v.y *= factor, v.z *= factor, v.w *= factor;
        ((float4 *)x)[i] = v;
    }
    for (size_t i = 4 * quads + thread; i < n; i += threads) x[i] *= factor;
}

extern "C" __global__ void __launch_bounds__(SCALE_THREADS) hqk_scale_cuda(float *x, size_t n, float factor) {
    scale(x, n, factor);
}

/* Scales x down to the norm `max` if the root of `square_sum` is finite and larger: no word to the host in between. */
extern "C" __global__ void __launch_bounds__(SCALE_THREADS)
    hqk_clip_norm_cuda(float *x, size_t n, const double *square_sum, double max) {
    double norm = sqrt(*square_sum);
    if (norm > max && norm <= 1.7976931348623157e308) scale(x, n, (float)(max / norm));
}
