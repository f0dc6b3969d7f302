/* The steepest-descent family, written once for every ISA: plain C that the compiler vectorizes, with nothing contracted. */
#include "../hqk.h"
#include "../update_sums.h"

void HQK_NAME(hqk_steepest_momentum)(const float *gradient, const float *weight, size_t n, float new_share, float lean,
                                     float *momentum, float *update, double *sums) {
    double weight_squares[HQK_LANES] = {0}, gradient_previous[HQK_LANES] = {0};
    for (size_t start = 0; start < n; start += HQK_CHUNK) {
        size_t length = n - start < HQK_CHUNK ? n - start : HQK_CHUNK;
        const float *g = gradient + start, *w = weight + start;
        float *m = momentum + start, *u = update + start;
        hqk_add_product(w, w, length, weight_squares);
        hqk_add_product(g, u, length, gradient_previous);
        for (size_t i = 0; i < length; i++) {
            m[i] += new_share * (g[i] - m[i]);
            u[i] = m[i] + lean * (m[i] - g[i]);
        }
    }
    sums[0] = hqk_sum_lanes(weight_squares);
    sums[1] = hqk_sum_lanes(gradient_previous);
}

void HQK_NAME(hqk_steepest_sums)(const float *gradient, const float *weight, const float *update, size_t n,
                                 double *sums) {
    double squares[HQK_LANES] = {0}, of_weight[HQK_LANES] = {0}, of_gradient[HQK_LANES] = {0};
    for (size_t start = 0; start < n; start += HQK_CHUNK) {
        size_t length = n - start < HQK_CHUNK ? n - start : HQK_CHUNK;
        const float *u = update + start;
        hqk_add_product(u, u, length, squares);
        hqk_add_product(u, weight + start, length, of_weight);
        hqk_add_product(gradient + start, u, length, of_gradient);
    }
    sums[0] = hqk_sum_lanes(squares);
    sums[1] = hqk_sum_lanes(of_weight);
    sums[2] = hqk_sum_lanes(of_gradient);
}

void HQK_NAME(hqk_steepest_apply)(const float *update, size_t n, float keep, float rate, float *weight) {
    for (size_t i = 0; i < n; i++) weight[i] = weight[i] * keep - rate * update[i];
}
