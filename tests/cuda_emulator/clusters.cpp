/* k-means, against the portable C kernels: labels bit for bit, sums within the unit of the fixed point. */
#include "harness.h"

#include <kmeans.cu>

#include <limits>

struct Points {
    size_t n, dim, k;
    Buffer<float> points, centroids;
};

static Buffer<uint32_t> portable_labels(const Points &at, Buffer<float> &norms) {
    Buffer<uint32_t> labels(at.n);
    for (size_t i = 0; i < at.n; i++) labels[i] = UINT32_MAX;
    Buffer<float> packed(at.k * at.dim), half_norms(at.k), scratch(16 + 32 * (at.dim + at.k));
    double max_norm = 0.0;
    hqk_kmeans_pack_portable(at.centroids.data(), at.k, at.dim, 1, packed.data(), half_norms.data(), &max_norm);
    hqk_kmeans_norms_portable(at.points.data(), at.n, at.dim, norms.data());
    hqk_kmeans_centroids to = {at.centroids.data(), at.k, at.dim, 1, packed.data(), half_norms.data(), max_norm};
    hqk_kmeans_assign_portable(at.points.data(), norms.data(), nullptr, at.n, &to, nullptr, scratch.data(), labels.data());
    return labels;
}

static void check(const Points &at, bool finite) {
    size_t n = at.n, dim = at.dim, k = at.k;
    Buffer<float> norms(n), distances(n);
    Buffer<uint32_t> expected = portable_labels(at, norms);
    hqk_kmeans_distances_portable(at.points.data(), n, dim, at.centroids.data(), expected.data(), distances.data());
    std::string name = "kmeans n " + std::to_string(n) + ", dim " + std::to_string(dim) + ", k " + std::to_string(k);
    each_launch([&](unsigned blocks) {
        Buffer<float> own_norms(n), half_norms(k), own_distances(n);
        Buffer<uint32_t> labels(n);
        Buffer<unsigned long long> fixed(k * dim), counts(k);
        Buffer<double> sums(k * dim);
        double max_norm = 0.0;
        int32_t max_bits = 0;
        unsigned long long changed = 0;
        memset((void *)fixed.data(), 0, k * dim * 8), memset((void *)counts.data(), 0, k * 8);
        for (size_t i = 0; i < n; i++) labels[i] = i % 2 ? expected[i] : UINT32_MAX;
        emulated::launch(blocks, KMEANS_THREADS, [&] { hqk_kmeans_norms_cuda(at.points.data(), n, dim, own_norms.data(), &max_bits); });
        emulated::launch(blocks, KMEANS_THREADS, [&] {
            hqk_kmeans_prepare_cuda(at.centroids.data(), k, dim, half_norms.data(), &max_norm);
        });
        emulated::launch(blocks, KMEANS_THREADS, [&] {
            hqk_kmeans_iteration_cuda(at.points.data(), own_norms.data(), n, dim, at.centroids.data(), half_norms.data(), &max_norm, k,
                                      &max_bits, labels.data(), finite ? fixed.data() : nullptr, counts.data(), &changed);
        });
        emulated::launch(blocks, KMEANS_THREADS, [&] {
            hqk_kmeans_distances_cuda(at.points.data(), n, dim, at.centroids.data(), labels.data(), own_distances.data());
        });
        expect_same(own_norms, norms, name + " norms");
        expect_same(labels, expected, name + " labels");
        if (!finite) return;
        expect_same(own_distances, distances, name + " distances");
        emulated::launch(blocks, KMEANS_THREADS, [&] {
            hqk_kmeans_finish_cuda(fixed.data(), k * dim, &max_bits, n, sums.data());
        });
        Buffer<double> exact(k * dim);
        Buffer<unsigned long long> members(k);
        memset((void *)exact.data(), 0, k * dim * 8), memset((void *)members.data(), 0, k * 8);
        float largest = 0.0f;
        for (size_t t = 0; t < n; t++) {
            members[expected[t]]++;
            for (size_t i = 0; i < dim; i++) {
                exact[expected[t] * dim + i] += (double)at.points[t * dim + i];
                largest = std::max(largest, std::fabs(at.points[t * dim + i]));
            }
        }
        expect_same(counts, members, name + " counts");
        if (changed != (n + 1) / 2) emulated::fail((name + ": changed labels").c_str());
        for (size_t i = 0; i < k * dim; i++)
            if (!(std::fabs(sums[i] - exact[i]) <= (double)n * n * largest * 0x1p-50)) emulated::fail((name + ": sums").c_str());
    });
}

static float same_float() { return 0.25f; }
static float whole_float() { return (float)(int)(draw() % 3) - 1.0f; }

void check_kmeans() {
    for (size_t n : {0, 1, 63, 65, 130})
        for (size_t dim : {1, 3, 15, 16, 17, 40})
            for (size_t k : {1, 2, 5, 64, 65, 130})
                if ((n + dim + k) % 3 == 0) check({n, dim, k, filled(n * dim, any_float), filled(k * dim, any_float)}, true);
    /* Ties everywhere: the lowest index wins. */
    check({70, 3, 9, filled(70 * 3, whole_float), filled(9 * 3, whole_float)}, true);
    check({70, 20, 70, filled(70 * 20, same_float), filled(70 * 20, same_float)}, true);
    Points far = {66, 7, 12, filled(66 * 7, any_float), filled(12 * 7, any_float)};
    for (size_t i = 0; i < far.points.size(); i++) far.points[i] = 3e4f + 1e-2f * far.points[i];
    for (size_t i = 0; i < far.centroids.size(); i++) far.centroids[i] = 3e4f + 1e-2f * far.centroids[i];
    check(far, true);
    Points odd = {66, 7, 12, filled(66 * 7, any_float), filled(12 * 7, any_float)};
    odd.points[9] = std::numeric_limits<float>::quiet_NaN(), odd.points[70] = std::numeric_limits<float>::infinity();
    odd.points[200] = 3e38f, odd.centroids[8] = std::numeric_limits<float>::quiet_NaN();
    check(odd, false);
    odd.centroids[30] = -std::numeric_limits<float>::infinity(), odd.centroids[50] = 2e38f;
    check(odd, false);
}
