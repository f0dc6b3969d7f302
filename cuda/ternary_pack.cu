/* Floats or trits to the 2-bit layout and back. A warp takes a tile of 16 rows x 8 steps (128 columns): it reads each row's 128
 * neighbours at once, four a lane; the four lanes of a step join their fields to the word of the row, and each keeps four rows'
 * words, one 16-byte store. */
#include "layout.cuh"

constexpr int PACK_THREADS = 256, PACK_STEPS = 8;

/* Codes of columns col to col + 3 of a row, one a byte; zero weights past the end. */
struct FloatSource {
    const float *weights;
    const float *thresholds;
    size_t threshold_stride;

    __device__ __forceinline__ bool aligned(size_t cols) const { return is_aligned(weights, 16) && cols % 4 == 0; }

    __device__ __forceinline__ uint32_t codes(size_t row, size_t col, size_t cols, bool aligned) const {
        float w[4] = {0.0f, 0.0f, 0.0f, 0.0f}, threshold = thresholds[row * threshold_stride];
        const float *from = weights + row * cols + col;
        if (aligned && col < cols) {
            float4 all = *(const float4 *)from;
            w[0] = all.x, w[1] = all.y, w[2] = all.z, w[3] = all.w;
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (col + j < cols) w[j] = from[j];
        }
        uint32_t codes = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) codes |= (uint32_t)(1 + (w[j] > threshold) - (w[j] < -threshold)) << 8 * j;
        return codes;
    }
};

/* Trits: negative, zero and positive count as -1, 0, 1. */
struct TritSource {
    const int8_t *trits;

    __device__ __forceinline__ bool aligned(size_t cols) const { return is_aligned(trits, 4) && cols % 4 == 0; }

    __device__ __forceinline__ uint32_t codes(size_t row, size_t col, size_t cols, bool aligned) const {
        const int8_t *from = trits + row * cols + col;
        uint32_t word = 0, codes = 0;
        if (aligned && col < cols) {
            word = *(const uint32_t *)from;
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (col + j < cols) word |= (uint32_t)(uint8_t)from[j] << 8 * j;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int8_t trit = (int8_t)(word >> 8 * j);
            codes |= (uint32_t)(1 + (trit > 0) - (trit < 0)) << 8 * j;
        }
        return codes;
    }
};

template <typename Source>
DEVICE void pack(const Source &source, size_t rows, size_t cols, uint8_t *__restrict__ packed) {
    size_t steps = ceil_div(cols, STEP_COLS), parts = ceil_div(steps, PACK_STEPS);
    size_t items = ceil_div(rows, BLOCK_ROWS) * 4 * parts;
    int lane = threadIdx.x % 32, quad = lane % 4;
    bool aligned = source.aligned(cols);
    size_t warps = (size_t)gridDim.x * (PACK_THREADS / 32);
    for (size_t item = (size_t)blockIdx.x * (PACK_THREADS / 32) + threadIdx.x / 32; item < items; item += warps) {
        size_t tile = item / parts, step = item % parts * PACK_STEPS + lane / 4, row0 = tile * TILE_ROWS;
        uint32_t kept[4];
#pragma unroll
        for (int group = 0; group < 4; group++) {
            uint32_t codes[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                size_t row = row0 + 4 * group + i;
                codes[i] = row < rows ? source.codes(row, step * STEP_COLS + 4 * quad, cols, aligned) : 0x01010101u;
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t word = codes[i] << 2 * quad;
                word |= __shfl_xor_sync(ALL_LANES, word, 1);
                word |= __shfl_xor_sync(ALL_LANES, word, 2);
                if (group == quad) kept[i] = word;
            }
        }
        if (step < steps) {
            uint8_t *to = packed + step_at(tile / 4, steps, step) + tile % 4 * TILE_BYTES + 16 * quad;
            *(uint4 *)to = make_uint4(kept[0], kept[1], kept[2], kept[3]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(PACK_THREADS)
    hqk_ternary_quantize_pack_cuda(const float *weights, size_t rows, size_t cols, const float *thresholds,
                                   size_t threshold_stride, uint8_t *packed) {
    pack(FloatSource{weights, thresholds, threshold_stride}, rows, cols, packed);
}

extern "C" __global__ void __launch_bounds__(PACK_THREADS)
    hqk_ternary_pack_cuda(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed) {
    pack(TritSource{trits}, rows, cols, packed);
}

/* Codes to values, byte by byte: 0 to 3 become -1 to 2. The top bits keep the borrow out of the neighbour. */
DEVICE uint32_t trits_of(uint32_t codes) { return ((codes | 0x80808080u) - 0x01010101u) ^ 0x80808080u; }

extern "C" __global__ void __launch_bounds__(PACK_THREADS)
    hqk_ternary_unpack_cuda(const uint8_t *__restrict__ packed, size_t rows, size_t cols, int8_t *__restrict__ trits) {
    size_t steps = ceil_div(cols, STEP_COLS), parts = ceil_div(steps, PACK_STEPS);
    size_t items = ceil_div(rows, TILE_ROWS) * parts, warps = (size_t)gridDim.x * (PACK_THREADS / 32);
    int lane = threadIdx.x % 32, quad = lane % 4;
    bool aligned = is_aligned(trits, 16) && cols % 16 == 0;
    for (size_t item = (size_t)blockIdx.x * (PACK_THREADS / 32) + threadIdx.x / 32; item < items; item += warps) {
        size_t tile = item / parts, step = item % parts * PACK_STEPS + lane / 4;
        if (step >= steps) continue;
        const uint8_t *from = packed + step_at(tile / 4, steps, step) + tile % 4 * TILE_BYTES + 16 * quad;
        uint4 all = *(const uint4 *)from;
        uint32_t words[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            size_t row = tile * TILE_ROWS + 4 * quad + i, col = step * STEP_COLS;
            if (row >= rows) break;
            int8_t *to = trits + row * cols + col;
            uint32_t values[4];
#pragma unroll
            for (int f = 0; f < 4; f++) values[f] = trits_of(field(words[i], f));
            if (aligned) {
                *(uint4 *)to = make_uint4(values[0], values[1], values[2], values[3]);
                continue;
            }
#pragma unroll
            for (int c = 0; c < STEP_COLS; c++)
                if (col + c < cols) to[c] = (int8_t)(values[c / 4] >> 8 * (c % 4));
        }
    }
}
