/* Quantized rows, weight gradients, sums and clipping, against the portable C kernels. */
#include "harness.h"

#include <activation_quant.cu>
#include <int8.cu>
#include <norm.cu>

#include <limits>

static void check_rows_of(size_t rows, size_t width, size_t offset, bool odd) {
    auto x = filled<float>(rows * width, any_float, 4 * offset);
    for (size_t i = 0; odd && i < rows * width; i += width + 1 + draw() % (2 * width + 1))
        x[i] = (float[]){std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f, 1e-42f}[draw() % 4];
    Buffer<int8_t> values(rows * width, offset);
    Buffer<float> scales(rows);
    Buffer<int32_t> sums(rows);
    hqk_quantize_rows_portable(x.data(), rows, width, values.data(), scales.data(), sums.data());
    each_launch([&](unsigned blocks) {
        Buffer<int8_t> own_values(rows * width, offset);
        Buffer<float> own_scales(rows);
        Buffer<int32_t> own_sums(rows);
        emulated::launch(blocks, QUANTIZE_THREADS, [&] {
            hqk_quantize_rows_cuda(x.data(), rows, width, own_values.data(), own_scales.data(), own_sums.data());
        });
        std::string at = "quantize_rows " + std::to_string(rows) + " x " + std::to_string(width);
        expect_same(own_values, values, at);
        expect_same(own_scales, scales, at);
        expect_same(own_sums, sums, at);
    });
}

void check_rows() {
    for (size_t width : {0, 1, 3, 4, 31, 64, 255, 256, 257, 1024, 1025, 2500})
        for (size_t offset : {0, 1, 4}) check_rows_of(3, width, offset, offset == 4);
    check_rows_of(0, 5, 0, false);
    check_rows_of(45, 7, 0, true);
}

/* The portable kernels work on panels: the sums are written out instead, the last step is theirs. */
static void check_gradient(size_t tokens, size_t rows, size_t cols, size_t gap, size_t offset, int8_t (*value)()) {
    size_t a_stride = rows + gap, b_stride = cols + gap, c_stride = cols + 1;
    auto a = filled<int8_t>(tokens ? (tokens - 1) * a_stride + rows : 0, value, offset);
    auto b = filled<int8_t>(tokens ? (tokens - 1) * b_stride + cols : 0, value, offset);
    auto scales = filled<float>(rows, any_scale), before = filled<float>(rows && cols ? (rows - 1) * c_stride + cols : 0, any_float);
    for (int accumulate : {0, 1}) {
        Buffer<float> expected(before);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < cols; j++) {
                int32_t sum = 0;
                for (size_t t = 0; t < tokens; t++) sum += a[t * a_stride + i] * b[t * b_stride + j];
                float product = (float)sum * scales[i];
                float &to = expected[i * c_stride + j];
                to = accumulate ? to + product : product;
            }
        each_launch([&](unsigned blocks) {
            Buffer<float> found(before);
            emulated::launch(blocks, INT8_THREADS, [&] {
                hqk_int8_matmul_tn_cuda(a.data(), a_stride, b.data(), b_stride, tokens, rows, cols, scales.data(), accumulate,
                                        found.data(), c_stride);
            });
            expect_same(found, expected,
                        "int8_matmul_tn " + std::to_string(tokens) + " tokens, " + std::to_string(rows) + " x " + std::to_string(cols));
        });
    }
}

static int8_t lowest() { return -128; }

void check_weight_gradients() {
    size_t turn = 0;
    for (size_t rows : {0, 1, 3, 16, 17, 63, 65, 129})
        for (size_t cols : {0, 1, 5, 16, 31, 64, 131}) {
            size_t tokens = (size_t[]){0, 1, 31, 32, 33, 70, 129}[turn % 7], offset = (size_t[]){0, 1, 16}[turn % 3];
            check_gradient(tokens, rows, cols, turn % 2 ? 3 : 0, offset, any_byte);
            turn++;
        }
    for (size_t tokens : {1, 4, 97, 256, 300}) check_gradient(tokens, 144, 160, 0, 0, any_byte);
    check_gradient(4000, 5, 7, 0, 0, lowest);
}

/* As the dispatcher adds them: blocks of 65,536 in order. */
static double in_order(const Buffer<float> &x, void (*sum)(const float *, size_t, double *)) {
    double total = 0.0;
    for (size_t first = 0; first < x.size(); first += SUM_BLOCK) {
        double part;
        sum(x.data() + first, x.size() - first < SUM_BLOCK ? x.size() - first : SUM_BLOCK, &part);
        total += part;
    }
    return total;
}

static void check_sum(size_t n, size_t offset) {
    auto x = filled<float>(n, any_float, offset);
    size_t blocks_of_x = (n + SUM_BLOCK - 1) / SUM_BLOCK;
    Buffer<double> expected(2);
    expected[0] = in_order(x, hqk_abs_sum_portable), expected[1] = in_order(x, hqk_sum_squares_portable);
    each_launch([&](unsigned blocks) {
        Buffer<double> parts(blocks_of_x), totals(2);
        for (int squares : {0, 1}) {
            emulated::launch(blocks, SUM_THREADS, [&] {
                squares ? hqk_block_square_sums_cuda(x.data(), n, parts.data()) : hqk_block_abs_sums_cuda(x.data(), n, parts.data());
            });
            emulated::launch(blocks, 32, [&] { hqk_sum_in_order_cuda(parts.data(), blocks_of_x, totals.data() + squares); });
        }
        expect_same(totals, expected, "sums of " + std::to_string(n));
        double norm = std::sqrt(expected[1]);
        for (double max : {norm / 2, norm * 2, norm}) {
            Buffer<float> clipped(x), reference(x);
            if (norm > max) hqk_scale_portable(reference.data(), n, (float)(max / norm));
            emulated::launch(blocks, SCALE_THREADS, [&] { hqk_clip_norm_cuda(clipped.data(), n, totals.data() + 1, max); });
            expect_same(clipped, reference, "clip_norm of " + std::to_string(n));
        }
        Buffer<float> scaled_here(x), reference(x);
        hqk_scale_portable(reference.data(), n, -1.7f);
        emulated::launch(blocks, SCALE_THREADS, [&] { hqk_scale_cuda(scaled_here.data(), n, -1.7f); });
        expect_same(scaled_here, reference, "scale of " + std::to_string(n));
    });
}

void check_sums() {
    for (size_t offset : {0, 4, 16})
        for (size_t n : {0, 1, 15, 16, 17, 31, 33, 255, 1000}) check_sum(n, offset);
    check_sum(SUM_BLOCK - 1, 0);
    check_sum(2 * SUM_BLOCK + 37, 0);
    check_sum(SUM_BLOCK + 5, 4);
    /* A sum that is not finite leaves x alone, whatever it is. */
    for (double total : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
        auto x = filled<float>(40, any_float);
        Buffer<float> found(x);
        emulated::launch(2, SCALE_THREADS, [&] { hqk_clip_norm_cuda(found.data(), 40, &total, 1.0); });
        expect_same(found, x, "clip_norm of what is not finite");
    }
}
