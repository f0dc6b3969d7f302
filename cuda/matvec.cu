/* One token times packed ternary weights. A warp reads two steps with one 128-bit load a lane: a lane owns four rows of a
 * block and every sixteenth step, so sums meet only at the end. Eight warps share the 64 rows of a block. */
#include "layout.cuh"

constexpr int MATVEC_THREADS = 256;
/* Loads in flight a lane. */
constexpr int MATVEC_UNROLL = 4;

struct TwoBits {
    static constexpr int COLS = STEP_COLS;
    uint32_t x[4];

    __device__ __forceinline__ void load(const int8_t *values, size_t step, size_t cols, bool aligned) {
        uint4 all = load_16(values, step * COLS, cols, aligned);
        x[0] = all.x, x[1] = all.y, x[2] = all.z, x[3] = all.w;
    }

    __device__ __forceinline__ int32_t dot(uint32_t word, int32_t sum) const {
#pragma unroll
        for (int f = 0; f < 4; f++) sum = dot4(field(word, f), x[f], sum);
        return sum;
    }
};

/* Bytes are fractions: times 3, the integer part is the next digit. Even and odd bytes apart, with room to carry. */
struct FiveTrits {
    static constexpr int COLS = STEP_COLS_FIVE;
    uint32_t x[5];

    __device__ __forceinline__ void load(const int8_t *values, size_t step, size_t cols, bool aligned) {
        size_t at = step * COLS;
        if (aligned && at + COLS <= cols) {
#pragma unroll
            for (int f = 0; f < 5; f++) x[f] = *(const uint32_t *)(values + at + 4 * f);
            return;
        }
#pragma unroll
        for (int f = 0; f < 5; f++) {
            x[f] = 0;
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (at + 4 * f + j < cols) x[f] |= (uint32_t)(uint8_t)values[at + 4 * f + j] << 8 * j;
        }
    }

    __device__ __forceinline__ int32_t dot(uint32_t word, int32_t sum) const {
        uint32_t even = word & 0x00FF00FF, odd = word >> 8 & 0x00FF00FF;
#pragma unroll
        for (int f = 0; f < 5; f++) {
            even *= 3, odd *= 3;
            sum = dot4((even >> 8 & 0x00030003) | (odd & 0x03000300), x[f], sum);
            even &= 0x00FF00FF, odd &= 0x00FF00FF;
        }
        return sum;
    }
};

template <typename Format>
DEVICE void matvec(const uint8_t *__restrict__ packed, size_t rows, size_t cols, const int8_t *__restrict__ x,
                   const Product &to) {
    constexpr int WARPS = MATVEC_THREADS / 32, STRIDE = 2 * WARPS;
    __shared__ int32_t parts[WARPS][BLOCK_ROWS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    size_t steps = ceil_div(cols, Format::COLS), blocks = ceil_div(rows, BLOCK_ROWS);
    bool aligned = is_aligned(x, Format::COLS == STEP_COLS ? 16 : 4);
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        const uint4 *weights = (const uint4 *)(packed + step_at(block, steps, 0)) + lane % 16;
        int32_t sum[4] = {0, 0, 0, 0};
        for (size_t first = 2 * warp + lane / 16; first < steps; first += MATVEC_UNROLL * STRIDE) {
            uint4 word[MATVEC_UNROLL];
#pragma unroll
            for (int u = 0; u < MATVEC_UNROLL; u++) {
                size_t step = first + u * STRIDE;
                word[u] = step < steps ? weights[step * (STEP_BYTES / 16)] : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (int u = 0; u < MATVEC_UNROLL; u++) {
                size_t step = first + u * STRIDE;
                if (step >= steps) break;
                Format values;
                values.load(x, step, cols, aligned);
                sum[0] = values.dot(word[u].x, sum[0]);
                sum[1] = values.dot(word[u].y, sum[1]);
                sum[2] = values.dot(word[u].z, sum[2]);
                sum[3] = values.dot(word[u].w, sum[3]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sum[i] += __shfl_xor_sync(ALL_LANES, sum[i], 16);
            if (lane < 16) parts[warp][4 * lane + i] = sum[i];
        }
        __syncthreads();
        size_t row = block * BLOCK_ROWS + threadIdx.x;
        if (threadIdx.x < BLOCK_ROWS && row < rows) {
            int32_t total = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) total += parts[w][threadIdx.x];
            write(to, 0, row, total);
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(MATVEC_THREADS)
    hqk_ternary_matvec_cuda(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, Product to) {
    matvec<TwoBits>(packed, rows, cols, x, to);
}

extern "C" __global__ void __launch_bounds__(MATVEC_THREADS)
    hqk_pack5_matvec_cuda(const uint8_t *packed, size_t rows, size_t cols, const int8_t *x, Product to) {
    matvec<FiveTrits>(packed, rows, cols, x, to);
}
