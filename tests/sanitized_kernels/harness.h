/* What the parts of the harness share: exact-size heap buffers, kernels looked up by name, sizes. */
#ifndef HARNESS_H
#define HARNESS_H

#include <hqk.h>
#include <stdlib.h>

/* The ISA whose kernels run, as a symbol suffix. */
extern const char *isa;

/* The kernel `name`_`isa`, or NULL where that ISA leaves it to a lower one. Notes that it was asked for. */
void *find_kernel(const char *name);

/* Calls hqk_<op> of the ISA if there is one. */
#define RUN(op, ...)                                                                 \
    do {                                                                             \
        __typeof__(&hqk_##op##_portable) kernel = find_kernel("hqk_" #op);           \
        if (kernel) kernel(__VA_ARGS__);                                             \
    } while (0)

/* Heap buffers of exactly `n` elements: the sanitizer sees the first byte beyond. Freed by free_all. */
void *allocate(size_t n, size_t size);
float *floats(size_t n); /* random, in -2 to 2 */
int8_t *bytes(size_t n); /* any */
int8_t *trits(size_t n); /* -1, 0, 1 */
uint8_t *unset(size_t n);
void free_all(void);

#define NEW(type, n) ((type *)allocate(n, sizeof(type)))

uint32_t draw(void);

/* Sizes around every vector width, step and block. */
#define ODD_SIZES 0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 255, 257
#define COUNT(array) (sizeof(array) / sizeof *(array))

static inline size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

void run_elements(void);
void run_rows(void);
void run_packing(void);
void run_products(void);

#endif
