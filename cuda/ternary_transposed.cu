/* The transposed product dX = dY W from the same packed weights. Sums run over rows, a register of a fragment needs one column
 * of four rows: four words of four rows, their bytes transposed, hold that for 16 columns at once, one a field of a byte.
 *
 * Row g of a fragment is a column of step g of eight, so that each lane loads whole 16-byte pieces (four rows x 16 columns) and
 * ends with 16 neighbouring outputs. Lane quad t takes tile t: 16 neighbouring rows, one 16-byte load of the token. */
#include "layout.cuh"

/* 256 columns x 128 tokens a block, 128 x 32 a warp; a chunk is the 64 rows of a block of the layout. */
constexpr int TRANSPOSED_THREADS = 256, TRANSPOSED_STEPS = 16, TRANSPOSED_TOKENS = 128, TRANSPOSED_STAGES = 3;
constexpr int TRANSPOSED_PITCH = STEP_BYTES + 64;

struct TransposedStage {
    uint8_t weights[TRANSPOSED_STEPS][TRANSPOSED_PITCH]; /* piece 4 tile + quad of a step at 16 (4 quad + tile) */
    uint8_t tokens[TRANSPOSED_TOKENS][BLOCK_ROWS];
};

extern "C" __global__ void __launch_bounds__(TRANSPOSED_THREADS, 1)
    hqk_ternary_transposed_cuda(const uint8_t *__restrict__ packed, size_t rows, size_t cols,
                                const int8_t *__restrict__ dy, size_t dy_stride, size_t tokens, Product to) {
    __shared__ __align__(16) TransposedStage stages[TRANSPOSED_STAGES];
    int thread = threadIdx.x, warp = thread / 32, g = fragment_row(), t = fragment_quad();
    int warp_steps = warp % 2 * 8, warp_tokens = warp / 2 * 32;
    size_t steps = ceil_div(cols, STEP_COLS), blocks = ceil_div(rows, BLOCK_ROWS);
    size_t col_tiles = ceil_div(steps, TRANSPOSED_STEPS), tiles = col_tiles * ceil_div(tokens, TRANSPOSED_TOKENS);
    bool aligned = is_aligned(dy, 16) && dy_stride % 16 == 0;

    for (size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        size_t step0 = tile % col_tiles * TRANSPOSED_STEPS, token0 = tile / col_tiles * TRANSPOSED_TOKENS;
        auto fetch = [&](size_t block) {
            TransposedStage &stage = stages[block % TRANSPOSED_STAGES];
            int within = thread / 16, piece = thread % 16;
            bool inside = step0 + within < steps;
            const uint8_t *from = inside ? packed + step_at(block, steps, step0 + within) + 16 * piece : packed;
            copy_16(stage.weights[within] + 16 * (piece % 4 * 4 + piece / 4), from, inside ? 16 : 0);
#pragma unroll
            for (int i = 0; i < TRANSPOSED_TOKENS * 4 / TRANSPOSED_THREADS; i++) {
                int item = thread + i * TRANSPOSED_THREADS, token = item / 4, part = item % 4;
                size_t row = block * BLOCK_ROWS + 16 * part;
                size_t left = token0 + token < tokens && row < rows ? rows - row : 0;
                stage_16(stage.tokens[token] + 16 * part, dy, (token0 + token) * dy_stride + row, left, aligned);
            }
        };

        int32_t sum[8][4][4] = {};
        for (size_t block = 0; block < TRANSPOSED_STAGES - 1; block++) {
            if (block < blocks) fetch(block);
            copy_commit();
        }
        for (size_t block = 0; block < blocks; block++) {
            copy_wait<TRANSPOSED_STAGES - 2>();
            __syncthreads();
            if (block + TRANSPOSED_STAGES - 1 < blocks) fetch(block + TRANSPOSED_STAGES - 1);
            copy_commit();
            const TransposedStage &stage = stages[block % TRANSPOSED_STAGES];
            uint4 values[4];
#pragma unroll
            for (int n = 0; n < 4; n++) values[n] = *(const uint4 *)(stage.tokens[warp_tokens + 8 * n + g] + 16 * t);
            const uint4 *pieces = (const uint4 *)stage.weights[warp_steps + g];
#pragma unroll
            for (int part = 0; part < 2; part++) {
                uint4 first = pieces[8 * part + t], second = pieces[8 * part + 4 + t];
                uint32_t words[2][4] = {{first.x, first.y, first.z, first.w}, {second.x, second.y, second.z, second.w}};
                uint32_t turned[2][4];
                transpose_bytes(words[0], turned[0]);
                transpose_bytes(words[1], turned[1]);
#pragma unroll
                for (int m = 0; m < 8; m++) { /* columns m and m + 8 of a step: fields m / 4 and m / 4 + 2 of byte m % 4 */
                    uint32_t a[4], b[2];
                    a[0] = field(turned[0][m % 4], m / 4), a[1] = field(turned[0][m % 4], m / 4 + 2);
                    a[2] = field(turned[1][m % 4], m / 4), a[3] = field(turned[1][m % 4], m / 4 + 2);
#pragma unroll
                    for (int n = 0; n < 4; n++) {
                        b[0] = part ? values[n].z : values[n].x, b[1] = part ? values[n].w : values[n].y;
                        mma_16x8x32(sum[m][n], a, b);
                    }
                }
            }
        }
        copy_wait<0>();
        __syncthreads();
        size_t col0 = (step0 + warp_steps + g) * STEP_COLS;
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                size_t token = token0 + warp_tokens + 8 * n + 2 * t + i;
                if (token >= tokens) continue;
#pragma unroll
                for (int c = 0; c < STEP_COLS; c++)
                    if (col0 + c < cols) write(to, token, col0 + c, sum[c % 8][n][c / 8 * 2 + i]);
            }
    }
}
