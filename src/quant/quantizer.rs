//! Quantizers of weights: a grid, a rule for its scale, and how many values share a scale.
#![forbid(unsafe_code)]

use super::grid::MIN_SCALE;
use super::quantized_tensor::{QuantizedTensor, Runs};
use super::{Granularity, Precision};
use crate::dispatch::Context;
use crate::{Error, Result};

/// Where a scale comes from. Means and largest magnitudes count as at least 1e-5.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ScaleRule {
    /// `factor * mean|w|` (BitNet b1.58 for ternary, with factor 1).
    AbsMean {
        /// Multiple of the mean.
        factor: f64,
    },
    /// The largest magnitude gets the largest code.
    AbsMax,
    /// This scale, whatever the weights.
    Fixed {
        /// The scale.
        scale: f32,
    },
}

impl ScaleRule {
    /// The default of a grid. The factors put each grid near its least mean squared error on Gaussian weights
    /// (`mean|w| = 0.798 sigma`): five-level 2.1 (MSE 0.082 of the variance; factor 1 would give 0.240), 2 bits 1.248
    /// (the best uniform four-level step is 0.9957 sigma: J. Max, "Quantizing for minimum distortion", 1960).
    pub fn default_of(precision: Precision) -> Self {
        match precision {
            Precision::Ternary | Precision::Binary => ScaleRule::AbsMean { factor: 1.0 },
            Precision::FiveLevel => ScaleRule::AbsMean { factor: 2.1 },
            Precision::Int2 => ScaleRule::AbsMean { factor: 1.248 },
            Precision::Int4 | Precision::Int8 | Precision::F32 => ScaleRule::AbsMax,
        }
    }

    /// The scale of finite `weights` whose magnitudes sum to `abs_sum`.
    fn scale(self, precision: Precision, weights: &[f32], abs_sum: f64) -> f32 {
        match self {
            ScaleRule::AbsMean { factor } => ((abs_sum / weights.len().max(1) as f64 * factor) as f32).max(MIN_SCALE),
            ScaleRule::AbsMax => {
                let largest = weights.iter().fold(MIN_SCALE, |m, w| m.max(w.abs()));
                largest / (f32::from(precision.largest_code().unwrap_or(1)) * precision.unit())
            }
            ScaleRule::Fixed { scale } => scale,
        }
    }
}

/// Quantizes a matrix `[rows, cols]` for inference, post-training use or measurement. (Training keeps
/// [`super::QuantizedWeight`], which this quantizer's rules also drive.)
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quantizer {
    /// The grid.
    pub precision: Precision,
    /// Values that share a scale.
    pub granularity: Granularity,
    /// The scale that decides the codes.
    pub scale_rule: ScaleRule,
    /// After the codes are decided, replace each scale by the least-squares one, `<w, q> / <q, q>`. On Gaussian
    /// weights this takes the mean squared error of ternary from 0.263 to 0.213 of the variance.
    pub least_squares: bool,
}

impl Quantizer {
    /// The default quantizer of a grid: one scale a tensor, [`ScaleRule::default_of`], no least squares.
    pub fn new(precision: Precision) -> Self {
        let scale_rule = ScaleRule::default_of(precision);
        Quantizer { precision, granularity: Granularity::Tensor, scale_rule, least_squares: false }
    }

    /// The quantizer of training: as [`Quantizer::new`], but 4 and 8 bits have a scale a row, since one outlier would
    /// coarsen the whole matrix.
    pub fn for_training(precision: Precision) -> Self {
        let per_row = matches!(precision, Precision::Int4 | Precision::Int8);
        Self::new(precision).granularity(if per_row { Granularity::Row } else { Granularity::Tensor })
    }

    /// Sets [`Quantizer::granularity`].
    pub fn granularity(self, granularity: Granularity) -> Self {
        Quantizer { granularity, ..self }
    }

    /// Sets [`Quantizer::scale_rule`].
    pub fn scale_rule(self, scale_rule: ScaleRule) -> Self {
        Quantizer { scale_rule, ..self }
    }

    /// Sets [`Quantizer::least_squares`].
    pub fn least_squares(self) -> Self {
        Quantizer { least_squares: true, ..self }
    }

    /// Codes and scales of `weights` `[rows, cols]`. Errors: `weights` is not `rows * cols` long, a weight that is not
    /// finite, groups of zero columns, a fixed scale that is not positive, [`Precision::F32`] (it has no codes).
    pub fn quantize(&self, context: &Context, weights: &[f32], rows: usize, cols: usize) -> Result<QuantizedTensor> {
        let scales = self.scales(context, weights, rows, cols)?;
        let runs = Runs::new(self.granularity, cols);
        let mut codes = vec![0i8; weights.len()];
        let pieces = codes.chunks_mut(runs.piece).zip(weights.chunks(runs.piece)).enumerate();
        context.for_each(pieces, |(index, (codes, weights))| {
            let scales = runs.scales_of(index, &scales);
            for ((codes, weights), &scale) in codes.chunks_mut(runs.run).zip(weights.chunks(runs.run)).zip(scales) {
                self.precision.encode(weights, scale, codes);
            }
        });
        let mut tensor =
            QuantizedTensor { precision: self.precision, granularity: self.granularity, rows, cols, codes, scales };
        if self.least_squares {
            tensor.fit_scales(context, weights);
        }
        Ok(tensor)
    }

    /// The scale of every run (tensor, row or group, in row-major order). Errors as [`Quantizer::quantize`].
    pub(super) fn scales(&self, context: &Context, weights: &[f32], rows: usize, cols: usize) -> Result<Vec<f32>> {
        if self.precision == Precision::F32 {
            return Err(Error::invalid("precision", "a quantized form", Precision::F32));
        }
        if let ScaleRule::Fixed { scale } = self.scale_rule
            && !(scale.is_finite() && scale > 0.0)
        {
            return Err(Error::invalid("scale", "a positive number", scale));
        }
        if let Granularity::Group(0) = self.granularity {
            return Err(Error::invalid("group size", "at least 1", 0));
        }
        let total = checked_abs_sum(context, weights, rows, cols)?;
        if self.granularity == Granularity::Tensor {
            return Ok(vec![self.scale_rule.scale(self.precision, weights, total)]);
        }
        let runs = Runs::new(self.granularity, cols);
        let scale = |run: &[f32]| self.scale_rule.scale(self.precision, run, context.kernels().abs_sum(run));
        let of_row = |row: &[f32]| -> Vec<f32> { row.chunks(runs.run).map(scale).collect() };
        Ok(context.map(weights.chunks(runs.piece), of_row).into_iter().flatten().collect())
    }
}

/// The sum of magnitudes of a matrix of the stated shape; errors name a wrong length or the first weight that is not
/// finite (the sum itself tells whether there is one).
pub(super) fn checked_abs_sum(context: &Context, weights: &[f32], rows: usize, cols: usize) -> Result<f64> {
    if rows.checked_mul(cols) != Some(weights.len()) {
        return Err(Error::shape("quantize", "weights", format!("{rows} x {cols}"), weights.len()));
    }
    let total = context.abs_sum(weights);
    if !total.is_finite()
        && let Some(index) = weights.iter().position(|w| !w.is_finite())
    {
        return Err(Error::NonFinite { tensor: "weights".into(), index, value: weights[index] });
    }
    Ok(total)
}
