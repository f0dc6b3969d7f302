#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define HQK_NAME(op) op##_portable
#define LANES 4
#define VECTORS 1
#define MOST_CENTROIDS 6

typedef struct { float lane[LANES]; } vec;
typedef struct { uint32_t lane[LANES]; } ints;
typedef ints flags;

#define EACH for (int l = 0; l < LANES; l++)
static inline vec v_load(const float *p) { vec v; EACH v.lane[l] = p[l]; return v; }
static inline void v_store(float *p, vec a) { EACH p[l] = a.lane[l]; }
static inline vec v_all(float a) { vec v; EACH v.lane[l] = a; return v; }
static inline vec v_add(vec a, vec b) { EACH a.lane[l] += b.lane[l]; return a; }
static inline vec v_sub(vec a, vec b) { EACH a.lane[l] -= b.lane[l]; return a; }
static inline vec v_mul(vec a, vec b) { EACH a.lane[l] *= b.lane[l]; return a; }
static inline vec v_fma(vec a, vec b, vec c) { EACH c.lane[l] += a.lane[l] * b.lane[l]; return c; }
static inline vec v_max(vec a, vec b) { EACH a.lane[l] = a.lane[l] > b.lane[l] ? a.lane[l] : b.lane[l]; return a; }
static inline vec v_min(vec a, vec b) { EACH a.lane[l] = a.lane[l] < b.lane[l] ? a.lane[l] : b.lane[l]; return a; }
static inline vec v_sqrt(vec a) { EACH a.lane[l] = sqrtf(a.lane[l]); return a; }
static inline flags v_less(vec a, vec b) { flags f; EACH f.lane[l] = a.lane[l] < b.lane[l]; return f; }
static inline vec v_pick(flags f, vec yes, vec no) { EACH no.lane[l] = f.lane[l] ? yes.lane[l] : no.lane[l]; return no; }
static inline uint32_t v_bits(flags f) { uint32_t b = 0; EACH b |= f.lane[l] << l; return b; }
static inline ints i_load(const uint32_t *p) { ints v; EACH v.lane[l] = p[l]; return v; }
static inline void i_store(uint32_t *p, ints a) { EACH p[l] = a.lane[l]; }
static inline ints i_all(uint32_t a) { ints v; EACH v.lane[l] = a; return v; }
static inline flags i_same(ints a, ints b) { EACH a.lane[l] = a.lane[l] == b.lane[l]; return a; }
static inline ints i_pick(flags f, ints yes, ints no) { EACH no.lane[l] = f.lane[l] ? yes.lane[l] : no.lane[l]; return no; }

static inline void transpose4(const float *const *rows, size_t i, float *out, size_t stride) {
    for (int j = 0; j < 4; j++) EACH out[j * stride + l] = rows[l][i + j];
}

#include "body.h"
