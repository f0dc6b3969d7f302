/* Attention of one head, written once for every ISA over `tile`, its product of a few rows and columns:
 *
 *     c[r][j] = (accumulate ? c[r][j] : 0) + sum over i < k of a[r a_row + i a_step] b[i b_stride + j]
 *
 * for r < rows <= TILE_ROWS, j < columns <= TILE_COLUMNS, both at least 1.
 *
 * Queries are taken HQK_ATTENTION_QUERIES at a time. Their probabilities are whole rows in scratch memory (no online softmax);
 * the backward pass computes them again. Keys and values are transposed once a call, so that scores too are sums of
 * rows. A tile of queries meets only the keys it may see. */
#include "../hqk.h"
#include "../philox.h"
#include "../softmax_row.h"
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

typedef struct {
    size_t begin, end;
} span;

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Keys that the queries from `query` to `query + count - 1` see together. */
static span seen(const hqk_attention_shape *shape, size_t query, size_t count) {
    span keys = {0, shape->keys};
    if (shape->causal) {
        const size_t position = shape->first + query;
        if (position + 1 > shape->window) keys.begin = position + 1 - shape->window;
        keys.end = least(keys.end, position + count);
        keys.begin = least(keys.begin, keys.end);
    }
    return keys;
}

static size_t padded(size_t keys) { return (keys + 15) / 16 * 16; }

/* out[d][j] = rows[j][d]. */
static void transpose(const float *rows, size_t stride, size_t n, size_t dim, float *out, size_t out_stride) {
    size_t j = 0;
#if defined(__SSE__)
    for (; j + 4 <= n; j += 4, rows += 4 * stride) {
        size_t d = 0;
        for (; d + 4 <= dim; d += 4) {
            __m128 r0 = _mm_loadu_ps(rows + d), r1 = _mm_loadu_ps(rows + stride + d);
            __m128 r2 = _mm_loadu_ps(rows + 2 * stride + d), r3 = _mm_loadu_ps(rows + 3 * stride + d);
            _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
            _mm_storeu_ps(out + d * out_stride + j, r0);
            _mm_storeu_ps(out + (d + 1) * out_stride + j, r1);
            _mm_storeu_ps(out + (d + 2) * out_stride + j, r2);
            _mm_storeu_ps(out + (d + 3) * out_stride + j, r3);
        }
        for (; d < dim; d++)
            for (size_t i = 0; i < 4; i++) out[d * out_stride + j + i] = rows[i * stride + d];
    }
#endif
    for (; j < n; j++, rows += stride)
        for (size_t d = 0; d < dim; d++) out[d * out_stride + j] = rows[d];
}

/* The rows of all keys that any query sees. */
static void transpose_seen(const hqk_attention_shape *shape, const float *rows, size_t stride, float *out, size_t width) {
    const span keys = seen(shape, 0, shape->queries);
    transpose(rows + keys.begin * stride, stride, keys.end - keys.begin, shape->head_dim, out + keys.begin, width);
}

/* A product of any size as tiles. */
static void product(size_t rows, size_t columns, size_t k, const float *a, size_t a_row, size_t a_step, const float *b,
                    size_t b_stride, float *c, size_t c_stride, int accumulate) {
    for (size_t j = 0; j < columns; j += TILE_COLUMNS)
        for (size_t r = 0; r < rows; r += TILE_ROWS)
            tile(least(TILE_ROWS, rows - r), least(TILE_COLUMNS, columns - j), k, a + r * a_row, a_row, a_step, b + j,
                 b_stride, c + r * c_stride + j, c_stride, accumulate);
}

/* Products of the queries `query..query + count` with the transposed keys or values they see. */
static void scores_of(const hqk_attention_shape *shape, size_t query, size_t count, const float *rows, size_t stride,
                      const float *transposed, size_t width, float *scores) {
    for (size_t r = 0; r < count; r += TILE_ROWS) {
        const size_t n = least(TILE_ROWS, count - r);
        const span keys = seen(shape, query + r, n);
        product(n, keys.end - keys.begin, shape->head_dim, rows + (query + r) * stride, stride, 1,
                transposed + keys.begin, width, scores + r * width + keys.begin, width, 0);
    }
}

/* out = scores rows, for the queries `query..query + count`. */
static void weighted_rows(const hqk_attention_shape *shape, size_t query, size_t count, const float *scores,
                          size_t width, const float *rows, size_t stride, float *out, size_t out_stride) {
    for (size_t r = 0; r < count; r += TILE_ROWS) {
        const size_t n = least(TILE_ROWS, count - r);
        const span keys = seen(shape, query + r, n);
        product(n, shape->head_dim, keys.end - keys.begin, scores + r * width + keys.begin, width, 1,
                rows + keys.begin * stride, stride, out + (query + r) * out_stride, out_stride, 0);
    }
}

static void clear_outside(span own, span all, float *row) {
    for (size_t j = all.begin; j < own.begin; j++) row[j] = 0.0f;
    for (size_t j = own.end; j < all.end; j++) row[j] = 0.0f;
}

/* Scores to probabilities; within the keys that the block sees, what a query does not see becomes 0. */
static void probabilities(const hqk_attention_shape *shape, size_t query, size_t count, float *scores, size_t width) {
    const span all = seen(shape, query, count);
    for (size_t r = 0; r < count; r++) {
        const span own = seen(shape, query + r, 1);
        float *row = scores + r * width;
        if (own.begin < own.end) hqk_softmax_row(row + own.begin, own.end - own.begin, shape->scale);
        clear_outside(own, all, row);
    }
}

#define DRAWN_BLOCKS 16

/* Dropout of what the queries `query..query + count` have for the keys they see: key j of row r keeps its value, times a
 * factor, iff word j mod 4 of Philox block (j / 4, r) is at least `drop_below`. Drawn again wherever it is needed. */
static void drop(const hqk_attention_shape *shape, size_t query, size_t count, float *values, size_t width) {
    if (shape->drop_below == 0) return;
    for (size_t r = 0; r < count; r++, values += width) {
        const span own = seen(shape, query + r, 1);
        for (size_t start = own.begin / 4 * 4; start < own.end; start += 4 * DRAWN_BLOCKS) {
            uint32_t words[DRAWN_BLOCKS][4];
            for (uint32_t b = 0; b < DRAWN_BLOCKS; b++) {
                const uint32_t counter[4] = {(uint32_t)(start / 4) + b, shape->drop_row + (uint32_t)(query + r),
                                             shape->drop_tensor, shape->drop_step};
                hqk_philox(counter, shape->drop_key, words[b]);
            }
            const uint32_t *word = words[0];
            const size_t begin = start < own.begin ? own.begin : start, end = least(start + 4 * DRAWN_BLOCKS, own.end);
            for (size_t j = begin; j < end; j++) {
                const float kept = values[j] * shape->keep_factor;
                values[j] = word[j - start] < shape->drop_below ? 0.0f : kept;
            }
        }
    }
}

/* One query: keys as they lie, 16 sums a key added as a fixed tree. */
static void scores_of_one(const hqk_attention_shape *shape, const float *q, const float *k, float *scores) {
    const span keys = seen(shape, 0, 1);
    const size_t dim = shape->head_dim;
    for (size_t j = keys.begin; j < keys.end; j++) {
        const float *row = k + j * shape->k_stride;
        float lane[16] = {0};
        size_t d = 0;
        for (; d + 16 <= dim; d += 16)
            for (int l = 0; l < 16; l++) lane[l] += q[d + l] * row[d + l];
        for (int l = 0; d < dim; d++, l++) lane[l] += q[d] * row[d];
        for (int half = 8; half > 0; half /= 2)
            for (int l = 0; l < half; l++) lane[l] += lane[l + half];
        scores[j] = lane[0];
    }
}

void HQK_NAME(hqk_attention_forward)(const hqk_attention_shape *shape, const float *q, const float *k, const float *v,
                                     float *scratch, float *y) {
    const size_t width = padded(shape->keys);
    if (shape->queries == 1) {
        scores_of_one(shape, q, k, scratch);
        probabilities(shape, 0, 1, scratch, width);
        drop(shape, 0, 1, scratch, width);
        weighted_rows(shape, 0, 1, scratch, width, v, shape->v_stride, y, shape->y_stride);
        return;
    }
    float *transposed = scratch, *scores = scratch + shape->head_dim * width;
    transpose_seen(shape, k, shape->k_stride, transposed, width);
    for (size_t query = 0; query < shape->queries; query += HQK_ATTENTION_QUERIES) {
        const size_t count = least(HQK_ATTENTION_QUERIES, shape->queries - query);
        scores_of(shape, query, count, q, shape->q_stride, transposed, width, scores);
        probabilities(shape, query, count, scores, width);
        drop(shape, query, count, scores, width);
        weighted_rows(shape, query, count, scores, width, v, shape->v_stride, y, shape->y_stride);
    }
}

void HQK_NAME(hqk_attention_backward)(const hqk_attention_shape *shape, const float *q, const float *k, const float *v,
                                      const float *dy, float *scratch, float *dq, float *dk, float *dv) {
    const size_t dim = shape->head_dim, width = padded(shape->keys), block = HQK_ATTENTION_QUERIES * width;
    float *k_transposed = scratch, *v_transposed = k_transposed + dim * width;
    float *p = v_transposed + dim * width, *ds = p + block;
    transpose_seen(shape, k, shape->k_stride, k_transposed, width);
    transpose_seen(shape, v, shape->v_stride, v_transposed, width);
    for (size_t query = 0; query < shape->queries; query += HQK_ATTENTION_QUERIES) {
        const size_t count = least(HQK_ATTENTION_QUERIES, shape->queries - query);
        const span all = seen(shape, query, count);
        const size_t keys = all.end - all.begin;
        scores_of(shape, query, count, q, shape->q_stride, k_transposed, width, p);
        scores_of(shape, query, count, dy, shape->y_stride, v_transposed, width, ds);
        probabilities(shape, query, count, p, width);
        drop(shape, query, count, ds, width);
        for (size_t r = 0; r < count; r++) {
            const span own = seen(shape, query + r, 1);
            float *row = ds + r * width;
            hqk_softmax_backward_row(p + r * width + own.begin, own.end - own.begin, shape->scale, row + own.begin);
            clear_outside(own, all, row);
        }
        drop(shape, query, count, p, width);
        weighted_rows(shape, query, count, ds, width, k, shape->k_stride, dq, dim);
        product(keys, dim, count, p + all.begin, 1, width, dy + query * shape->y_stride, shape->y_stride,
                dv + all.begin * dim, dim, 1);
        product(keys, dim, count, ds + all.begin, 1, width, q + query * shape->q_stride, shape->q_stride,
                dk + all.begin * dim, dim, 1);
    }
}
