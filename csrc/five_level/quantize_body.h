/* Quantizing where no ISA has it by hand: 16 codes by comparisons that the compiler vectorizes. */
void HQK_NAME(hqk_five_level_quantize_pack)(const float *weights, size_t rows, size_t cols, const float *limits,
                                            size_t limit_stride, uint8_t *packed) {
    fill_five_padding(rows, cols, packed);
    for (size_t r = 0; r < rows; r += 2)
        for (size_t c = 0; c < cols; c += HQK_STEP_COLS) {
            pair p;
            memset(&p, 2, sizeof p);
            for (size_t i = 0; i < hqk_min(rows - r, 2); i++) {
                const float *w = weights + (r + i) * cols + c, *limit = limits + (r + i) * limit_stride;
                float part[HQK_STEP_COLS] = {0}, inner = limit[0], outer = limit[1];
                if (cols - c < HQK_STEP_COLS) w = memcpy(part, w, (cols - c) * sizeof *part);
                for (int l = 0; l < HQK_STEP_COLS; l++)
                    p.code[i][l] =
                        (uint8_t)(2 + (w[l] > inner) + (w[l] > outer) - (w[l] < -inner) - (w[l] < -outer));
            }
            store_pair(&p, r, packed + hqk_five_step(r, c, cols));
        }
}
