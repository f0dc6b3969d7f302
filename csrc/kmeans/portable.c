#include <stddef.h>

#define HQK_NAME(op) op##_portable
#define POINTS 6
#define PANEL 16

static void tile(const float *points, size_t count, const float *panel, size_t dim, const float *norms, float *out,
                 size_t stride) {
    for (size_t t = 0; t < count; t++, points += dim, out += stride) {
        float sum[PANEL] = {0};
        for (size_t i = 0; i < dim; i++)
            for (int j = 0; j < PANEL; j++) sum[j] += points[i] * panel[i * PANEL + j];
        for (int j = 0; j < PANEL; j++) out[j] = norms[j] - 2.0f * sum[j];
    }
}

static inline void panel_least(const float *d, float *least) {
    for (int j = 0; j < PANEL; j++) least[j] = d[j] < least[j] ? d[j] : least[j];
}

static inline int panel_within(const float *d, float limit) {
    int within = 0;
    for (int j = 0; j < PANEL; j++) within |= !(d[j] > limit);
    return within;
}

#include "body.h"
