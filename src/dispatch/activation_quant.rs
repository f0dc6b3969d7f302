//! int8 quantization of activations and gradients on the context's threads.
#![forbid(unsafe_code)]

use super::{Context, Operation};
use crate::kernels::StochasticRounding;
use crate::tensor::RandomStream;

/// Elements of a parallel block, about.
const BLOCK: usize = 1 << 15;

/// Columns of a parallel block of column maxima.
const BLOCK_COLUMNS: usize = 256;

impl StochasticRounding {
    /// The stream of `purpose` (one number for each use of randomness) for `tensor` at `step` of the run with `seed`.
    pub fn new(seed: u64, purpose: u32, step: u32, tensor: u32) -> Self {
        StochasticRounding { key: RandomStream::key(seed, purpose), step, tensor }
    }
}

fn block_rows(width: usize) -> usize {
    BLOCK.div_ceil(width.max(1))
}

impl Context {
    /// Per-token int8: `x` is `[tokens, width]`, `scales` and `sums` have one element a token. See
    /// [`crate::kernels::KernelTable::quantize_rows`] for the rule.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn quantize_rows(&self, x: &[f32], width: usize, values: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        let rows = block_rows(width);
        assert!(
            Some(x.len()) == scales.len().checked_mul(width) && values.len() == x.len() && sums.len() == scales.len()
        );
        let call = self.call(Operation::QuantizeRows, x.len());
        if width == 0 || !call.parallel {
            return call.kernels.quantize_rows(x, width, values, scales, sums);
        }
        let outputs = values.chunks_mut(rows * width).zip(scales.chunks_mut(rows)).zip(sums.chunks_mut(rows));
        self.for_each(outputs.zip(x.chunks(rows * width)), |(((values, scales), sums), x)| {
            call.kernels.quantize_rows(x, width, values, scales, sums);
        });
    }

    /// Per-token int8 with unbiased stochastic rounding, for gradients. See
    /// [`crate::kernels::KernelTable::quantize_rows_stochastic`].
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn quantize_rows_stochastic(
        &self,
        x: &[f32],
        width: usize,
        rounding: StochasticRounding,
        values: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i32],
    ) {
        let rows = block_rows(width);
        assert!(
            Some(x.len()) == scales.len().checked_mul(width) && values.len() == x.len() && sums.len() == scales.len()
        );
        let call = self.call(Operation::QuantizeRowsStochastic, x.len());
        if width == 0 || !call.parallel {
            return call.kernels.quantize_rows_stochastic(x, width, 0, rounding, values, scales, sums);
        }
        let outputs = values.chunks_mut(rows * width).zip(scales.chunks_mut(rows)).zip(sums.chunks_mut(rows));
        let blocks = outputs.zip(x.chunks(rows * width)).enumerate();
        self.for_each(blocks, |(block, (((values, scales), sums), x))| {
            call.kernels.quantize_rows_stochastic(x, width, block * rows, rounding, values, scales, sums);
        });
    }

    /// One scale per column over all tokens: `x[t][c] * row_factors[t] ~ column_scales[c] * values[t][c]`, stochastic
    /// rounding. For weight gradients, whose sum runs over tokens: `row_factors` are the saved activations' scales.
    /// `x`, `values`: `[row_factors.len(), width]`.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn quantize_columns_stochastic(
        &self,
        x: &[f32],
        width: usize,
        row_factors: &[f32],
        rounding: StochasticRounding,
        values: &mut [i8],
        column_scales: &mut [f32],
    ) {
        let rows = block_rows(width);
        assert!(
            Some(x.len()) == row_factors.len().checked_mul(width)
                && values.len() == x.len()
                && column_scales.len() == width
        );
        if width == 0 {
            return;
        }
        let call = self.call(Operation::QuantizeColumnsStochastic, x.len());
        if !call.parallel {
            call.kernels.column_scales(x, width, row_factors, column_scales);
            return call.kernels.quantize_columns_stochastic(x, 0, row_factors, column_scales, rounding, values);
        }
        self.for_each(column_scales.chunks_mut(BLOCK_COLUMNS).enumerate(), |(block, scales)| {
            let first = (block * BLOCK_COLUMNS).min(x.len());
            call.kernels.column_scales(&x[first..], width, row_factors, scales);
        });
        let inputs = x.chunks(rows * width).zip(row_factors.chunks(rows));
        let blocks = values.chunks_mut(rows * width).zip(inputs).enumerate();
        self.for_each(blocks, |(block, (values, (x, factors)))| {
            let first = block * rows;
            call.kernels.quantize_columns_stochastic(x, first, factors, column_scales, rounding, values);
        });
    }
}
