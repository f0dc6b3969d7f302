//! Quantizers and packed forms.

mod packed_ternary;
mod quantized_rows;
mod quantized_weight;

pub use packed_ternary::{PackedTernary, ScaleGranularity};
pub use quantized_rows::QuantizedRows;
pub use quantized_weight::QuantizedWeight;
