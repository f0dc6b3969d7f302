//! int8 activations: one scale and one sum a row.
#![forbid(unsafe_code)]

use crate::tensor::AlignedBuffer;

/// Rows of int8 values, `x[t][c] ~ scales[t] * values[t][c]`, with the integer sum of each row (the products on
/// weights stored as {0, 1, 2} subtract it).
#[derive(Debug, Default)]
pub struct QuantizedRows {
    /// int8 `[rows, width]`, dense rows.
    pub values: AlignedBuffer<i8>,
    /// `max(|row|) / 127` of each row (at least 1e-5 / 127).
    pub scales: AlignedBuffer<f32>,
    /// Sum of each row's int8 values.
    pub sums: AlignedBuffer<i32>,
}

impl QuantizedRows {
    /// Room for `rows x width` values.
    pub fn zeroed(rows: usize, width: usize) -> Self {
        QuantizedRows {
            values: AlignedBuffer::zeroed(rows * width),
            scales: AlignedBuffer::zeroed(rows),
            sums: AlignedBuffer::zeroed(rows),
        }
    }
}
