//! int8 quantization of activations and gradients on the context's threads.
#![forbid(unsafe_code)]

use super::{Context, Operation};
use crate::kernels::{KernelTable, StochasticRounding};
use crate::tensor::RandomStream;

/// Elements of a parallel block, about.
const BLOCK: usize = 1 << 15;

/// Columns of a parallel block of column maxima.
const BLOCK_COLUMNS: usize = 256;

/// Parallel blocks of rows whose column maxima are kept apart.
const MAXIMA_BLOCKS: usize = 16;

/// A gradient to be rounded by rows and by columns, or some columns of one: `row_factors.len()` rows, `stride` elements
/// apart, of `column_factors.len()` columns. By rows it is `x[t][c] * column_factors[c]`, by columns `x[t][c] *
/// row_factors[t]`.
#[derive(Clone, Copy, Debug)]
pub struct Gradient<'a> {
    /// `x`, from the first of the columns on.
    pub values: &'a [f32],
    /// Width of the whole gradient.
    pub stride: usize,
    /// Number of the first of the columns, a multiple of 128.
    pub first_column: usize,
    /// Factors of the rows, for the rounding by columns.
    pub row_factors: &'a [f32],
    /// Factors of the columns, for the rounding by rows.
    pub column_factors: &'a [f32],
}

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

    /// Floats of scratch that [`Context::gradient_scales`] takes for a gradient of this width.
    pub fn gradient_scratch(width: usize) -> usize {
        MAXIMA_BLOCKS * width
    }

    /// The scales of both roundings of a whole gradient, largest magnitude / 127 (0 below 2^-100, NaN where something is not
    /// finite), in one read of it. `scratch`: [`Context::gradient_scratch`] floats.
    ///
    /// # Panics
    /// If the lengths do not fit, or it is not a whole gradient.
    pub fn gradient_scales(
        &self,
        x: Gradient<'_>,
        row_scales: &mut [f32],
        column_scales: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (rows, width) = (x.row_factors.len(), x.column_factors.len());
        assert!(
            Some(x.values.len()) == rows.checked_mul(width)
                && width == x.stride
                && [row_scales.len(), column_scales.len(), scratch.len()] == [rows, width, MAXIMA_BLOCKS * width],
            "gradient_scales: lengths"
        );
        if x.values.is_empty() {
            row_scales.fill(0.0);
            return column_scales.fill(0.0);
        }
        let call = self.call(Operation::QuantizeColumnsStochastic, x.values.len());
        let block = rows.div_ceil(MAXIMA_BLOCKS);
        let inputs = x.values.chunks(block * width).zip(x.row_factors.chunks(block));
        let outputs = row_scales.chunks_mut(block).zip(scratch.chunks_mut(width));
        self.for_each_if(call.parallel, inputs.zip(outputs), |((values, row_factors), (row_maxima, column_maxima))| {
            call.kernels.gradient_maxima(values, row_factors, x.column_factors, row_maxima, column_maxima);
            row_maxima.iter_mut().for_each(|max| *max = KernelTable::gradient_scale(*max));
        });
        let (all, others) = scratch[..rows.div_ceil(block) * width].split_at_mut(width);
        for maxima in others.chunks_exact(width) {
            // As bit patterns a NaN is above all others.
            all.iter_mut().zip(maxima).for_each(|(all, max)| *all = f32::from_bits(all.to_bits().max(max.to_bits())));
        }
        column_scales.iter_mut().zip(all).for_each(|(scale, max)| *scale = KernelTable::gradient_scale(*max));
    }

    /// A gradient rounded stochastically by rows (`by_row`, with each row's sum of values) and by columns (`by_column`) in
    /// one read, with the scales of [`Context::gradient_scales`]. See [`KernelTable::quantize_gradient`].
    ///
    /// # Panics
    /// If the lengths do not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn quantize_gradient(
        &self,
        x: Gradient<'_>,
        row_scales: &[f32],
        column_scales: &[f32],
        rounding: StochasticRounding,
        by_row: &mut [i8],
        by_column: &mut [i8],
        sums: &mut [i32],
    ) {
        let (rows, width) = (x.row_factors.len(), x.column_factors.len());
        assert!(
            [by_row.len(), by_column.len()] == [rows * width; 2]
                && [row_scales.len(), sums.len(), column_scales.len()] == [rows, rows, width],
            "quantize_gradient: lengths"
        );
        if by_row.is_empty() {
            return sums.fill(0);
        }
        let call = self.call(Operation::QuantizeRowsStochastic, by_row.len());
        let block = block_rows(width);
        let inputs = x.values.chunks(block * x.stride).zip(x.row_factors.chunks(block).zip(row_scales.chunks(block)));
        let outputs = by_row.chunks_mut(block * width).zip(by_column.chunks_mut(block * width));
        let blocks = inputs.zip(outputs.zip(sums.chunks_mut(block))).enumerate();
        self.for_each_if(call.parallel, blocks, |(index, (inputs, ((by_row, by_column), sums)))| {
            let (values, (row_factors, row_scales)) = inputs;
            call.kernels.quantize_gradient(
                values,
                x.stride,
                (index * block, x.first_column),
                row_factors,
                x.column_factors,
                row_scales,
                column_scales,
                rounding,
                by_row,
                by_column,
                sums,
            );
        });
    }
}
