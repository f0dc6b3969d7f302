//! A ternary matrix at 2 bits a weight, with its scales.
#![forbid(unsafe_code)]

use rayon::prelude::*;

use super::QuantizedRows;
use crate::dispatch::Context;
use crate::kernels::ternary_packed_len;
use crate::tensor::AlignedBuffer;
use crate::{Error, Result};

/// The least scale: a matrix of zeros divides by it.
const MIN_SCALE: f64 = 1e-5;

/// What shares one scale.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleGranularity {
    /// The whole matrix.
    #[default]
    Tensor,
    /// Each row (output feature).
    Row,
}

/// A ternary matrix `[rows, cols]` in the 2-bit layout (csrc/README.md, "2-bit layout"), `W[r][c] ~ scale(r) * q[r][c]`
/// with `q` in {-1, 0, 1}.
#[derive(Clone, Debug)]
pub struct PackedTernary {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Blocks of 64 rows; `ceil(rows / 64) * ceil(cols / 16) * 256` bytes.
    pub data: AlignedBuffer<u8>,
    /// One scale for the whole matrix, or one per row.
    pub scales: Vec<f32>,
}

impl PackedTernary {
    /// Quantizes `weights` `[rows, cols]` by their mean absolute value (BitNet b1.58, Ma et al. 2024):
    /// `s = max(mean|W|, 1e-5)`, `q = sign(W)` where `|W| > s / 2`, else 0.
    ///
    /// Errors: a length other than `rows * cols`; a NaN or infinite weight (named by its index).
    pub fn pack(
        ctx: &Context,
        weights: &[f32],
        rows: usize,
        cols: usize,
        granularity: ScaleGranularity,
    ) -> Result<Self> {
        let scales = match granularity {
            ScaleGranularity::Tensor => vec![0.0],
            ScaleGranularity::Row => vec![0.0; rows],
        };
        check_len("ternary_pack", weights.len(), rows, cols)?;
        let data = AlignedBuffer::zeroed(ternary_packed_len(rows, cols));
        let mut packed = PackedTernary { rows, cols, data, scales };
        packed.repack(ctx, weights)?;
        Ok(packed)
    }

    /// Packs values that are already -1, 0 or 1 under known scales (one, or one a row).
    ///
    /// Errors: a length that does not fit the shape; a value outside {-1, 0, 1}; a scale that is not finite.
    pub fn from_trits(ctx: &Context, trits: &[i8], rows: usize, cols: usize, scales: Vec<f32>) -> Result<Self> {
        check_len("ternary_pack", trits.len(), rows, cols)?;
        if scales.len() != 1 && scales.len() != rows {
            return Err(Error::shape("ternary_pack", "scales", format!("1 or {rows}"), scales.len()));
        }
        check_finite("ternary scales", &scales)?;
        if let Some(index) = trits.iter().position(|t| !(-1..=1).contains(t)) {
            return Err(Error::invalid(format!("trits[{index}]"), "-1, 0 or 1", trits[index]));
        }
        let mut data = AlignedBuffer::zeroed(ternary_packed_len(rows, cols));
        ctx.ternary_pack(trits, rows, cols, &mut data);
        Ok(PackedTernary { rows, cols, data, scales })
    }

    /// Quantizes new weights of the same shape and granularity in place. Gives the number of weights whose ternary
    /// value changed. On an error nothing has changed.
    ///
    /// Errors: as [`PackedTernary::pack`].
    pub fn repack(&mut self, ctx: &Context, weights: &[f32]) -> Result<usize> {
        check_len("ternary_pack", weights.len(), self.rows, self.cols)?;
        let scales = mean_scales(ctx, weights, self.cols, self.scales.len())?;
        let thresholds: Vec<f32> = scales.iter().map(|scale| 0.5 * scale).collect();
        self.scales = scales;
        Ok(ctx.ternary_repack(weights, self.rows, self.cols, &thresholds, &mut self.data))
    }

    /// The ternary values `[rows, cols]`.
    pub fn unpack(&self, ctx: &Context) -> Vec<i8> {
        let mut trits = vec![0; self.rows * self.cols];
        ctx.ternary_unpack(&self.data, self.rows, self.cols, &mut trits);
        trits
    }

    /// Writes `scale(r) * q[r][c]` to `out` `[rows, cols]`.
    ///
    /// # Panics
    /// If `out` does not hold `rows * cols` elements.
    pub fn dequantize(&self, ctx: &Context, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.cols, "ternary dequantize: length of the output");
        if out.is_empty() {
            return;
        }
        let trits = self.unpack(ctx);
        ctx.install(|| {
            out.par_chunks_mut(self.cols).zip(trits.par_chunks(self.cols)).enumerate().for_each(
                |(row, (out, trits))| {
                    let scale = self.scale(row);
                    out.iter_mut().zip(trits).for_each(|(out, &trit)| *out = scale * f32::from(trit));
                },
            );
        });
    }

    /// The scale of a row.
    pub fn scale(&self, row: usize) -> f32 {
        if self.scales.len() == 1 { self.scales[0] } else { self.scales[row] }
    }

    /// `y = x * W^T` for the first `tokens` rows of `x` (`cols` values each); `y`: `[tokens, rows]`.
    ///
    /// # Panics
    /// If `x` or `y` does not fit.
    pub fn matmul(&self, ctx: &Context, x: &QuantizedRows, tokens: usize, y: &mut [f32]) {
        let values = &x.values[..tokens * self.cols];
        let (scales, sums) = (&x.scales[..tokens], &x.sums[..tokens]);
        ctx.ternary_matmul(&self.data, self.rows, self.cols, &self.scales, values, scales, sums, y);
    }

    /// `dx = dy * Q` for the first `tokens` rows of `dy` (`rows` values each), with the ternary values `Q` alone: the
    /// caller has folded the scales of the weights into `dy`. `dx`: `[tokens, cols]`.
    ///
    /// # Panics
    /// If `dy` or `dx` does not fit.
    pub fn matmul_transposed(&self, ctx: &Context, dy: &QuantizedRows, tokens: usize, dx: &mut [f32]) {
        let values = &dy.values[..tokens * self.rows];
        let (scales, sums) = (&dy.scales[..tokens], &dy.sums[..tokens]);
        ctx.ternary_matmul_transposed(&self.data, self.rows, self.cols, values, scales, sums, dx);
    }
}

fn check_len(operation: &'static str, found: usize, rows: usize, cols: usize) -> Result<()> {
    if rows.checked_mul(cols) == Some(found) {
        return Ok(());
    }
    Err(Error::shape(operation, "weights", format!("{rows} x {cols} elements"), found))
}

fn check_finite(tensor: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NonFinite { tensor: tensor.into(), index, value: values[index] }),
        None => Ok(()),
    }
}

/// `max(mean|W|, 1e-5)` of the matrix (`count` 1) or of each row.
fn mean_scales(ctx: &Context, weights: &[f32], cols: usize, count: usize) -> Result<Vec<f32>> {
    let scale = |sum: f64, n: usize| (sum / n.max(1) as f64).max(MIN_SCALE) as f32;
    // A sum of finite f32 is finite in f64, and one that is not finite taints its sum.
    let check = |sum: f64| if sum.is_finite() { Ok(()) } else { check_finite("ternary weights", weights) };
    if count == 1 {
        let sum = ctx.abs_sum(weights);
        check(sum)?;
        return Ok(vec![scale(sum, weights.len())]);
    }
    if cols == 0 {
        return Ok(vec![MIN_SCALE as f32; count]);
    }
    let kernels = ctx.kernels();
    let sums: Vec<f64> = ctx.install(|| weights.par_chunks(cols).map(|row| kernels.abs_sum(row)).collect());
    sums.iter().try_for_each(|&sum| check(sum))?;
    Ok(sums.into_iter().map(|sum| scale(sum, cols)).collect())
}
