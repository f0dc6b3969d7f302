//! An int8 matrix in GGUF's Q8_0 blocks.
#![forbid(unsafe_code)]

use crate::dispatch::Context;
use crate::kernels::{Q8_0_BLOCK, Q8_0_BYTES};
use crate::tensor::SharedBytes;
use crate::{Error, Result};
use half::f16;

/// Rows of one task of a product.
const TASK_ROWS: usize = 256;
/// The least scale of an activation: a block of zeros divides by it.
const MIN_SCALE: f32 = 1e-30;

/// A matrix `[rows, cols]` of int8 values under a half-precision scale for each 32 of a row: embeddings and heads of GGUF
/// files and of packed files, as they lie in the file.
#[derive(Clone, Debug)]
pub struct Q8Matrix {
    /// Output features, or entries of a table.
    pub rows: usize,
    /// Input features, a multiple of 32.
    pub cols: usize,
    /// Blocks of 34 bytes in row-major order.
    pub data: SharedBytes,
}

impl Q8Matrix {
    /// The matrix of these blocks. `tensor` names it in errors.
    ///
    /// Errors: another number of bytes than the shape demands; `cols` no multiple of 32; a scale that is not finite, with
    /// its offset.
    pub fn from_bytes(tensor: &str, data: SharedBytes, rows: usize, cols: usize) -> Result<Self> {
        if !cols.is_multiple_of(Q8_0_BLOCK) {
            return Err(Error::shape("q8_0", "cols", format!("a multiple of {Q8_0_BLOCK}"), cols));
        }
        let expected = rows.checked_mul(cols / Q8_0_BLOCK).and_then(|blocks| blocks.checked_mul(Q8_0_BYTES));
        if expected != Some(data.len()) {
            let expected = expected.map_or("a matrix that fits in memory".into(), |len| format!("{len} bytes"));
            return Err(Error::invalid(format!("{tensor}: Q8_0 {rows} x {cols}"), expected, data.len()));
        }
        let bad = |block: &[u8]| block[1] & 0x7C == 0x7C;
        if let Some(block) = data.chunks_exact(Q8_0_BYTES).position(bad) {
            let what = format!("{tensor}: byte {}", block * Q8_0_BYTES);
            return Err(Error::invalid(what, "a finite half-precision scale", "NaN or infinity"));
        }
        Ok(Q8Matrix { rows, cols, data })
    }

    fn row_bytes(&self) -> usize {
        self.cols / Q8_0_BLOCK * Q8_0_BYTES
    }

    /// Writes row `row` to `out`.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as one.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "q8_0: length of a row");
        let blocks = self.data[row * self.row_bytes()..][..self.row_bytes()].chunks_exact(Q8_0_BYTES);
        for (out, block) in out.chunks_exact_mut(Q8_0_BLOCK).zip(blocks) {
            let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
            out.iter_mut().zip(&block[2..]).for_each(|(out, &value)| *out = f32::from(value as i8) * scale);
        }
    }

    /// Writes all values to `out` `[rows, cols]`.
    ///
    /// # Panics
    /// If `out` does not hold `rows * cols` elements.
    pub fn dequantize(&self, ctx: &Context, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.cols, "q8_0: length of the output");
        ctx.for_each(out.chunks_mut(self.cols.max(1)).enumerate(), |(row, out)| self.row(row, out));
    }

    /// `y = W * x` for one token `x` `[cols]`, which is rounded to int8 with a scale for each 32 values (as llama.cpp
    /// does); `y`: `[rows]`. The same bits on every instruction set and at any number of threads.
    ///
    /// # Panics
    /// If `x` or `y` does not fit.
    pub fn matvec(&self, ctx: &Context, x: &[f32], y: &mut [f32]) {
        assert!(x.len() == self.cols && y.len() == self.rows, "q8_0 matvec: lengths");
        let (values, scales) = rounded_blocks(x);
        let (kernels, row_bytes) = (ctx.kernels(), self.row_bytes());
        if row_bytes == 0 {
            return y.fill(0.0);
        }
        let tasks = y.chunks_mut(TASK_ROWS).zip(self.data.chunks(TASK_ROWS * row_bytes));
        ctx.for_each(tasks, |(y, blocks)| kernels.q8_0_matvec(blocks, self.cols, &values, &scales, y));
    }
}

/// Blocks of 32 rounded to int8, half to even, with their scales.
fn rounded_blocks(x: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let (mut values, mut scales) = (vec![0; x.len()], Vec::with_capacity(x.len() / Q8_0_BLOCK));
    for (values, x) in values.chunks_exact_mut(Q8_0_BLOCK).zip(x.chunks_exact(Q8_0_BLOCK)) {
        let scale = (x.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0).max(MIN_SCALE);
        values.iter_mut().zip(x).for_each(|(value, x)| *value = (x / scale).round_ties_even() as i8);
        scales.push(scale);
    }
    (values, scales)
}
