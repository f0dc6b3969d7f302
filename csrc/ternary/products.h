/* Products of several tokens on registers of outputs, in the order all x86 versions share. A group of tokens keeps
 * its sums in registers while the weights go by: each register of weights serves every token of the group, each
 * broadcast quad of activations every register of weights.
 *
 * The file that includes this has defined `vector` and its functions (vector256.h, vector512.h) and
 *   VECTORS            registers of weights at a time, where as many outputs are left,
 *   dot(acc, codes, quad)  acc += codes * quad,
 *   widen(acc)         the sums of `acc` in 32 bits,
 *   QUADS_AT_ONCE      quads that can be added before `acc` must be widened; a multiple of 4. */
#ifndef HQK_TERNARY_PRODUCTS_H
#define HQK_TERNARY_PRODUCTS_H

#define TOKENS_AT_ONCE 6
/* Bytes of packed weights that go past all tokens before the next do. */
#define PART_BYTES ((size_t)1 << 18)
/* Registers of weights for the last few outputs: 16 of them. */
#define LAST_VECTORS (HQK_TILE_ROWS / LANES)

typedef vector sums[TOKENS_AT_ONCE][VECTORS];

#define EACH_TOKEN HQK_UNROLL(6) for (int t = 0; t < tokens; t++)
#define EACH_VECTOR HQK_UNROLL(4) for (int v = 0; v < vectors; v++)

HQK_ALWAYS_INLINE void clear(int vectors, int tokens, sums acc) {
    EACH_TOKEN EACH_VECTOR acc[t][v] = zero();
}

HQK_ALWAYS_INLINE void add_widened(int vectors, int tokens, sums total, sums acc) {
    EACH_TOKEN EACH_VECTOR total[t][v] = add(total[t][v], widen(acc[t][v]));
}

/* acc += panels, `tile_bytes` from tile to tile, times the `count` values from `x` on. */
HQK_ALWAYS_INLINE void multiply_panels(const uint8_t *weights, size_t tile_bytes, int vectors, size_t count, const int8_t *x,
                                       size_t x_stride, int tokens, sums acc) {
    for (size_t i = 0; i < count; i += 4, weights += HQK_QUAD_BYTES) {
        vector w[VECTORS];
        EACH_VECTOR {
            int output = LANES * v;
            w[v] = load(weights + (size_t)(output / HQK_TILE_ROWS) * tile_bytes + 4 * (output % HQK_TILE_ROWS));
        }
        EACH_TOKEN {
            vector quad = broadcast(hqk_whole_quad(x + t * x_stride + i));
            EACH_VECTOR dot(&acc[t][v], w[v], quad);
        }
    }
}

/* acc += steps of packed weights times the `count` values from `x` on. */
HQK_ALWAYS_INLINE void multiply_steps(const uint8_t *weights, int vectors, size_t count, const int8_t *x, size_t x_stride,
                                      int tokens, sums acc) {
    for (size_t i = 0; i < count; i += HQK_STEP_COLS, weights += HQK_STEP_BYTES)
        HQK_UNROLL(4) for (int f = 0; f < 4; f++) {
            vector w[VECTORS];
            EACH_VECTOR w[v] = field(load(weights + 4 * LANES * v), f);
            EACH_TOKEN {
                vector quad = broadcast(hqk_whole_quad(x + t * x_stride + i + 4 * f));
                EACH_VECTOR dot(&acc[t][v], w[v], quad);
            }
        }
}

/* The outputs are on their way while the products are added: they seldom are in a near cache. */
static inline void fetch_outputs(const target *to, size_t first_token, int tokens, size_t first, size_t end) {
    const char *y = to->y_i32 ? (const char *)to->y_i32 : (const char *)to->y_f32;
    for (int t = 0; t < tokens; t++)
        for (size_t o = first; o < end; o += 16)
            _mm_prefetch(y + 4 * ((first_token + (size_t)t) * to->y_stride + o), _MM_HINT_T0);
}

/* Writes the outputs of `vectors` registers and `tokens` tokens. */
static HQK_NEVER_INLINE void store_tile(const target *to, size_t first_token, int tokens, size_t first, int vectors,
                                        sums total) {
    for (int t = 0; t < tokens; t++)
        for (int v = 0; v < vectors; v++) store_sums(to, first_token + (size_t)t, first + (size_t)(LANES * v), total[t][v]);
}

/* `tokens` tokens from `first_token` on times the outputs of `vectors` registers from `first` on. The weights are a block in the layout or its
 * panels, from the first of these outputs on. */
HQK_ALWAYS_INLINE void multiply_tile(const uint8_t *weights, int packed, int vectors, size_t k, const int8_t *x,
                                     size_t x_stride, int tokens, size_t first_token, size_t first, const target *to) {
    size_t unit = packed ? HQK_STEP_COLS : 4, unit_bytes = packed ? HQK_STEP_BYTES : HQK_QUAD_BYTES;
    size_t tile_bytes = hqk_panel_tile_bytes(k), rest = k % unit, whole = k - rest;
    int8_t tail[TOKENS_AT_ONCE][HQK_STEP_COLS] = {{0}};
    sums total;
    fetch_outputs(to, first_token, tokens, first, hqk_min(to->outputs, first + (size_t)(vectors * LANES)));
    clear(vectors, tokens, total);
    while (whole || rest) {
        size_t count = hqk_min(whole, 4 * QUADS_AT_ONCE);
        if (!whole) {
            for (int t = 0; t < tokens; t++) memcpy(tail[t], x + t * x_stride, rest);
            x = tail[0], x_stride = HQK_STEP_COLS;
            rest = 0, whole = count = unit;
        }
        sums acc;
        clear(vectors, tokens, acc);
        if (packed)
            multiply_steps(weights, vectors, count, x, x_stride, tokens, acc);
        else
            multiply_panels(weights, tile_bytes, vectors, count, x, x_stride, tokens, acc);
        add_widened(vectors, tokens, total, acc);
        whole -= count, x += count, weights += count / unit * unit_bytes;
    }
    store_tile(to, first_token, tokens, first, vectors, total);
}

/* Weights of several blocks (packed) or of one (panels), and the outputs they give. */
typedef struct {
    const uint8_t *start;
    int packed;
    size_t first, end;
} weight_blocks;

/* A group of tokens meets block after block: its activations are read from afar once. The outputs left at the end take a
 * register or two at a time, where that is less work than a whole tile. */
HQK_ALWAYS_INLINE void multiply_group(weight_blocks weights, size_t k, const int8_t *x, size_t x_stride, int tokens,
                                      size_t first_token, const target *to) {
    for (size_t r = weights.first; r < weights.end; r += HQK_BLOCK_ROWS, weights.start += hqk_block_bytes(k))
        for (size_t o = 0, outputs = VECTORS * LANES; o < HQK_BLOCK_ROWS && r + o < weights.end; o += outputs) {
            const uint8_t *tile = weights.start + (weights.packed ? 4 * o : o / HQK_TILE_ROWS * hqk_panel_tile_bytes(k));
            if (VECTORS == LAST_VECTORS || weights.end - r - o > VECTORS * LANES - HQK_TILE_ROWS) {
                multiply_tile(tile, weights.packed, VECTORS, k, x, x_stride, tokens, first_token, r + o, to);
            } else {
                outputs = HQK_TILE_ROWS;
                multiply_tile(tile, weights.packed, LAST_VECTORS, k, x, x_stride, tokens, first_token, r + o, to);
            }
        }
}

/* All tokens, in groups as even as they can be: 8 are 4 + 4, not 6 + 2. */
HQK_ALWAYS_INLINE void multiply_tokens(weight_blocks weights, size_t k, const int8_t *x, size_t x_stride,
                                       size_t tokens, const target *to) {
    size_t groups = (tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    for (size_t t = 0, count; groups; t += count, groups--) {
        const int8_t *from = x + t * x_stride;
        count = (tokens - t + groups - 1) / groups;
        switch (count) {
        case 6: multiply_group(weights, k, from, x_stride, 6, t, to); break;
        case 5: multiply_group(weights, k, from, x_stride, 5, t, to); break;
        case 4: multiply_group(weights, k, from, x_stride, 4, t, to); break;
        case 3: multiply_group(weights, k, from, x_stride, 3, t, to); break;
        case 2: multiply_group(weights, k, from, x_stride, 2, t, to); break;
        default: multiply_group(weights, k, from, x_stride, 1, t, to);
        }
    }
}

static void multiply_all_panels(const uint8_t *panels, size_t k, const int8_t *x, size_t x_stride, size_t tokens,
                                const target *to) {
    weight_blocks weights = {panels, 0, 0, to->outputs};
    multiply_tokens(weights, k, x, x_stride, tokens, to);
}

/* All of a packed matrix of `to->outputs` rows, in parts that stay in the second-level cache from group to group. */
static void multiply_all_packed(const uint8_t *packed, size_t cols, const int8_t *x, size_t x_stride, size_t tokens,
                                const target *to) {
    size_t block = hqk_block_bytes(cols), blocks = block && block < PART_BYTES ? PART_BYTES / block : 1;
    for (size_t r = 0; r < to->outputs; r += blocks * HQK_BLOCK_ROWS, packed += blocks * block) {
        weight_blocks weights = {packed, 1, r, hqk_min(to->outputs, r + blocks * HQK_BLOCK_ROWS)};
        multiply_tokens(weights, cols, x, x_stride, tokens, to);
    }
}

#endif
