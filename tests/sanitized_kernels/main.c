/* Runs every kernel of csrc/hqk.h on heap buffers of exactly the size its contract states, over sizes around every
 * vector width, built with the address and undefined-behaviour sanitizers. Arguments: ISAs. Prints "ran <symbol>" for each
 * kernel, which tests/sanitized_kernels.rs compares with the header. */
#define _GNU_SOURCE
#include "harness.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BUFFERS = 64, MAX_SYMBOLS = 4096 };

const char *isa;

static void *buffers[MAX_BUFFERS];
static size_t buffer_count;
static struct {
    char name[96];
    void *kernel;
} symbols[MAX_SYMBOLS];
static size_t symbol_count;

static void fail(const char *what, const char *name) {
    fprintf(stderr, "%s: %s\n", what, name);
    exit(1);
}

void *find_kernel(const char *name) {
    char symbol[sizeof symbols[0].name];
    snprintf(symbol, sizeof symbol, "%s_%s", name, isa);
    for (size_t i = symbol_count; i-- > 0;)
        if (!strcmp(symbols[i].name, symbol)) return symbols[i].kernel;
    if (symbol_count == MAX_SYMBOLS) fail("too many kernels", symbol);
    strcpy(symbols[symbol_count].name, symbol);
    void *kernel = symbols[symbol_count++].kernel = dlsym(RTLD_DEFAULT, symbol);
    if (kernel) printf("ran %s\n", symbol);
    if (!kernel && !strcmp(isa, "portable")) fail("no portable version", symbol);
    return kernel;
}

uint32_t draw(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

void *allocate(size_t n, size_t size) {
    if (buffer_count == MAX_BUFFERS) fail("too many buffers", isa);
    void *memory = malloc(n * size);
    if (!memory && n) fail("out of memory", isa);
    return buffers[buffer_count++] = memory;
}

void free_all(void) {
    while (buffer_count) free(buffers[--buffer_count]);
}

float *floats(size_t n) {
    float *x = NEW(float, n);
    for (size_t i = 0; i < n; i++) x[i] = (float)(draw() % 4001) / 1000.0f - 2.0f;
    return x;
}

int8_t *bytes(size_t n) {
    int8_t *x = NEW(int8_t, n);
    for (size_t i = 0; i < n; i++) x[i] = (int8_t)draw();
    return x;
}

int8_t *trits(size_t n) {
    int8_t *x = NEW(int8_t, n);
    for (size_t i = 0; i < n; i++) x[i] = (int8_t)(draw() % 3) - 1;
    return x;
}

uint8_t *unset(size_t n) { return NEW(uint8_t, n); }

int main(int count, char **names) {
    for (int i = 1; i < count; i++) {
        isa = names[i];
        run_elements();
        run_rows();
        run_packing();
        run_products();
    }
    puts("all kernels stayed inside their buffers");
    return 0;
}
