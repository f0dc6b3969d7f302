/* A function with a stack of its own that can be left in the middle and entered again. The address sanitizer is told of every
 * change of stacks. */
#ifndef HQ_FIBER_H
#define HQ_FIBER_H

#include <cstddef>
#include <memory>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
inline void __sanitizer_start_switch_fiber(void **, const void *, size_t) {}
inline void __sanitizer_finish_switch_fiber(void *, const void **, size_t *) {}
#endif

class Fiber {
    static constexpr size_t STACK = 96 << 10;

    std::unique_ptr<char[]> stack{new char[STACK]};
    ucontext_t inside, outside;
    void *inside_frames = nullptr, *outside_frames = nullptr;
    const void *outside_stack = nullptr;
    size_t outside_size = 0;
    void (*function)() = nullptr;

    static inline Fiber *starting;

    static void start() {
        Fiber *self = starting;
        __sanitizer_finish_switch_fiber(nullptr, &self->outside_stack, &self->outside_size);
        self->function();
        __sanitizer_start_switch_fiber(nullptr, self->outside_stack, self->outside_size);
        setcontext(&self->outside);
    }

  public:
    void begin(void (*body)()) {
        function = body;
        getcontext(&inside);
        inside.uc_stack.ss_sp = stack.get();
        inside.uc_stack.ss_size = STACK;
        makecontext(&inside, start, 0);
    }

    /* Runs until the function leaves or ends. */
    void enter() {
        starting = this;
        __sanitizer_start_switch_fiber(&outside_frames, stack.get(), STACK);
        swapcontext(&outside, &inside);
        __sanitizer_finish_switch_fiber(outside_frames, nullptr, nullptr);
    }

    void leave() {
        __sanitizer_start_switch_fiber(&inside_frames, outside_stack, outside_size);
        swapcontext(&inside, &outside);
        __sanitizer_finish_switch_fiber(inside_frames, &outside_stack, &outside_size);
    }
};

#endif
