/* What the parts of the harness share: exact-size heap buffers, random values, comparisons, launches under every schedule. */
#ifndef HQ_CUDA_HARNESS_H
#define HQ_CUDA_HARNESS_H

#include <layout.cuh>

extern "C" {
#include <hqk.h>
}

#include <initializer_list>
#include <string>

inline uint32_t draw() {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* `n` elements that end where the heap block ends and begin `offset` bytes behind a multiple of 256. */
template <typename T>
class Buffer {
    size_t count, offset;
    uint8_t *memory;

  public:
    explicit Buffer(size_t n, size_t offset = 0) : count(n), offset(offset) {
        void *place = nullptr;
        if (posix_memalign(&place, 256, offset + n * sizeof(T))) abort();
        memory = (uint8_t *)memset(place, 0xA5, offset + n * sizeof(T));
    }
    Buffer(const Buffer &other) : Buffer(other.count, other.offset) { memcpy((void *)data(), other.data(), count * sizeof(T)); }
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { free(memory); }
    T *data() const { return (T *)(memory + offset); }
    size_t size() const { return count; }
    T &operator[](size_t i) { return data()[i]; }
    const T &operator[](size_t i) const { return data()[i]; }
};

template <typename T>
Buffer<T> filled(size_t n, T (*value)(), size_t offset = 0) {
    Buffer<T> buffer(n, offset);
    for (size_t i = 0; i < n; i++) buffer[i] = value();
    return buffer;
}

inline int8_t any_byte() { return (int8_t)draw(); }
inline uint8_t any_code() { return (uint8_t)(draw() & 0xAA); }
inline int8_t any_trit() { return (int8_t)(draw() % 3) - 1; }
inline float any_float() { return (float)(draw() % 4001) / 1000.0f - 2.0f; }
inline float any_scale() { return 0.01f + (float)(draw() % 1000) / 700.0f; }
inline int32_t any_sum() { return (int32_t)draw(); }

inline size_t packed_bytes(size_t rows, size_t cols, size_t step) { return (rows + 63) / 64 * ((cols + step - 1) / step) * 256; }

template <typename T>
void expect_same(const Buffer<T> &found, const Buffer<T> &expected, const std::string &what) {
    for (size_t i = 0; i < expected.size(); i++)
        if (memcmp(&found[i], &expected[i], sizeof(T))) {
            fprintf(stderr, "%s: element %zu of %zu is %.9g, expected %.9g\n", what.c_str(), i, expected.size(),
                    (double)found[i], (double)expected[i]);
            exit(1);
        }
}

/* Runs `check(blocks)` forwards and backwards, with fewer blocks than there is work for, and with more. */
template <typename Check>
void each_launch(Check check) {
    static unsigned turn = 0;
    for (auto schedule : {emulated::Schedule::early, emulated::Schedule::late}) {
        emulated::schedule = schedule;
        check(1 + turn % 3);
        turn += schedule == emulated::Schedule::late ? 2 : 1;
    }
}

#define SIZES {0, 1, 3, 15, 16, 17, 31, 63, 64, 65, 97, 128, 131, 257}

void check_primitives();
void check_packing();
void check_products();
void check_weight_gradients();
void check_rows();
void check_sums();
void check_kmeans();

#endif
