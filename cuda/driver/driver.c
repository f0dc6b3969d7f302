/* libcuda as a static library: every function of the NVIDIA driver that the bindings name jumps through a table. The table is
 * filled from libcuda.so.1 when the program starts; where there is no driver its entries answer CUDA_ERROR_NO_DEVICE. So one
 * program starts on every machine and says there what it lacks.
 *
 * symbols.h, made by build.rs from symbols.txt, is ENTRY(number, name) for each. */
#include <dlfcn.h>
#include <stddef.h>

enum { NO_DEVICE = 100, NOT_SUPPORTED = 801 };

#define ENTRY(number, name) #name,
static const char *const names[] = {
#include "symbols.h"
};
#undef ENTRY

#define COUNT (sizeof names / sizeof *names)

__attribute__((visibility("hidden"))) void *hqk_cuda_driver[COUNT];

#if defined(__x86_64__)
#define JUMP(number) "jmp *hqk_cuda_driver+8*" #number "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(number)                             \
    "adrp x16, hqk_cuda_driver+8*" #number "\n"  \
    "ldr x16, [x16, :lo12:hqk_cuda_driver+8*" #number "]\n" \
    "br x16\n"
#else
#error "feature cuda: x86-64 or 64-bit Arm"
#endif

#define ENTRY(number, name) \
    __asm__(".text\n.globl " #name "\n.hidden " #name "\n.type " #name ", %function\n" #name ":\n" JUMP(number));
#include "symbols.h"
#undef ENTRY

static int no_device(void) { return NO_DEVICE; }
static int not_supported(void) { return NOT_SUPPORTED; }

static int error_text(int error, const char **text) {
    *text = error == NO_DEVICE ? "no CUDA device" : "no CUDA driver";
    return 0;
}

static int same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

__attribute__((constructor)) static void find_driver(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < COUNT; i++) {
        int text = same(names[i], "cuGetErrorString") || same(names[i], "cuGetErrorName");
        void *missing = driver ? (void *)not_supported : text ? (void *)error_text : (void *)no_device;
        void *found = driver ? dlsym(driver, names[i]) : NULL;
        hqk_cuda_driver[i] = found ? found : missing;
    }
}
