/* Reading ahead, into the second-level cache: lines on their way to the first-level one hold up the loads themselves (Zen 4).
 * It pays where several rows are read side by side, on new 4 KiB pages all the time; a single stream is faster left to the
 * hardware. An address past the end is harmless: nothing is loaded that would fault. */
#ifndef HQK_PREFETCH_H
#define HQK_PREFETCH_H

#include <stddef.h>
#include <stdint.h>

static inline void hqk_prefetch(const void *p, size_t bytes_ahead) {
#if defined(__GNUC__)
    __builtin_prefetch((const void *)((uintptr_t)p + bytes_ahead), 0, 2);
#else
    (void)p, (void)bytes_ahead;
#endif
}

#endif
