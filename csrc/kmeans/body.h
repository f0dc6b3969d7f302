/* k-means: the search for the nearest centroid. The including file defines vectors of LANES floats (points stand in
 * the lanes), VECTORS of them a tile, MOST_CENTROIDS a tile, and
 *     transpose4: coordinates i to i + 3 of LANES rows, coordinate by coordinate, rows of the output at `stride`.
 *
 * The score of a centroid is x.c - |c|^2 / 2: the largest is the nearest. Scores are f32 and only rule centroids out;
 * where the second comes within the error bound of the first, all that do are measured again in f64, so the label is
 * the f64 minimum, the lowest on a tie, on every ISA.
 *
 * With points in the lanes the best and the second best of every point are kept without a step across lanes, any
 * number of centroids fills its tiles, and the points, packed once, stay in the first-level cache while centroids pass. */
#include "../hqk.h"
#include "measure.h"

#include <float.h>
#include <math.h>

#define POINTS (LANES * VECTORS)
#define ALIGNMENT 64
#define LINE 64
#define MOST_GROUPS 64
#define NO_GROUP UINT32_MAX

/* Accumulators stay in registers only where every loop over them is unrolled whole. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 12")
#else
#define UNROLL
#endif

#if defined(_MSC_VER)
#define ALWAYS_INLINE __forceinline
#define FETCH(address) (void)(address)
#else
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define FETCH(address) __builtin_prefetch((const void *)(address))
#endif

/* Part `index` of `whole` things split as evenly as they come: where it begins. */
static inline size_t part_start(size_t whole, size_t parts, size_t index) {
    size_t rest = whole % parts;
    return whole / parts * index + (index < rest ? index : rest);
}

static inline size_t tiles_of(size_t centroids) { return (centroids + MOST_CENTROIDS - 1) / MOST_CENTROIDS; }

/* Groups one after the other; in a group its tiles; in a tile coordinate after coordinate of all its centroids. */
void HQK_NAME(hqk_kmeans_pack)(const float *centroids, size_t k, size_t dim, size_t groups, float *packed,
                               float *half_norms, double *max_norm) {
    double max = 0;
    for (size_t c = 0; c < k; c++) {
        double norm = squared_norm(centroids + c * dim, dim);
        half_norms[c] = (float)(0.5 * norm);
        max = !(norm <= max) ? norm : max;
    }
    *max_norm = max;
    for (size_t group = 0; group < groups; group++) {
        size_t start = part_start(k, groups, group), size = part_start(k, groups, group + 1) - start;
        for (size_t tile = 0, tiles = tiles_of(size); tile < tiles; tile++) {
            size_t from = start + part_start(size, tiles, tile), to = start + part_start(size, tiles, tile + 1);
            for (size_t i = 0; i < dim; i++)
                for (size_t c = from; c < to; c++) *packed++ = centroids[c * dim + i];
        }
    }
}

/* The best and second best score of each lane and the centroid (or group) of the best. */
typedef struct {
    vec best[VECTORS], second[VECTORS];
    ints which[VECTORS];
} leaders;

static inline void start_leaders(leaders *l) {
    for (int v = 0; v < VECTORS; v++)
        l->best[v] = l->second[v] = v_all(-INFINITY), l->which[v] = i_all(0);
}

/* Memory to ask for while a tile is searched: so many bytes from the address on at each coordinate. */
typedef struct {
    uintptr_t address, step;
} fetch;

/* Scores of `size` centroids, the first of number `first`, for a tile of points; `size` is a constant to the compiler. */
static ALWAYS_INLINE void score(int size, const float *x, const float *c, size_t dim, const float *half_norms,
                                uint32_t first, fetch next, float *scores, leaders *l) {
    vec sum[MOST_CENTROIDS][VECTORS];
    UNROLL for (int j = 0; j < size; j++)
        UNROLL for (int v = 0; v < VECTORS; v++) sum[j][v] = v_all(-half_norms[j]);
    for (size_t i = 0; i < dim; i++, x += POINTS, c += size, next.address += next.step) {
        vec p[VECTORS];
        FETCH(next.address);
        if (POINTS * sizeof(float) > LINE) FETCH(next.address + LINE);
        UNROLL for (int v = 0; v < VECTORS; v++) p[v] = v_load(x + v * LANES);
        UNROLL for (int j = 0; j < size; j++) {
            vec value = v_all(c[j]);
            UNROLL for (int v = 0; v < VECTORS; v++) sum[j][v] = v_fma(value, p[v], sum[j][v]);
        }
    }
    UNROLL for (int v = 0; v < VECTORS; v++) {
        vec best = l->best[v], second = l->second[v];
        ints which = l->which[v];
        UNROLL for (int j = 0; j < size; j++) {
            v_store(scores + j * POINTS + v * LANES, sum[j][v]);
            which = i_pick(v_less(best, sum[j][v]), i_all(first + (uint32_t)j), which);
            second = v_max(v_min(sum[j][v], best), second);
            best = v_max(sum[j][v], best);
        }
        l->best[v] = best, l->second[v] = second, l->which[v] = which;
    }
}

static void score_tile(size_t size, const float *x, const float *c, size_t dim, const float *half_norms,
                       uint32_t first, fetch next, float *scores, leaders *l) {
#define CASE(n) \
    case n: score(n, x, c, dim, half_norms, first, next, scores, l); return;
    switch (size) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if MOST_CENTROIDS > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
#undef CASE
}

static void transpose(const float *const *rows, size_t dim, float *out) {
    size_t i = 0;
    for (; i + 4 <= dim; i += 4, out += 4 * POINTS)
        for (int v = 0; v < VECTORS; v++) transpose4(rows + v * LANES, i, out + v * LANES, POINTS);
    for (; i < dim; i++, out += POINTS)
        for (int t = 0; t < POINTS; t++) out[t] = rows[t][i];
}

/* The nearest in f64 of the centroids of the groups in `open` whose score is not below the limit (NaN is not). */
static uint32_t measured_nearest(const float *x, const hqk_kmeans_centroids *to, uint64_t open, const float *scores,
                                 float limit) {
    uint32_t label = 0;
    double best = INFINITY;
    int any = 0;
    for (size_t group = 0; group < to->groups; group++) {
        if (!(open >> group & 1)) continue;
        size_t end = part_start(to->k, to->groups, group + 1);
        for (size_t j = part_start(to->k, to->groups, group); j < end; j++) {
            if (scores[j * POINTS] < limit) continue;
            double exact = exact_distance(x, to->centroids + j * to->dim, to->dim);
            if (!any || exact < best || (best != best && exact == exact)) best = exact, label = (uint32_t)j;
            any = 1;
        }
    }
    return label;
}

#include "bounds.h"

void HQK_NAME(hqk_kmeans_assign)(const float *points, const float *norms, const uint32_t *rows, size_t n,
                                 const hqk_kmeans_centroids *to, const hqk_kmeans_bounds *bounds, float *scratch,
                                 uint32_t *labels) {
    size_t dim = to->dim;
    float *x = (float *)(((uintptr_t)scratch + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1)), *scores = x + POINTS * dim;
    /* A score errs by at most (dim + 1) u (|x| |c| + |c|^2 / 2) in any order (u = 2^-24), and by dim FLT_MIN from
     * underflow; two scores are compared. The distances in f64 err too, by the order of dim 2^-53 |x|^2. */
    double unit = 0x1.06p-23 * ((double)dim + 8);
    vec per_norm = v_all((float)(unit * sqrt(to->max_norm)));
    vec per_square = v_all((float)(((double)dim + 16) * 0x1p-52));
    vec fixed = v_all((float)(unit * to->max_norm / 2 + 4 * (double)dim * FLT_MIN));
    for (size_t first = 0; first < n; first += POINTS) {
        size_t count = n - first < POINTS ? n - first : POINTS, row[POINTS];
        const float *point[POINTS];
        float square[POINTS], limit[POINTS];
        uint32_t label[POINTS], winner[POINTS];
        for (size_t t = 0; t < POINTS; t++) {
            size_t index = first + (t < count ? t : count - 1); /* lanes beyond the last repeat it */
            row[t] = rows ? rows[index] : index;
            point[t] = points + row[t] * dim;
            square[t] = norms[row[t]];
        }
        uint64_t open = bounds ? open_groups(to, bounds, labels, row, count) : ~(uint64_t)0;
        transpose(point, dim, x);
        leaders all, of_group[MOST_GROUPS];
        ints nearest[VECTORS];
        start_leaders(&all);
        for (int v = 0; v < VECTORS; v++) nearest[v] = i_all(0);
        /* The points that come next, if they lie behind these, arrive while these are searched. */
        fetch next = {(uintptr_t)(point[count - 1] + dim), rows ? 0 : POINTS * sizeof(float) / tiles_of(to->k)};
        for (size_t group = 0; group < to->groups; group++) {
            if (!(open >> group & 1)) continue;
            leaders *own = &of_group[group];
            size_t start = part_start(to->k, to->groups, group), size = part_start(to->k, to->groups, group + 1) - start;
            start_leaders(own);
            for (size_t tile = 0, tiles = tiles_of(size); tile < tiles; tile++) {
                size_t from = start + part_start(size, tiles, tile), end = start + part_start(size, tiles, tile + 1);
                score_tile(end - from, x, to->packed + from * dim, dim, to->half_norms + from, (uint32_t)from, next,
                           scores + from * POINTS, own);
                next.address += dim * next.step;
            }
            for (int v = 0; v < VECTORS; v++) {
                flags wins = v_less(all.best[v], own->best[v]);
                all.which[v] = i_pick(wins, i_all((uint32_t)group), all.which[v]);
                nearest[v] = i_pick(wins, own->which[v], nearest[v]);
                all.second[v] = v_max(v_max(v_min(own->best[v], all.best[v]), own->second[v]), all.second[v]);
                all.best[v] = v_max(own->best[v], all.best[v]);
            }
        }
        vec error[VECTORS];
        uint32_t clear = 0;
        for (int v = 0; v < VECTORS; v++) {
            vec norm = v_load(square + v * LANES);
            error[v] = v_fma(v_sqrt(norm), per_norm, v_fma(norm, per_square, fixed));
            vec bound = v_sub(all.best[v], error[v]);
            v_store(limit + v * LANES, bound);
            i_store(label + v * LANES, nearest[v]);
            i_store(winner + v * LANES, all.which[v]);
            clear |= v_bits(v_less(all.second[v], bound)) << (v * LANES);
        }
        for (size_t t = 0; t < count; t++) {
            if (!(clear >> t & 1)) {
                label[t] = measured_nearest(point[t], to, open, scores + t, limit[t]);
                winner[t] = NO_GROUP;
            }
            labels[row[t]] = label[t];
        }
        if (bounds) keep_bounds(to, bounds, open, &all, of_group, error, square, winner, label, row, count);
    }
}
