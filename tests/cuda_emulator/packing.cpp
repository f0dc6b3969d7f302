/* Quantizing, packing and unpacking, against the portable C kernels. */
#include "harness.h"

#include <pack5.cu>
#include <ternary_pack.cu>

#include <limits>

static std::string name(const char *kernel, size_t rows, size_t cols, size_t offset) {
    return std::string(kernel) + " " + std::to_string(rows) + " x " + std::to_string(cols) + ", offset " + std::to_string(offset);
}

/* Weights around the threshold 0.5, ties, NaN and infinities among them. */
static float any_weight() {
    static const float odd[] = {0.5f, -0.5f, 0.0f, -0.0f, std::numeric_limits<float>::quiet_NaN(),
                                std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), 1e-45f};
    return draw() % 4 ? any_float() : odd[draw() % 8];
}

static float any_threshold() { return (float)(draw() % 3) / 2.0f; }

static int8_t quantized(float weight, float threshold) { return (int8_t)((weight > threshold) - (weight < -threshold)); }

static void check(size_t rows, size_t cols, size_t offset) {
    auto weights = filled<float>(rows * cols, any_weight, 4 * offset);
    auto thresholds = filled<float>(rows ? rows : 1, any_threshold);
    auto trits = filled<int8_t>(rows * cols, any_byte, offset);
    Buffer<uint8_t> two(packed_bytes(rows, cols, 16)), five(packed_bytes(rows, cols, 20));
    for (size_t stride : {0, 1}) {
        hqk_ternary_quantize_pack_portable(weights.data(), rows, cols, thresholds.data(), stride, two.data());
        Buffer<int8_t> own(rows * cols);
        for (size_t i = 0; i < rows * cols; i++) own[i] = quantized(weights[i], thresholds[i / cols * stride]);
        hqk_pack5_portable(own.data(), rows, cols, five.data());
        each_launch([&](unsigned blocks) {
            Buffer<uint8_t> found_two(two.size()), found_five(five.size());
            emulated::launch(blocks, PACK_THREADS, [&] {
                hqk_ternary_quantize_pack_cuda(weights.data(), rows, cols, thresholds.data(), stride, found_two.data());
            });
            emulated::launch(blocks, PACK5_THREADS, [&] {
                hqk_quantize_pack5_cuda(weights.data(), rows, cols, thresholds.data(), stride, found_five.data());
            });
            expect_same(found_two, two, name("ternary_quantize_pack", rows, cols, offset));
            expect_same(found_five, five, name("quantize_pack5", rows, cols, offset));
        });
    }
    Buffer<int8_t> signs(rows * cols), out_two(rows * cols), out_five(rows * cols);
    for (size_t i = 0; i < rows * cols; i++) signs[i] = (int8_t)((trits[i] > 0) - (trits[i] < 0));
    hqk_ternary_pack_portable(trits.data(), rows, cols, two.data());
    hqk_pack5_portable(signs.data(), rows, cols, five.data());
    each_launch([&](unsigned blocks) {
        Buffer<uint8_t> found_two(two.size()), found_five(five.size());
        Buffer<int8_t> back_two(rows * cols, offset), back_five(rows * cols, offset);
        emulated::launch(blocks, PACK_THREADS, [&] { hqk_ternary_pack_cuda(trits.data(), rows, cols, found_two.data()); });
        emulated::launch(blocks, PACK5_THREADS, [&] { hqk_pack5_cuda(trits.data(), rows, cols, found_five.data()); });
        emulated::launch(blocks, PACK_THREADS, [&] { hqk_ternary_unpack_cuda(two.data(), rows, cols, back_two.data()); });
        emulated::launch(blocks, PACK5_THREADS, [&] { hqk_unpack5_cuda(five.data(), rows, cols, back_five.data()); });
        expect_same(found_two, two, name("ternary_pack", rows, cols, offset));
        expect_same(found_five, five, name("pack5", rows, cols, offset));
        expect_same(back_two, signs, name("ternary_unpack", rows, cols, offset));
        expect_same(back_five, signs, name("unpack5", rows, cols, offset));
    });
    /* Any byte decodes, and as on the CPU. */
    for (size_t i = 0; i < two.size(); i++) two[i] = (uint8_t)draw();
    for (size_t i = 0; i < five.size(); i++) five[i] = (uint8_t)draw();
    hqk_ternary_unpack_portable(two.data(), rows, cols, out_two.data());
    hqk_unpack5_portable(five.data(), rows, cols, out_five.data());
    each_launch([&](unsigned blocks) {
        Buffer<int8_t> back_two(rows * cols, offset), back_five(rows * cols, offset);
        emulated::launch(blocks, PACK_THREADS, [&] { hqk_ternary_unpack_cuda(two.data(), rows, cols, back_two.data()); });
        emulated::launch(blocks, PACK5_THREADS, [&] { hqk_unpack5_cuda(five.data(), rows, cols, back_five.data()); });
        expect_same(back_two, out_two, name("ternary_unpack of any bytes", rows, cols, offset));
        expect_same(back_five, out_five, name("unpack5 of any bytes", rows, cols, offset));
    });
}

void check_packing() {
    size_t turn = 0;
    for (size_t rows : SIZES)
        for (size_t cols : SIZES) check(rows, cols, (size_t[]){0, 1, 16, 4}[turn++ % 4]);
    check(70, 272, 0); /* 16 bytes at a time */
}
