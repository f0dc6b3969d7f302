//! A ternary matrix at 1.6 bits a weight, with its scales.
#![forbid(unsafe_code)]

use super::packed_ternary::check_scales;
use super::{PackedTernary, QuantizedRows};
use crate::dispatch::Context;
use crate::kernels::{Activations, KernelTable, TERNARY_BLOCK_ROWS};
use crate::tensor::{AlignedBuffer, SharedBytes};
use crate::{Error, Result};

/// Columns and bytes of a step of 64 rows.
const STEP_COLS: usize = 20;
const STEP_BYTES: usize = 256;

/// A ternary matrix `[rows, cols]` at five trits a byte (csrc/README.md, "five trits a byte"): the compact form.
/// The product of one token reads a fifth less memory than at two bits a weight; that of several tokens repacks block by
/// block.
#[derive(Clone, Debug)]
pub struct PackedFiveTrits {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Blocks of 64 rows; `ceil(rows / 64) * ceil(cols / 20) * 256` bytes.
    pub data: SharedBytes,
    /// One scale for the whole matrix, or one per row.
    pub scales: Vec<f32>,
}

impl PackedFiveTrits {
    /// The same matrix at five trits a byte.
    pub fn from_packed_ternary(ctx: &Context, weights: &PackedTernary) -> Self {
        let (rows, cols) = (weights.rows, weights.cols);
        let mut data = AlignedBuffer::zeroed(KernelTable::pack5_bytes(rows, cols));
        ctx.pack5(&weights.unpack(ctx), rows, cols, &mut data);
        PackedFiveTrits { rows, cols, data: data.into(), scales: weights.scales.clone() }
    }

    /// The matrix whose packed bytes and scales (one, or one a row) came from elsewhere, such as a mapped file. Every byte
    /// is five trits. `tensor` names it in errors.
    ///
    /// Errors: another number of bytes or scales than the shape demands; a scale that is not finite.
    pub fn from_bytes(tensor: &str, data: SharedBytes, rows: usize, cols: usize, scales: Vec<f32>) -> Result<Self> {
        let blocks = rows.div_ceil(TERNARY_BLOCK_ROWS).checked_mul(cols.div_ceil(STEP_COLS));
        let expected = rows.checked_mul(cols).and(blocks).and_then(|blocks| blocks.checked_mul(STEP_BYTES));
        if expected != Some(data.len()) {
            let expected = expected.map_or("a matrix that fits in memory".into(), |len| format!("{len} bytes"));
            return Err(Error::invalid(format!("{tensor}: five trits a byte, {rows} x {cols}"), expected, data.len()));
        }
        check_scales(tensor, &scales, rows)?;
        Ok(PackedFiveTrits { rows, cols, data, scales })
    }

    /// The same matrix at two bits a weight. Error: as [`PackedTernary::from_trits`], a wrong number of scales.
    pub fn to_packed_ternary(&self, ctx: &Context) -> Result<PackedTernary> {
        PackedTernary::from_trits(ctx, &self.unpack(ctx), self.rows, self.cols, self.scales.clone())
    }

    /// The trits `[rows, cols]`.
    ///
    /// # Panics
    /// If `data` has not the length its shape demands.
    pub fn unpack(&self, ctx: &Context) -> Vec<i8> {
        let mut trits = vec![0; self.rows * self.cols];
        ctx.unpack5(&self.data, self.rows, self.cols, &mut trits);
        trits
    }

    /// `y = W * x` for one token, the first row of `x` (`cols` values); `y`: `[rows]`. Bit for bit what
    /// [`PackedTernary::matmul`] gives.
    ///
    /// # Panics
    /// If `x` or `y` does not fit.
    pub fn matvec(&self, ctx: &Context, x: &QuantizedRows, y: &mut [f32]) {
        assert_eq!(y.len(), self.rows, "matvec: output is not {} rows", self.rows);
        let x = Activations { values: &x.values[..self.cols], scales: &x.scales[..1], sums: &x.sums[..1] };
        ctx.pack5_matvec(&self.data, self.cols, &self.scales, x, y);
    }

    /// `y = x * W^T` for the first `tokens` rows of `x`; `y`: `[tokens, rows]`. Bit for bit what
    /// [`PackedTernary::matmul`] gives.
    ///
    /// # Panics
    /// If `x` or `y` does not fit.
    pub fn matmul(&self, ctx: &Context, x: &QuantizedRows, tokens: usize, y: &mut [f32]) {
        let values = &x.values[..tokens * self.cols];
        let x = Activations { values, scales: &x.scales[..tokens], sums: &x.sums[..tokens] };
        ctx.pack5_matmul(&self.data, self.rows, self.cols, &self.scales, x, y);
    }

    /// Writes `scale(r) * q[r][c]` to `out` `[rows, cols]`.
    ///
    /// # Panics
    /// If `out` does not hold `rows * cols` elements.
    pub fn dequantize(&self, ctx: &Context, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.cols, "five trits: length of the output");
        let trits = self.unpack(ctx);
        let rows = out.chunks_mut(self.cols.max(1)).zip(trits.chunks(self.cols.max(1)));
        for (row, (out, trits)) in rows.enumerate() {
            let scale = if self.scales.len() == 1 { self.scales[0] } else { self.scales[row] };
            out.iter_mut().zip(trits).for_each(|(out, &trit)| *out = scale * f32::from(trit));
        }
    }
}
