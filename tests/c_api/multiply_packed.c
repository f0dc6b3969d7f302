/* Multiplies a matrix of ternary weights, packed at 2 bits each, by a few rows of activations.
 *
 *     cc multiply_packed.c $(pkg-config --cflags --libs hybridq) -lm && ./a.out */
#include <hybridq.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void check(hq_status status) {
    if (status == HQ_OK) return;
    fprintf(stderr, "%s\n", hq_last_error());
    exit(1);
}

int main(void) {
    enum { OUTPUTS = 256, INPUTS = 512, TOKENS = 4 };
    static float weights[OUTPUTS * INPUTS], x[TOKENS * INPUTS], y[TOKENS * OUTPUTS];
    for (int i = 0; i < OUTPUTS * INPUTS; i++) weights[i] = sinf(0.7f * (float)i);
    for (int i = 0; i < TOKENS * INPUTS; i++) x[i] = cosf(0.3f * (float)i);

    hq_context *context = NULL;
    check(hq_context_new(NULL, &context));

    /* Weights: once. Every row keeps a scale of its own. */
    size_t bytes = 0;
    check(hq_ternary_packed_bytes(OUTPUTS, INPUTS, &bytes));
    uint8_t *packed = malloc(bytes);
    if (packed == NULL) return 1;
    static float scales[OUTPUTS];
    check(hq_ternary_pack(context, weights, OUTPUTS, INPUTS, HQ_SCALE_PER_ROW, packed, bytes, scales, OUTPUTS));

    /* Activations: int8 with a scale and a sum a row. */
    static int8_t values[TOKENS * INPUTS];
    float x_scales[TOKENS];
    int32_t x_sums[TOKENS];
    check(hq_quantize_rows(context, x, TOKENS, INPUTS, values, x_scales, x_sums));
    check(hq_ternary_matmul(context, packed, bytes, OUTPUTS, INPUTS, scales, OUTPUTS, values, x_scales, x_sums, TOKENS, y));

    /* The same with plain loops, to see that it is the same. */
    static int8_t trits[OUTPUTS * INPUTS];
    check(hq_ternary_unpack(context, packed, bytes, OUTPUTS, INPUTS, trits));
    double worst = 0.0;
    for (int t = 0; t < TOKENS; t++) {
        for (int o = 0; o < OUTPUTS; o++) {
            long sum = 0;
            for (int k = 0; k < INPUTS; k++) sum += (long)values[t * INPUTS + k] * trits[o * INPUTS + k];
            double error = fabs((double)sum * x_scales[t] * scales[o] - y[t * OUTPUTS + o]);
            if (error > worst) worst = error;
        }
    }
    printf("%d x %d weights in %zu bytes (f32: %zu), largest difference from plain loops %.1e\n", OUTPUTS, INPUTS, bytes,
           sizeof weights, worst);
    free(packed);
    hq_context_free(context);
    return worst < 1e-4 ? 0 : 1;
}
