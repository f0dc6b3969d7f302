//! int8 activations: one scale and one sum a row.
#![forbid(unsafe_code)]

use crate::dispatch::{Context, StochasticRounding};
use crate::tensor::AlignedBuffer;

/// Rows of int8 values, `x[t][c] ~ scales[t] * values[t][c]`, with the integer sum of each row (the products on
/// weights stored as {0, 1, 2} subtract it).
#[derive(Debug, Default)]
pub struct QuantizedRows {
    /// int8 `[rows, width]`, dense rows.
    pub values: AlignedBuffer<i8>,
    /// `max(|row|) / 127` of each row (at least 1e-5 / 127).
    pub scales: AlignedBuffer<f32>,
    /// Sum of each row's int8 values.
    pub sums: AlignedBuffer<i32>,
}

impl QuantizedRows {
    /// Room for `rows x width` values.
    pub fn zeroed(rows: usize, width: usize) -> Self {
        QuantizedRows {
            values: AlignedBuffer::zeroed(rows * width),
            scales: AlignedBuffer::zeroed(rows),
            sums: AlignedBuffer::zeroed(rows),
        }
    }

    /// Quantizes `tokens` rows of `x` into the first rows of this buffer: `a = max(max|row|, 1e-5)`,
    /// `rint(x * (127 / a))` half to even (BitNet b1.58). Grows the buffer if it is too small.
    ///
    /// # Panics
    /// If `x` does not hold `tokens * width` values.
    pub fn quantize(&mut self, ctx: &Context, x: &[f32], tokens: usize, width: usize) {
        self.reserve(tokens, width);
        let values = &mut self.values[..tokens * width];
        ctx.quantize_rows(x, width, values, &mut self.scales[..tokens], &mut self.sums[..tokens]);
    }

    /// As [`QuantizedRows::quantize`] with unbiased stochastic rounding and no floor under the maximum: for gradients.
    ///
    /// # Panics
    /// If `x` does not hold `tokens * width` values.
    pub fn quantize_stochastic(
        &mut self,
        ctx: &Context,
        x: &[f32],
        tokens: usize,
        width: usize,
        rounding: StochasticRounding,
    ) {
        self.reserve(tokens, width);
        let values = &mut self.values[..tokens * width];
        let (scales, sums) = (&mut self.scales[..tokens], &mut self.sums[..tokens]);
        ctx.quantize_rows_stochastic(x, width, rounding, values, scales, sums);
    }

    fn reserve(&mut self, tokens: usize, width: usize) {
        if self.values.len() < tokens * width {
            self.values = AlignedBuffer::zeroed(tokens * width);
        }
        if self.scales.len() < tokens {
            self.scales = AlignedBuffer::zeroed(tokens);
            self.sums = AlignedBuffer::zeroed(tokens);
        }
    }
}
