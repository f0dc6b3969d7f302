/* Products of a few tokens with the transposed matrix, straight from the layout, on 512-bit registers; the order of
 * products.h, whose tiles and functions these are.
 *
 * One byte shuffle leaves in lane u of a tile rows 4u to 4u + 3 of its 16 columns. The same lanes of four tiles side by side
 * are a quad of 64 columns: field f holds columns 4f to 4f + 3 of each tile. The sums turn around once, at the end. */
#ifndef HQK_TERNARY_TURNED_H
#define HQK_TERNARY_TURNED_H

/* Tokens at a time: with six, sums, quads and weights are more than 32 registers. */
#define TURNED_TOKENS 5
/* Blocks that are fetched ahead: each lies a whole row of blocks from the last. */
#define BLOCKS_AHEAD 2

/* Lane i of register j to lane j of register i. */
HQK_ALWAYS_INLINE void transpose_lanes(vector v[4]) {
    vector a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[2], v[3], 0x44);
    vector c = _mm512_shuffle_i32x4(v[0], v[1], 0xEE), d = _mm512_shuffle_i32x4(v[2], v[3], 0xEE);
    v[0] = _mm512_shuffle_i32x4(a, b, 0x88), v[1] = _mm512_shuffle_i32x4(a, b, 0xDD);
    v[2] = _mm512_shuffle_i32x4(c, d, 0x88), v[3] = _mm512_shuffle_i32x4(c, d, 0xDD);
}

/* acc += 16 rows of the four tiles at `at` bytes behind `tile`, times 16 values a token. */
HQK_ALWAYS_INLINE void multiply_rows(const uint8_t *tile, size_t ahead, const size_t at[4], const int8_t *x, size_t x_stride,
                                     int tokens, sums acc) {
    vector turn = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    vector quads[4];
    HQK_UNROLL(4) for (size_t s = 0; s < 4; s++) {
        quads[s] = _mm512_shuffle_epi8(load(tile + at[s]), turn);
        _mm_prefetch((const char *)tile + ahead + at[s], _MM_HINT_T0);
    }
    transpose_lanes(quads);
    HQK_UNROLL(1) for (int u = 0; u < 4; u++) { /* unrolled it is half as long again */
        vector w[VECTORS];
        HQK_UNROLL(4) for (int f = 0; f < 4; f++) w[f] = field(quads[u], f);
        EACH_TOKEN {
            vector quad = broadcast(hqk_whole_quad(x + t * x_stride + 4 * u));
            HQK_UNROLL(4) for (int f = 0; f < 4; f++) dot(&acc[t][f], w[f], quad);
        }
    }
}

/* `tokens` tokens from `first_token` on times columns `first` to `first + 63`; `tile`: the first tile of these. */
HQK_ALWAYS_INLINE void multiply_columns(const uint8_t *tile, size_t rows, size_t cols, const size_t at[4],
                                        const int8_t *x, size_t x_stride, int tokens, size_t first_token,
                                        size_t first, const target *to) {
    size_t block = hqk_block_bytes(cols), ahead = BLOCKS_AHEAD * block;
    int8_t tail[TURNED_TOKENS][HQK_TILE_ROWS] = {{0}};
    sums total;
    fetch_outputs(to, first_token, tokens, first, hqk_min(to->outputs, first + VECTORS * LANES));
    clear(VECTORS, tokens, total);
    for (size_t r = 0; r < rows;) {
        sums acc;
        clear(VECTORS, tokens, acc);
        for (size_t end = r + hqk_min(rows - r, 4 * QUADS_AT_ONCE); r < end; r += HQK_TILE_ROWS, x += HQK_TILE_ROWS) {
            if (rows - r < HQK_TILE_ROWS) {
                for (int t = 0; t < tokens; t++) memcpy(tail[t], x + t * x_stride, rows - r);
                x = tail[0], x_stride = HQK_TILE_ROWS;
            }
            multiply_rows(tile, ahead, at, x, x_stride, tokens, acc);
            tile += HQK_TILE_BYTES;
            if ((r + HQK_TILE_ROWS) % HQK_BLOCK_ROWS == 0) tile += block - HQK_STEP_BYTES;
        }
        add_widened(VECTORS, tokens, total, acc);
    }
    for (int t = 0; t < tokens; t++) transpose_lanes(total[t]);
    store_tile(to, first_token, tokens, first, VECTORS, total);
}

/* All tokens times the 64 columns from `first` on, in groups as even as they can be. */
HQK_ALWAYS_INLINE void multiply_turned(const uint8_t *tile, size_t rows, size_t cols, const size_t at[4],
                                       const int8_t *x, size_t x_stride, size_t tokens, size_t first, const target *to) {
    size_t groups = (tokens + TURNED_TOKENS - 1) / TURNED_TOKENS;
    for (size_t t = 0, count; groups; t += count, groups--) {
        const int8_t *from = x + t * x_stride;
        count = (tokens - t + groups - 1) / groups;
        switch (count) {
        case 5: multiply_columns(tile, rows, cols, at, from, x_stride, 5, t, first, to); break;
        case 4: multiply_columns(tile, rows, cols, at, from, x_stride, 4, t, first, to); break;
        case 3: multiply_columns(tile, rows, cols, at, from, x_stride, 3, t, first, to); break;
        case 2: multiply_columns(tile, rows, cols, at, from, x_stride, 2, t, first, to); break;
        default: multiply_columns(tile, rows, cols, at, from, x_stride, 1, t, first, to);
        }
    }
}

/* 64 columns meet all tokens before the next do: their tiles lie a whole row of blocks apart, and few stay in a near cache. */
void NAME(ternary_matmul_transposed)(const uint8_t *packed, size_t rows, size_t cols, size_t first_col, size_t outputs,
                                     const int8_t *x, size_t x_stride, size_t tokens, const float *x_scales,
                                     const int32_t *x_sums, float *y, size_t y_stride) {
    const float one = 1;
    target to = {x_scales, x_sums, &one, 0, y, NULL, y_stride, outputs};
    for (size_t o = 0; o < outputs; o += HQK_BLOCK_ROWS) {
        const uint8_t *tile = packed + hqk_byte_of(0, first_col + o, cols);
        size_t steps = hqk_min(hqk_steps(cols) - (first_col + o) / HQK_STEP_COLS, 4), at[4];
        /* Where the matrix ends sooner, its first tile stands for those that are missing: nobody takes their sums. */
        for (size_t s = 0; s < 4; s++) at[s] = s < steps ? s * HQK_STEP_BYTES : 0;
        multiply_turned(tile, rows, cols, at, x, x_stride, tokens, o, &to);
    }
}

#endif
