//! The ternary family: values one by one, sums in i64.
#![forbid(unsafe_code)]

/// `sign(w)` where `|w|` exceeds the threshold, else 0. `thresholds`: one, or one a row of `cols` weights.
pub fn ternary_quantize(weights: &[f32], cols: usize, thresholds: &[f32]) -> Vec<i8> {
    let threshold = |i: usize| if thresholds.len() == 1 { thresholds[0] } else { thresholds[i / cols] };
    let quantize = |(i, w): (usize, &f32)| (*w > threshold(i)) as i8 - (*w < -threshold(i)) as i8;
    weights.iter().enumerate().map(quantize).collect()
}

/// The 2-bit code (weight + 1) of `[row][col]` in a packed matrix of `cols` columns, by the definition of the layout.
pub fn ternary_code(packed: &[u8], cols: usize, row: usize, col: usize) -> u8 {
    let step = row / 64 * cols.div_ceil(16) + col / 16;
    let byte = packed[256 * step + 64 * (row % 64 / 16) + 4 * (row % 16) + col % 4];
    byte >> (2 * (col % 16 / 4)) & 3
}

/// `y[t][r] = sum_c w[r][c] * x[t][c]` for `w` `[rows, cols]`, `x` `[tokens, cols]`.
pub fn ternary_matmul(w: &[i8], x: &[i8], rows: usize, cols: usize, tokens: usize) -> Vec<i64> {
    let product = |t: usize, r: usize| -> i64 {
        (0..cols).map(|c| i64::from(w[r * cols + c]) * i64::from(x[t * cols + c])).sum()
    };
    (0..tokens).flat_map(|t| (0..rows).map(move |r| product(t, r))).collect()
}

/// `dx[t][c] = sum_r w[r][c] * dy[t][r]` for `w` `[rows, cols]`, `dy` `[tokens, rows]`.
pub fn ternary_matmul_transposed(w: &[i8], dy: &[i8], rows: usize, cols: usize, tokens: usize) -> Vec<i64> {
    let product = |t: usize, c: usize| -> i64 {
        (0..rows).map(|r| i64::from(w[r * cols + c]) * i64::from(dy[t * rows + r])).sum()
    };
    (0..tokens).flat_map(|t| (0..cols).map(move |c| product(t, c))).collect()
}
