/* Quantizes a file of raw f32 weights (row-major, native byte order) and writes the packed form beside its scales:
 *
 *     quantize_file weights.f32 ROWS COLS packed.bin
 *
 * packed.bin: ROWS scales (f32), then the codes at five trits a byte. */
#include <hybridq.h>
#include <stdio.h>
#include <stdlib.h>

static void check(hq_status status) {
    if (status == HQ_OK) return;
    fprintf(stderr, "%s\n", hq_last_error());
    exit(1);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (memory == NULL) fprintf(stderr, "out of memory\n"), exit(1);
    return memory;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: quantize_file WEIGHTS ROWS COLS OUT\n");
        return 2;
    }
    const size_t rows = strtoul(argv[2], NULL, 10), cols = strtoul(argv[3], NULL, 10), count = rows * cols;
    float *weights = allocate(count, sizeof *weights), *values = allocate(count, sizeof *values);
    FILE *file = fopen(argv[1], "rb");
    if (file == NULL || fread(weights, sizeof *weights, count, file) != count) {
        fprintf(stderr, "%s: expected %zu numbers\n", argv[1], count);
        return 1;
    }
    fclose(file);

    hq_context *context = NULL;
    check(hq_context_new(NULL, &context));
    hq_quantizer quantizer = {0};
    quantizer.struct_size = sizeof quantizer;
    quantizer.precision = HQ_PRECISION_TERNARY;
    quantizer.granularity = HQ_SCALE_PER_ROW;
    quantizer.least_squares = 1;
    size_t scale_count = 0, bytes = 0;
    check(hq_scale_count(&quantizer, rows, cols, &scale_count));
    check(hq_codes_bytes(quantizer.precision, count, &bytes));

    int8_t *codes = allocate(count, 1);
    float *scales = allocate(scale_count, sizeof *scales);
    uint8_t *dense = allocate(bytes, 1);
    check(hq_quantize(context, &quantizer, weights, rows, cols, codes, scales, scale_count, values));
    check(hq_codes_pack(quantizer.precision, codes, count, dense, bytes));

    double error = 0.0, power = 0.0;
    for (size_t i = 0; i < count; i++) {
        error += (double)(values[i] - weights[i]) * (values[i] - weights[i]);
        power += (double)weights[i] * weights[i];
    }
    file = fopen(argv[4], "wb");
    if (file == NULL || fwrite(scales, sizeof *scales, scale_count, file) != scale_count ||
        fwrite(dense, 1, bytes, file) != bytes || fclose(file) != 0) {
        fprintf(stderr, "%s: cannot be written\n", argv[4]);
        return 1;
    }
    printf("%zu x %zu weights: %zu bytes instead of %zu, squared error %.3f of the power\n", rows, cols,
           bytes + scale_count * sizeof *scales, count * sizeof *weights, power > 0.0 ? error / power : 0.0);
    free(weights), free(values), free(codes), free(scales), free(dense);
    hq_context_free(context);
    return 0;
}
