/* c[i][j] = scale[i] * sum over t of a[t][i] b[t][j]: weight gradients. Sums run over tokens, the outer dimension of both
 * factors, so four tokens' words are turned into the registers of a fragment by byte transposes. A lane's word is four
 * neighbouring columns: they belong to four different fragments, whose rows and columns are numbered to suit.
 *
 * Lane quad t takes tokens t, t + 4, t + 8, t + 12 of 16: with rows of 160 bytes no two lanes meet in a bank. */
#include "layout.cuh"

/* 128 x 128 outputs a block, 64 x 64 a warp. */
constexpr int INT8_THREADS = 128, INT8_COLS = 128, INT8_CHUNK = 32, INT8_STAGES = 4, INT8_PITCH = INT8_COLS + 32;

struct Int8Stage {
    uint8_t a[INT8_CHUNK][INT8_PITCH], b[INT8_CHUNK][INT8_PITCH];
};

/* 32 tokens of four columns: out[half][column]. */
DEVICE void column_words(const uint8_t (*tokens)[INT8_PITCH], int col, int t, uint32_t out[2][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = *(const uint32_t *)(tokens[16 * half + 4 * i + t] + col);
        transpose_bytes(words, out[half]);
    }
}

extern "C" __global__ void __launch_bounds__(INT8_THREADS, TWO_WHERE_ROOM)
    hqk_int8_matmul_tn_cuda(const int8_t *__restrict__ a, size_t a_stride, const int8_t *__restrict__ b, size_t b_stride,
                            size_t tokens, size_t rows, size_t cols, const float *__restrict__ scales, int accumulate,
                            float *__restrict__ c, size_t c_stride) {
    __shared__ __align__(16) Int8Stage stages[INT8_STAGES];
    int thread = threadIdx.x, warp = thread / 32, g = fragment_row(), t = fragment_quad();
    int warp_row = warp % 2 * 64, warp_col = warp / 2 * 64;
    size_t chunks = ceil_div(tokens, INT8_CHUNK);
    size_t row_tiles = ceil_div(rows, INT8_COLS), tiles = row_tiles * ceil_div(cols, INT8_COLS);
    bool a_aligned = is_aligned(a, 16) && a_stride % 16 == 0, b_aligned = is_aligned(b, 16) && b_stride % 16 == 0;

    for (size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        size_t row0 = tile % row_tiles * INT8_COLS, col0 = tile / row_tiles * INT8_COLS;
        auto fetch = [&](size_t chunk) {
            Int8Stage &stage = stages[chunk % INT8_STAGES];
#pragma unroll
            for (int i = 0; i < INT8_CHUNK * INT8_COLS / 16 / INT8_THREADS; i++) {
                int item = thread + i * INT8_THREADS, token = item / 8, part = item % 8 * 16;
                size_t at = chunk * INT8_CHUNK + token;
                size_t a_left = at < tokens && row0 + part < rows ? rows - row0 - part : 0;
                size_t b_left = at < tokens && col0 + part < cols ? cols - col0 - part : 0;
                stage_16(stage.a[token] + part, a, at * a_stride + row0 + part, a_left, a_aligned);
                stage_16(stage.b[token] + part, b, at * b_stride + col0 + part, b_left, b_aligned);
            }
        };

        int32_t sum[4][8][4] = {};
        for (size_t chunk = 0; chunk < INT8_STAGES - 1; chunk++) {
            if (chunk < chunks) fetch(chunk);
            copy_commit();
        }
        for (size_t chunk = 0; chunk < chunks; chunk++) {
            copy_wait<INT8_STAGES - 2>();
            __syncthreads();
            if (chunk + INT8_STAGES - 1 < chunks) fetch(chunk + INT8_STAGES - 1);
            copy_commit();
            const Int8Stage &stage = stages[chunk % INT8_STAGES];
            uint32_t left[2][2][4];
            column_words(stage.a, warp_row + 4 * g, t, left[0]);
            column_words(stage.a, warp_row + 32 + 4 * g, t, left[1]);
#pragma unroll
            for (int group = 0; group < 2; group++) {
                uint32_t right[2][4];
                column_words(stage.b, warp_col + 32 * group + 4 * g, t, right);
#pragma unroll
                for (int m = 0; m < 4; m++) { /* rows g and g + 8 of fragment m: columns 2 (m % 2) and the next of the word */
                    int u = m % 2 * 2;
                    uint32_t fragment[4] = {left[m / 2][0][u], left[m / 2][0][u + 1], left[m / 2][1][u], left[m / 2][1][u + 1]};
#pragma unroll
                    for (int v = 0; v < 4; v++) { /* column g of fragment v: column v of the word */
                        uint32_t values[2] = {right[0][v], right[1][v]};
                        mma_16x8x32(sum[m][4 * group + v], fragment, values);
                    }
                }
            }
        }
        copy_wait<0>();
        __syncthreads();
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    size_t row = row0 + warp_row + m / 2 * 32 + 4 * g + m % 2 * 2 + i / 2;
                    size_t col = col0 + warp_col + n / 4 * 32 + 8 * t + i % 2 * 4 + n % 4;
                    if (row >= rows || col >= cols) continue;
                    float value = (float)sum[m][n][i] * scales[row];
                    float *to = c + row * c_stride + col;
                    *to = accumulate ? *to + value : value;
                }
    }
}
