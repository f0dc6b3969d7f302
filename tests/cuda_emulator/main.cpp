/* Runs the kernels of cuda/ under the emulator on heap buffers of exactly the size they are promised, and compares with the
 * portable C kernels bit for bit. Arguments: the parts to run. */
#include "harness.h"

#include <chrono>

static void run(const char *name, void (*check)()) {
    auto start = std::chrono::steady_clock::now();
    unsigned long launches = emulated::launches, products = emulated::products;
    check();
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    printf("%s: %lu launches, %lu matrix instructions, %.1f s\n", name, emulated::launches - launches,
           emulated::products - products, seconds.count());
}

int main(int count, char **names) {
    const struct { const char *name; void (*check)(); } parts[] = {
        {"primitives", check_primitives}, {"packing", check_packing}, {"products", check_products},
        {"weight_gradients", check_weight_gradients},
        {"rows", check_rows}, {"sums", check_sums}, {"kmeans", check_kmeans},
    };
    unsigned ran = 0;
    for (const auto &part : parts)
        for (int i = 1; i < count; i++)
            if (std::string(names[i]) == part.name) run(part.name, part.check), ran++;
    if (ran + 1 != (unsigned)count) return fprintf(stderr, "a part that is none\n"), 2;
    puts("agrees with the portable kernels");
    return 0;
}
