//! A ternary matrix at 2 bits a weight, with its scales.
#![forbid(unsafe_code)]

use crate::tensor::AlignedBuffer;

/// A ternary matrix `[rows, cols]` in the 2-bit layout (csrc/README.md, "2-bit layout"), `W[r][c] ~ scale(r) * q[r][c]`.
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
