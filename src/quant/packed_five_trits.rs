//! A ternary matrix at 1.6 bits a weight, with its scales.
#![forbid(unsafe_code)]

use super::PackedTernary;
use crate::Result;
use crate::dispatch::Context;
use crate::kernels::KernelTable;
use crate::tensor::AlignedBuffer;

/// A ternary matrix `[rows, cols]` at five trits a byte (csrc/README.md, "five trits a byte"): the compact form, for
/// files and for memory; products run on [`PackedTernary`].
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
        ctx.kernels().pack5(&weights.unpack(ctx), rows, cols, &mut data);
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
        ctx.kernels().unpack5(&self.data, self.rows, self.cols, &mut trits);
        trits
    }
}
