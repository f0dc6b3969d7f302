/* The instructions themselves: the emulator's matrix product against plain loops, and the parts of device.cuh that stand in for
 * it where a GPU has only smaller ones. */
#define SMALL_MMA
#include "harness.h"

void check_primitives() {
    for (int round = 0; round < 20; round++) {
        auto a = filled<int8_t>(16 * 32, any_byte), b = filled<int8_t>(32 * 8, any_byte);
        auto before = filled<int32_t>(16 * 8, any_sum);
        Buffer<int32_t> expected(before), composed(16 * 8), whole(16 * 8);
        for (int row = 0; row < 16; row++)
            for (int col = 0; col < 8; col++)
                for (int k = 0; k < 32; k++) {
                    uint32_t product = (uint32_t)(a[row * 32 + k] * b[k * 8 + col]);
                    expected[row * 8 + col] = (int32_t)((uint32_t)expected[row * 8 + col] + product);
                }
        emulated::launch(1, 32, [&] {
            /* Registers filled by the places the header of device.cuh gives. */
            int g = fragment_row(), t = fragment_quad();
            uint32_t left[4] = {0, 0, 0, 0}, right[2] = {0, 0};
            for (int r = 0; r < 4; r++)
                for (int i = 0; i < 4; i++)
                    left[r] |= (uint32_t)(uint8_t)a[(g + r % 2 * 8) * 32 + r / 2 * 16 + 4 * t + i] << 8 * i;
            for (int r = 0; r < 2; r++)
                for (int i = 0; i < 4; i++) right[r] |= (uint32_t)(uint8_t)b[(r * 16 + 4 * t + i) * 8 + g] << 8 * i;
            int32_t small[4], large[4];
            for (int i = 0; i < 4; i++) small[i] = large[i] = before[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
            mma_16x8x32(small, left, right);
            emulated::mma(large, left, right, 16, 32, "mma_16x8x32");
            for (int i = 0; i < 4; i++) {
                composed[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = small[i];
                whole[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = large[i];
            }
        });
        expect_same(composed, expected, "the product of four smaller ones");
        expect_same(whole, expected, "the emulated product");
        uint32_t words[4] = {draw(), draw(), draw(), draw()}, turned[4];
        transpose_bytes(words, turned);
        for (int i = 0; i < 16; i++)
            if ((words[i / 4] >> 8 * (i % 4) & 255) != (turned[i % 4] >> 8 * (i / 4) & 255)) emulated::fail("transpose_bytes");
    }
}
