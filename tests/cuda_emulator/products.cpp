/* Products with ternary weights, against the portable C kernels. */
#include "harness.h"

#include <matvec.cu>
#include <ternary.cu>
#include <ternary_transposed.cu>

/* Outputs [tokens, outputs] at a stride, floats and integers, as the C kernels and as a launch leave them. */
struct Outputs {
    size_t tokens, outputs, stride;
    Buffer<float> y;
    Buffer<int32_t> integers;

    Outputs(size_t tokens, size_t outputs, size_t stride)
        : tokens(tokens), outputs(outputs), stride(stride), y(length(tokens, outputs, stride)),
          integers(length(tokens, outputs, stride)) {}

    static size_t length(size_t tokens, size_t outputs, size_t stride) {
        return tokens && outputs ? (tokens - 1) * stride + outputs : 0;
    }

    Product target(bool floats, const Buffer<float> &x_scales, const Buffer<int32_t> &x_sums, const float *weight_scales,
                   size_t weight_scale_stride) const {
        return {y.data(), floats ? nullptr : integers.data(), stride, x_scales.data(), x_sums.data(), weight_scales,
                weight_scale_stride};
    }
};

/* Longer sums than this take the tiled product minutes here. */
static constexpr size_t LONGEST_TILED = 1 << 12;

struct Case {
    size_t rows, cols, tokens, x_gap, x_offset;
    int8_t (*value)();
    uint8_t (*code)();

    std::string name(const char *kernel, unsigned blocks) const {
        return std::string(kernel) + " " + std::to_string(rows) + " x " + std::to_string(cols) + ", " + std::to_string(tokens) +
               " tokens, gap " + std::to_string(x_gap) + ", offset " + std::to_string(x_offset) + ", grid " +
               std::to_string(blocks);
    }
};

/* Runs `kernel(target)` for floats on one schedule, for integers on the other, and compares. */
template <typename Kernel>
static void compare(const Case &at, const char *name, int threads, const Outputs &expected, const Buffer<float> &x_scales,
                    const Buffer<int32_t> &x_sums, const float *weight_scales, size_t stride, Kernel kernel) {
    each_launch([&](unsigned blocks) {
        Outputs found(expected.tokens, expected.outputs, expected.stride);
        bool floats = emulated::schedule == emulated::Schedule::early;
        Product to = found.target(floats, x_scales, x_sums, weight_scales, stride);
        emulated::launch(blocks, threads, [&] { kernel(to); });
        if (floats)
            expect_same(found.y, expected.y, at.name(name, blocks));
        else
            expect_same(found.integers, expected.integers, at.name(name, blocks));
    });
}

static void check_forward(const Case &at) {
    size_t rows = at.rows, cols = at.cols, tokens = at.tokens, x_stride = cols + at.x_gap;
    auto packed = filled<uint8_t>(packed_bytes(rows, cols, 16), at.code);
    auto x = filled<int8_t>(Outputs::length(tokens, cols, x_stride), at.value, at.x_offset);
    auto x_scales = filled<float>(tokens, any_scale), scales = filled<float>(rows, any_scale);
    auto x_sums = filled<int32_t>(tokens, any_sum);
    size_t stride = (rows + cols) % 2; /* one scale, or one a row */
    Outputs expected(tokens, rows, rows + 2);
    hqk_ternary_matmul_portable(packed.data(), rows, cols, x.data(), x_stride, tokens, x_scales.data(), x_sums.data(),
                                scales.data(), stride, expected.y.data(), expected.stride);
    hqk_ternary_matmul_i32_portable(packed.data(), rows, cols, x.data(), x_stride, tokens, x_sums.data(),
                                    expected.integers.data(), expected.stride);
    if (cols <= LONGEST_TILED)
        compare(at, "ternary_matmul", MATMUL_THREADS, expected, x_scales, x_sums, scales.data(), stride,
                [&](Product to) { hqk_ternary_matmul_cuda(packed.data(), rows, cols, x.data(), x_stride, tokens, to); });
    compare(at, "ternary_few", FEW_THREADS, expected, x_scales, x_sums, scales.data(), stride, [&](Product to) {
        hqk_ternary_few_cuda(packed.data(), rows, cols, x.data(), x_stride, tokens, to);
    });
    if (tokens == 1)
        compare(at, "ternary_matvec", MATVEC_THREADS, expected, x_scales, x_sums, scales.data(), stride,
                [&](Product to) { hqk_ternary_matvec_cuda(packed.data(), rows, cols, x.data(), to); });
}

/* The transposed product with the C kernels: 64 columns at a time through panels. */
static void check_transposed(const Case &at) {
    size_t rows = at.rows, cols = at.cols, tokens = at.tokens, dy_stride = rows + at.x_gap;
    auto packed = filled<uint8_t>(packed_bytes(rows, cols, 16), at.code);
    auto dy = filled<int8_t>(Outputs::length(tokens, rows, dy_stride), at.value, at.x_offset);
    auto scales = filled<float>(tokens, any_scale);
    auto sums = filled<int32_t>(tokens, any_sum);
    Outputs expected(tokens, cols, cols + 1);
    Buffer<uint8_t> panels(64 * ((rows + 15) / 16 * 16));
    float one = 1.0f;
    for (size_t col = 0; col < cols && tokens; col += 64) {
        size_t outputs = cols - col < 64 ? cols - col : 64;
        hqk_ternary_panels_transposed_portable(packed.data(), rows, cols, col, panels.data());
        hqk_panel_matmul_portable(panels.data(), outputs, rows, dy.data(), dy_stride, tokens, scales.data(), sums.data(), &one,
                                  0, expected.y.data() + col, expected.stride);
        hqk_panel_matmul_i32_portable(panels.data(), outputs, rows, dy.data(), dy_stride, tokens, sums.data(),
                                      expected.integers.data() + col, expected.stride);
    }
    compare(at, "ternary_transposed", TRANSPOSED_THREADS, expected, scales, sums, nullptr, 0, [&](Product to) {
        hqk_ternary_transposed_cuda(packed.data(), rows, cols, dy.data(), dy_stride, tokens, to);
    });
}

static void check_five_trits(const Case &at) {
    size_t rows = at.rows, cols = at.cols;
    auto packed = filled<uint8_t>(packed_bytes(rows, cols, 20), +[] { return (uint8_t)draw(); });
    auto x = filled<int8_t>(cols, at.value, at.x_offset);
    auto x_scales = filled<float>(1, any_scale), scales = filled<float>(rows, any_scale);
    auto x_sums = filled<int32_t>(1, any_sum);
    Outputs expected(1, rows, rows);
    hqk_pack5_matvec_portable(packed.data(), rows, cols, x.data(), x_scales[0], x_sums[0], scales.data(), 1,
                              expected.y.data());
    hqk_pack5_matvec_i32_portable(packed.data(), rows, cols, x.data(), x_sums[0], expected.integers.data());
    compare(at, "pack5_matvec", MATVEC_THREADS, expected, x_scales, x_sums, scales.data(), 1,
            [&](Product to) { hqk_pack5_matvec_cuda(packed.data(), rows, cols, x.data(), to); });
}

static int8_t highest() { return 127; }
static int8_t lowest() { return -128; }
static uint8_t plus_codes() { return 0xAA; }
static uint8_t minus_codes() { return 0; }

void check_products() {
    size_t turn = 0;
    for (size_t rows : SIZES)
        for (size_t cols : SIZES) {
            /* Rows of x with and without gaps, at boundaries of 16 and off them. */
            size_t tokens = (size_t[]){1, 2, 5, 17, 33}[turn % 5], offset = (size_t[]){0, 1, 16, 4}[turn % 4];
            Case at = {rows, cols, tokens, (size_t[]){0, 16 - cols % 16, 3}[turn % 3], offset, any_byte, any_code};
            check_forward(at);
            at.x_gap = turn % 2 ? 16 - rows % 16 : 0;
            check_transposed(at);
            at.tokens = 1;
            check_five_trits(at);
            turn++;
        }
    for (size_t tokens : {0, 1, 8, 9, 16, 32, 127, 129, 150}) check_forward({70, 100, tokens, 12, 0, any_byte, any_code});
    for (size_t tokens : {0, 1, 8, 9, 128, 131}) check_transposed({100, 290, tokens, 12, 0, any_byte, any_code});
    /* Long sums, every pipeline full, at the ends of the ranges. */
    for (auto value : {highest, lowest})
        for (auto code : {plus_codes, minus_codes}) {
            check_forward({65, 1500, 3, 4, 0, value, code});
            check_transposed({700, 20, 3, 4, 0, value, code});
            check_forward({1, 1 << 18, 1, 0, 0, value, code});
        }
}
