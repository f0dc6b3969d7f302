/* What the test programs stop with when something is not as it must be. */
#ifndef CHECK_H
#define CHECK_H

#include <hybridq.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, hq_last_error()); \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)

#endif
