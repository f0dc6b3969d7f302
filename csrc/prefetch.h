/* Reading ahead. Rows and blocks of weights start on new 4 KiB pages all the time, where the hardware's own prefetcher
 * begins anew; asking for lines that lie ahead bridges that. An address past the end is harmless: nothing is loaded that
 * would fault. */
#ifndef HQK_PREFETCH_H
#define HQK_PREFETCH_H

#include <stddef.h>
#include <stdint.h>

static inline void hqk_prefetch(const void *p, size_t bytes_ahead) {
#if defined(__GNUC__)
    __builtin_prefetch((const void *)((uintptr_t)p + bytes_ahead));
#else
    (void)p, (void)bytes_ahead;
#endif
}

#endif
