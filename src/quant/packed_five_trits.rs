//! A ternary matrix at 1.6 bits a weight, with its scales.
#![forbid(unsafe_code)]

use super::{PackedTernary, QuantizedRows};
use crate::Result;
use crate::dispatch::Context;
use crate::kernels::{Activations, KernelTable};
use crate::tensor::AlignedBuffer;

/// A ternary matrix `[rows, cols]` at five trits a byte (csrc/README.md, "five trits a byte"): the compact form.
/// It has the product of one token, which reads a fifth less memory than two bits a weight; others run on
/// [`PackedTernary`].
#[derive(Clone, Debug)]
pub struct PackedFiveTrits {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Blocks of 64 rows; `ceil(rows / 64) * ceil(cols / 20) * 256` bytes.
    pub data: AlignedBuffer<u8>,
    /// One scale for the whole matrix, or one per row.
    pub scales: Vec<f32>,
}

impl PackedFiveTrits {
    /// The same matrix at five trits a byte.
    pub fn from_packed_ternary(ctx: &Context, weights: &PackedTernary) -> Self {
        let (rows, cols) = (weights.rows, weights.cols);
        let mut data = AlignedBuffer::zeroed(KernelTable::pack5_bytes(rows, cols));
        ctx.pack5(&weights.unpack(ctx), rows, cols, &mut data);
        PackedFiveTrits { rows, cols, data, scales: weights.scales.clone() }
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
}
