#include <stddef.h>

#define HQK_NAME(op) op##_portable
#define POINTS 6
#define PANEL 16

static void tile(const float *points, size_t stride, size_t count, const float *panel, size_t dim,
                 float dots[POINTS][PANEL]) {
    for (size_t t = 0; t < count; t++) {
        float sum[PANEL] = {0};
        for (size_t i = 0; i < dim; i++)
            for (int j = 0; j < PANEL; j++) sum[j] += points[t * stride + i] * panel[i * PANEL + j];
        for (int j = 0; j < PANEL; j++) dots[t][j] = sum[j];
    }
}

#include "body.h"
