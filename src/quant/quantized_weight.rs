//! The quantized copy of a weight matrix that forward and backward passes read.
#![forbid(unsafe_code)]

use rayon::prelude::*;

use super::{Granularity, PackedTernary, Precision, Quantizer, ScaleGranularity};
use crate::Result;
use crate::dispatch::Context;
use crate::tensor::AlignedBuffer;

/// Rows of one block of work.
const BLOCK_ROWS: usize = 16;

/// A quantized weight matrix `[rows, cols]`, by [`Quantizer::for_training`]: one scale for ternary, binary, five-level
/// and 2-bit matrices, a scale a row for 4 and 8 bits.
#[derive(Clone, Debug)]
pub enum QuantizedWeight {
    /// Ternary and binary weights: packed, multiplied by the integer kernels.
    Packed(PackedTernary),
    /// Other grids: dequantized values for the dense f32 product.
    Dequantized {
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// What the codes stand for, row-major.
        values: AlignedBuffer<f32>,
        /// Scale of each row, or one for the matrix.
        scales: Vec<f32>,
    },
}

impl QuantizedWeight {
    /// The quantized copy of `weights` `[rows, cols]`; `None` for [`Precision::F32`].
    /// Errors: `weights` is not `rows * cols` long; a weight that is not finite.
    pub fn quantize(
        context: &Context,
        precision: Precision,
        weights: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Option<Self>> {
        let mut matrix = match precision {
            Precision::F32 => return Ok(None),
            // The ternary form also gives the matrix of signs its place; the signs come below.
            Precision::Ternary | Precision::Binary => {
                let packed = PackedTernary::pack(context, weights, rows, cols, ScaleGranularity::Tensor)?;
                if precision == Precision::Ternary {
                    return Ok(Some(Self::Packed(packed)));
                }
                Self::Packed(packed)
            }
            _ => {
                let quantizer = Quantizer::for_training(precision);
                let scales = quantizer.scales(context, weights, rows, cols)?;
                Self::Dequantized { rows, cols, values: AlignedBuffer::zeroed(rows * cols), scales }
            }
        };
        matrix.requantize(context, precision, weights)?;
        Ok(Some(matrix))
    }

    /// Quantizes changed weights of the same shape and precision in place; returns the number of codes that differ
    /// from before. Errors as [`QuantizedWeight::quantize`]; the matrix is then unchanged.
    pub fn requantize(&mut self, context: &Context, precision: Precision, weights: &[f32]) -> Result<usize> {
        if let (Self::Packed(packed), Precision::Ternary) = (&mut *self, precision) {
            return packed.repack(context, weights);
        }
        let (rows, cols) = self.shape();
        let new_scales = Quantizer::for_training(precision).scales(context, weights, rows, cols)?;
        match self {
            Self::Packed(packed) => Ok(repack_signs(packed, context, weights, new_scales)),
            Self::Dequantized { values, scales, .. } => {
                let per_row = Quantizer::for_training(precision).granularity == Granularity::Row;
                let cols = cols.max(1);
                let changed = context.install(|| {
                    let blocks = values.par_chunks_mut(BLOCK_ROWS * cols).zip(weights.par_chunks(BLOCK_ROWS * cols));
                    let changes = blocks.enumerate().map(|(block, (values, weights))| -> usize {
                        let rows = values.chunks_mut(cols).zip(weights.chunks(cols)).enumerate();
                        rows.map(|(row, (values, weights))| {
                            let at = if per_row { block * BLOCK_ROWS + row } else { 0 };
                            requantize_row(precision, weights, scales[at], new_scales[at], values)
                        })
                        .sum()
                    });
                    changes.sum()
                });
                *scales = new_scales;
                Ok(changed)
            }
        }
    }

    /// `(rows, cols)`.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Packed(packed) => (packed.rows, packed.cols),
            Self::Dequantized { rows, cols, .. } => (*rows, *cols),
        }
    }

    /// Scale of each row, or one for the matrix.
    pub fn scales(&self) -> &[f32] {
        match self {
            Self::Packed(packed) => &packed.scales,
            Self::Dequantized { scales, .. } => scales,
        }
    }

    /// The packed matrix, where the integer kernels multiply it.
    pub fn packed(&self) -> Option<&PackedTernary> {
        match self {
            Self::Packed(packed) => Some(packed),
            Self::Dequantized { .. } => None,
        }
    }

    /// The dequantized values `[rows, cols]`, where the dense product multiplies them.
    pub fn dense(&self) -> Option<&[f32]> {
        match self {
            Self::Packed(_) => None,
            Self::Dequantized { values, .. } => Some(values),
        }
    }

    /// Bytes this copy takes in memory, scales included.
    pub fn memory_bytes(&self) -> usize {
        let values = match self {
            Self::Packed(packed) => packed.data.len(),
            Self::Dequantized { values, .. } => size_of_val(&values[..]),
        };
        values + size_of_val(self.scales())
    }
}

/// Quantizes one row over its old values; the old codes are read back from them. Returns the number of changed codes.
fn requantize_row(precision: Precision, weights: &[f32], old: f32, new: f32, values: &mut [f32]) -> usize {
    let (old_step, new_step) = (precision.unit() * old, precision.unit() * new);
    let code_of = precision.code_function();
    let mut changed = 0;
    for (value, &weight) in values.iter_mut().zip(weights) {
        let code = code_of(weight, new);
        changed += usize::from((*value / old_step).round_ties_even() != f32::from(code));
        *value = f32::from(code) * new_step;
    }
    changed
}

/// Packs the signs; a weight of zero counts as positive.
fn repack_signs(packed: &mut PackedTernary, context: &Context, weights: &[f32], scales: Vec<f32>) -> usize {
    let signs: Vec<f32> = weights.iter().map(|&w| if w < 0.0 { -1.0 } else { 1.0 }).collect();
    packed.scales = scales;
    context.ternary_repack(&signs, packed.rows, packed.cols, &[0.5], &mut packed.data)
}
