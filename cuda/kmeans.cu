/* k-means: nearest centroids and, in the same pass, the sums of their points.
 *
 * Scores x.c - |c|^2 / 2 in f32 rule centroids out; a point whose second comes within the error bound of its best is measured
 * again in f64 against every centroid, so labels are the f64 minimum, the lowest on a tie, as on a CPU.
 *
 * Sums are integers: a coordinate times a power of two that leaves room for all points in 63 bits. Integer additions may come in
 * any order, so the sums are the same at every launch, on every GPU; each coordinate errs by half a unit, which is below the
 * largest coordinate times n 2^-60. */
#include "device.cuh"

#include <float.h>
#include <math.h>

constexpr int KMEANS_THREADS = 256, KMEANS_TILE = 64, KMEANS_DEPTH = 16, KMEANS_PITCH = KMEANS_TILE + 4, KMEANS_LANES = 16;

/* Squared distance in 16 f64 lanes, one a thread of half a warp; the result is in all 16. */
DEVICE double exact_distance(const float *__restrict__ x, const float *__restrict__ c, size_t dim) {
    double sum = 0.0;
    for (size_t i = threadIdx.x % KMEANS_LANES; i < dim; i += KMEANS_LANES) {
        double d = (double)x[i] - (double)c[i];
        sum += d * d;
    }
#pragma unroll
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    return sum;
}

/* The same for |x|^2. */
DEVICE double squared_norm(const float *__restrict__ x, size_t dim, bool inside) {
    double sum = 0.0;
    if (inside)
        for (size_t i = threadIdx.x % KMEANS_LANES; i < dim; i += KMEANS_LANES) sum += (double)x[i] * (double)x[i];
#pragma unroll
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    return sum;
}

/* norms[t] = |x|^2 (f32) and the bits of the largest |coordinate|, which the caller has set to 0. */
extern "C" __global__ void __launch_bounds__(KMEANS_THREADS)
    hqk_kmeans_norms_cuda(const float *__restrict__ points, size_t n, size_t dim, float *__restrict__ norms,
                          int32_t *max_bits) {
    constexpr int PER_BLOCK = KMEANS_THREADS / KMEANS_LANES;
    int32_t max = 0;
    for (size_t first = (size_t)blockIdx.x * PER_BLOCK; first < n; first += (size_t)gridDim.x * PER_BLOCK) {
        size_t point = first + threadIdx.x / KMEANS_LANES;
        const float *x = points + point * dim;
        double norm = squared_norm(x, dim, point < n);
        if (point >= n) continue;
        for (size_t i = threadIdx.x % KMEANS_LANES; i < dim; i += KMEANS_LANES) {
            int32_t bits = __float_as_int(x[i]) & 0x7FFFFFFF;
            max = bits > max ? bits : max;
        }
        if (threadIdx.x % KMEANS_LANES == 0) norms[point] = (float)norm;
    }
    if (max) atomicMax(max_bits, max);
}

/* half_norms[c] = |c|^2 / 2 and the largest |c|^2, NaN if one is; one block. */
extern "C" __global__ void __launch_bounds__(KMEANS_THREADS)
    hqk_kmeans_prepare_cuda(const float *__restrict__ centroids, size_t k, size_t dim, float *__restrict__ half_norms,
                            double *max_norm) {
    constexpr int PER_BLOCK = KMEANS_THREADS / KMEANS_LANES;
    __shared__ double parts[PER_BLOCK];
    if (blockIdx.x != 0) return;
    double max = 0.0;
    for (size_t first = 0; first < k; first += PER_BLOCK) {
        size_t c = first + threadIdx.x / KMEANS_LANES;
        double norm = squared_norm(centroids + c * dim, dim, c < k);
        if (c >= k) continue;
        max = !(norm <= max) ? norm : max;
        if (threadIdx.x % KMEANS_LANES == 0) half_norms[c] = (float)(0.5 * norm);
    }
    if (threadIdx.x % KMEANS_LANES == 0) parts[threadIdx.x / KMEANS_LANES] = max;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < PER_BLOCK; i++) max = max != max || parts[i] <= max ? max : parts[i];
    *max_norm = max;
}

/* The power of two that makes a coordinate an integer: n of the largest stay below 2^62. */
DEVICE double fixed_point_scale(int32_t max_bits, size_t n) {
    int exponent = 0, bits = 64 - __clzll((long long)n);
    frexpf(__int_as_float(max_bits), &exponent);
    return max_bits ? ldexp(1.0, 62 - exponent - bits) : 1.0;
}

/* The best and the second best score of a point and the centroid of the best. A score that is NaN becomes `second`, which no
 * comparison then calls clear. */
struct Leader {
    float best, second;
    uint32_t which;
};

DEVICE void challenge(Leader &leader, float score, uint32_t which) {
    if (score > leader.best) {
        leader.second = leader.second != leader.second ? leader.second : leader.best;
        leader.best = score, leader.which = which;
    } else if (!(score <= leader.second)) {
        leader.second = leader.second != leader.second ? leader.second : score;
    }
}

DEVICE void merge(Leader &leader, int step) {
    float best = __shfl_xor_sync(ALL_LANES, leader.best, step), second = __shfl_xor_sync(ALL_LANES, leader.second, step);
    uint32_t which = __shfl_xor_sync(ALL_LANES, leader.which, step);
    challenge(leader, best, which);
    challenge(leader, second, which);
}

/* The f64 minimum over all centroids, by a warp, two at a time: a NaN loses to any other, the lowest index wins a tie. */
DEVICE uint32_t measured_nearest(const float *x, const float *centroids, size_t k, size_t dim) {
    double best = 0.0;
    uint32_t label = 0xFFFFFFFF;
    for (size_t first = 0; first < k; first += 2) {
        size_t c = first + threadIdx.x % 32 / KMEANS_LANES;
        double distance = exact_distance(x, centroids + (c < k ? c : first) * dim, dim);
        if (c < k && (label == 0xFFFFFFFF || distance < best || (best != best && distance == distance)))
            best = distance, label = (uint32_t)c;
    }
    double other = __shfl_xor_sync(ALL_LANES, best, 16);
    uint32_t other_label = __shfl_xor_sync(ALL_LANES, label, 16);
    bool other_wins = label == 0xFFFFFFFF || other < best || (best != best && other == other) ||
                      ((other == best || (best != best && other != other)) && other_label < label);
    return other_wins && other_label != 0xFFFFFFFF ? other_label : label;
}

/* Labels of n points; where `sums` is given, sums [k, dim] (fixed point) and counts [k] of the clusters are added to and the
 * labels that changed counted. A label that was never given is 2^32 - 1. */
extern "C" __global__ void __launch_bounds__(KMEANS_THREADS)
    hqk_kmeans_iteration_cuda(const float *__restrict__ points, const float *__restrict__ norms, size_t n, size_t dim,
                              const float *__restrict__ centroids, const float *__restrict__ half_norms,
                              const double *__restrict__ max_norm, size_t k, const int32_t *__restrict__ max_bits,
                              uint32_t *__restrict__ labels, unsigned long long *sums, unsigned long long *counts,
                              unsigned long long *changed) {
    __shared__ __align__(16) float x_part[KMEANS_DEPTH][KMEANS_PITCH];
    __shared__ __align__(16) float c_part[KMEANS_DEPTH][KMEANS_PITCH];
    __shared__ uint32_t found[KMEANS_TILE];
    __shared__ uint32_t doubtful[KMEANS_TILE];
    int thread = threadIdx.x, across = thread % 16, down = thread / 16;
    double unit = 0x1.06p-23 * ((double)dim + 8);
    float per_norm = (float)(unit * sqrt(*max_norm)), per_square = (float)(((double)dim + 16) * 0x1p-52);
    float fixed = (float)(unit * *max_norm / 2 + 4 * (double)dim * FLT_MIN);
    double scale = sums ? fixed_point_scale(*max_bits, n) : 1.0;
    size_t tiles = ceil_div(n, KMEANS_TILE);

    for (size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        size_t point0 = tile * KMEANS_TILE;
        Leader leaders[4];
#pragma unroll
        for (int i = 0; i < 4; i++) leaders[i] = {-INFINITY, -INFINITY, 0};
        for (size_t centroid0 = 0; centroid0 < k; centroid0 += KMEANS_TILE) {
            float score[4][4] = {};
            for (size_t depth = 0; depth < dim; depth += KMEANS_DEPTH) {
#pragma unroll
                for (int i = 0; i < KMEANS_TILE / 16; i++) {
                    size_t point = point0 + down + 16 * i, centroid = centroid0 + down + 16 * i, at = depth + across;
                    x_part[across][down + 16 * i] = point < n && at < dim ? points[point * dim + at] : 0.0f;
                    c_part[across][down + 16 * i] = centroid < k && at < dim ? centroids[centroid * dim + at] : 0.0f;
                }
                __syncthreads();
#pragma unroll
                for (int d = 0; d < KMEANS_DEPTH; d++) {
                    float4 x = *(const float4 *)&x_part[d][4 * down], c = *(const float4 *)&c_part[d][4 * across];
                    float xs[4] = {x.x, x.y, x.z, x.w}, cs[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
                    for (int i = 0; i < 4; i++)
#pragma unroll
                        for (int j = 0; j < 4; j++) score[i][j] = fmaf(xs[i], cs[j], score[i][j]);
                }
                __syncthreads();
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                size_t centroid = centroid0 + 4 * across + j;
                if (centroid >= k) break;
                float half = half_norms[centroid];
#pragma unroll
                for (int i = 0; i < 4; i++) challenge(leaders[i], score[i][j] - half, (uint32_t)centroid);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int step = 8; step > 0; step /= 2) merge(leaders[i], step);
            size_t point = point0 + 4 * down + i;
            if (across != 0 || point >= n) continue;
            float norm = norms[point], error = fmaf(sqrtf(norm), per_norm, fmaf(norm, per_square, fixed));
            found[4 * down + i] = leaders[i].which;
            doubtful[4 * down + i] = !(leaders[i].second < leaders[i].best - error);
        }
        __syncthreads();
        size_t here = n - point0 < KMEANS_TILE ? n - point0 : KMEANS_TILE;
        for (size_t p = thread / 32; p < here; p += KMEANS_THREADS / 32) {
            if (!doubtful[p]) continue;
            uint32_t label = measured_nearest(points + (point0 + p) * dim, centroids, k, dim);
            if (thread % 32 == 0) found[p] = label;
        }
        __syncthreads();
        if (thread < (int)here) {
            uint32_t label = found[thread];
            if (sums) {
                if (labels[point0 + thread] != label) atomicAdd(changed, 1ull);
                atomicAdd(counts + label, 1ull);
            }
            labels[point0 + thread] = label;
        }
        if (sums)
            for (size_t item = thread; item < here * dim; item += KMEANS_THREADS) {
                size_t p = item / dim, i = item % dim;
                long long value = __double2ll_rn((double)points[(point0 + p) * dim + i] * scale);
                atomicAdd(sums + found[p] * dim + i, (unsigned long long)value);
            }
        __syncthreads();
    }
}

/* Fixed-point sums to f64. */
extern "C" __global__ void __launch_bounds__(KMEANS_THREADS)
    hqk_kmeans_finish_cuda(const unsigned long long *__restrict__ fixed, size_t count, const int32_t *__restrict__ max_bits,
                           size_t n, double *__restrict__ sums) {
    double scale = fixed_point_scale(*max_bits, n);
    for (size_t i = (size_t)blockIdx.x * KMEANS_THREADS + threadIdx.x; i < count; i += (size_t)gridDim.x * KMEANS_THREADS)
        sums[i] = (double)(long long)fixed[i] / scale;
}

/* Squared distance in f64, rounded, of each point to the centroid of its label. */
extern "C" __global__ void __launch_bounds__(KMEANS_THREADS)
    hqk_kmeans_distances_cuda(const float *__restrict__ points, size_t n, size_t dim, const float *__restrict__ centroids,
                              const uint32_t *__restrict__ labels, float *__restrict__ distances) {
    constexpr int PER_BLOCK = KMEANS_THREADS / KMEANS_LANES;
    for (size_t first = (size_t)blockIdx.x * PER_BLOCK; first < n; first += (size_t)gridDim.x * PER_BLOCK) {
        size_t point = first + threadIdx.x / KMEANS_LANES, at = point < n ? point : first;
        double distance = exact_distance(points + at * dim, centroids + labels[at] * dim, dim);
        if (point < n && threadIdx.x % KMEANS_LANES == 0) distances[point] = (float)distance;
    }
}
