//! The quantized copy of a weight matrix that forward and backward passes read.
#![forbid(unsafe_code)]

use super::PackedTernary;
use crate::tensor::AlignedBuffer;

/// A quantized weight matrix `[rows, cols]`.
#[derive(Clone, Debug)]
pub enum QuantizedWeight {
    /// Ternary and binary weights: packed, multiplied by the integer kernels.
    Packed(PackedTernary),
    /// Other grids (five-level, int4, int8): dequantized values for the dense f32 product.
    Dequantized {
        /// `scale * q`, row-major.
        values: AlignedBuffer<f32>,
        /// Scale of each row, or one for the matrix.
        scales: Vec<f32>,
    },
}
