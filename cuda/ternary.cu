/* Tokens times ternary weights in the 2-bit layout, on the matrix units: weights are the left factor, tokens the right one.
 *
 * The order of k inside a product is free as long as both sides agree. Lane quad t takes step t of four: its four fields are
 * then the k of one 16-byte load of the token, and a word of the layout becomes four registers of a fragment by shift and
 * mask. Nothing is rearranged in memory. */
#include "layout.cuh"

/* k of a chunk: four steps. */
constexpr int CHUNK = 4 * STEP_COLS;

/* Registers of the left factor from the words of rows g and g + 8; part 0 holds fields 0 and 1 of the words, part 1 the rest. */
DEVICE void weight_fragment(uint32_t upper, uint32_t lower, int part, uint32_t a[4]) {
    a[0] = field(upper, 2 * part), a[1] = field(lower, 2 * part);
    a[2] = field(upper, 2 * part + 1), a[3] = field(lower, 2 * part + 1);
}

DEVICE void token_fragment(const uint4 &values, int part, uint32_t b[2]) {
    b[0] = part ? values.z : values.x, b[1] = part ? values.w : values.y;
}

/* Many tokens: 128 rows x 128 tokens a block, 64 x 32 a warp; four chunks on their way through shared memory. */
constexpr int MATMUL_THREADS = 256, MATMUL_ROWS = 128, MATMUL_TOKENS = 128, MATMUL_STAGES = 4;
/* Bytes from step to step: off the 128 of the banks, so that the words of four steps are read at once. */
constexpr int STEP_PITCH = STEP_BYTES + 32;

struct MatmulStage {
    uint8_t weights[MATMUL_ROWS / BLOCK_ROWS][4][STEP_PITCH];
    uint8_t tokens[MATMUL_TOKENS][CHUNK];
};

extern "C" __global__ void __launch_bounds__(MATMUL_THREADS, TWO_WHERE_ROOM)
    hqk_ternary_matmul_cuda(const uint8_t *__restrict__ packed, size_t rows, size_t cols, const int8_t *__restrict__ x,
                            size_t x_stride, size_t tokens, Product to) {
    __shared__ __align__(16) MatmulStage stages[MATMUL_STAGES];
    int thread = threadIdx.x, warp = thread / 32, g = fragment_row(), t = fragment_quad();
    int warp_block = warp % 2, warp_tokens = warp / 2 * 32;
    size_t steps = ceil_div(cols, STEP_COLS), chunks = ceil_div(cols, CHUNK), blocks = ceil_div(rows, BLOCK_ROWS);
    size_t row_tiles = ceil_div(rows, MATMUL_ROWS), tiles = row_tiles * ceil_div(tokens, MATMUL_TOKENS);
    bool aligned = is_aligned(x, 16) && x_stride % 16 == 0;

    for (size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        size_t row0 = tile % row_tiles * MATMUL_ROWS, token0 = tile / row_tiles * MATMUL_TOKENS;
        auto fetch = [&](size_t chunk) {
            MatmulStage &stage = stages[chunk % MATMUL_STAGES];
            if (thread < 128) {
                int part = thread / 64, within = thread / 16 % 4, piece = thread % 16;
                size_t block = row0 / BLOCK_ROWS + part, step = chunk * 4 + within;
                bool inside = block < blocks && step < steps;
                const uint8_t *from = inside ? packed + step_at(block, steps, step) + 16 * piece : packed;
                copy_16(stage.weights[part][within] + 16 * piece, from, inside ? 16 : 0);
            }
#pragma unroll
            for (int i = 0; i < MATMUL_TOKENS * 4 / MATMUL_THREADS; i++) {
                int item = thread + i * MATMUL_THREADS, token = item / 4, part = item % 4;
                size_t k = chunk * CHUNK + 16 * part;
                size_t left = token0 + token < tokens && k < cols ? cols - k : 0;
                stage_16(stage.tokens[token] + 16 * part, x, (token0 + token) * x_stride + k, left, aligned);
            }
        };

        int32_t sum[4][4][4] = {};
        for (size_t chunk = 0; chunk < MATMUL_STAGES - 1; chunk++) {
            if (chunk < chunks) fetch(chunk);
            copy_commit();
        }
        for (size_t chunk = 0; chunk < chunks; chunk++) {
            copy_wait<MATMUL_STAGES - 2>();
            __syncthreads();
            if (chunk + MATMUL_STAGES - 1 < chunks) fetch(chunk + MATMUL_STAGES - 1);
            copy_commit();
            const MatmulStage &stage = stages[chunk % MATMUL_STAGES];
            uint4 values[4];
#pragma unroll
            for (int n = 0; n < 4; n++) values[n] = *(const uint4 *)(stage.tokens[warp_tokens + 8 * n + g] + 16 * t);
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const uint32_t *words = (const uint32_t *)(stage.weights[warp_block][t] + q * TILE_BYTES);
                uint32_t upper = words[g], lower = words[g + 8];
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    uint32_t a[4], b[2];
                    weight_fragment(upper, lower, part, a);
#pragma unroll
                    for (int n = 0; n < 4; n++) {
                        token_fragment(values[n], part, b);
                        mma_16x8x32(sum[q][n], a, b);
                    }
                }
            }
        }
        copy_wait<0>();
        __syncthreads();
#pragma unroll
        for (int q = 0; q < 4; q++)
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    size_t row = row0 + warp_block * BLOCK_ROWS + q * TILE_ROWS + g + (i / 2) * 8;
                    size_t token = token0 + warp_tokens + 8 * n + 2 * t + i % 2;
                    if (row < rows && token < tokens) write(to, token, row, sum[q][n][i]);
                }
    }
}

/* A few tokens: the weights are read once and nothing is staged. A block has one tile of 16 rows, its eight warps share k. */
constexpr int FEW_THREADS = 256, FEW_TOKENS = 16;

extern "C" __global__ void __launch_bounds__(FEW_THREADS)
    hqk_ternary_few_cuda(const uint8_t *__restrict__ packed, size_t rows, size_t cols, const int8_t *__restrict__ x,
                         size_t x_stride, size_t tokens, Product to) {
    constexpr int WARPS = FEW_THREADS / 32;
    __shared__ int32_t parts[WARPS][FEW_TOKENS][TILE_ROWS];
    int warp = threadIdx.x / 32, g = fragment_row(), t = fragment_quad();
    size_t steps = ceil_div(cols, STEP_COLS), chunks = ceil_div(cols, CHUNK);
    size_t row_tiles = ceil_div(rows, TILE_ROWS), tiles = row_tiles * ceil_div(tokens, FEW_TOKENS);
    bool aligned = is_aligned(x, 16) && x_stride % 16 == 0;

    for (size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        size_t row0 = tile % row_tiles * TILE_ROWS, token0 = tile / row_tiles * FEW_TOKENS;
        size_t block = row0 / BLOCK_ROWS, within = row0 % BLOCK_ROWS / TILE_ROWS * TILE_BYTES;
        int32_t sum[2][4] = {};
#pragma unroll 4
        for (size_t chunk = warp; chunk < chunks; chunk += WARPS) {
            size_t step = chunk * 4 + t, k = step * STEP_COLS;
            uint32_t upper = 0, lower = 0;
            if (step < steps) {
                const uint32_t *words = (const uint32_t *)(packed + step_at(block, steps, step) + within);
                upper = words[g], lower = words[g + 8];
            }
            uint4 values[2];
#pragma unroll
            for (int n = 0; n < 2; n++) {
                size_t token = token0 + 8 * n + g;
                values[n] = make_uint4(0, 0, 0, 0);
                if (token < tokens && k < cols) values[n] = load_16(x + token * x_stride, k, cols, aligned);
            }
#pragma unroll
            for (int part = 0; part < 2; part++) {
                uint32_t a[4], b[2];
                weight_fragment(upper, lower, part, a);
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    token_fragment(values[n], part, b);
                    mma_16x8x32(sum[n], a, b);
                }
            }
        }
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) parts[warp][8 * n + 2 * t + i % 2][g + i / 2 * 8] = sum[n][i];
        __syncthreads();
        int row = threadIdx.x % TILE_ROWS, token = threadIdx.x / TILE_ROWS, total = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) total += parts[w][token][row];
        if (row0 + row < rows && token0 + token < tokens) write(to, token0 + token, row0 + row, total);
        __syncthreads();
    }
}
