//! Quantizers and packed forms.

mod grid;
mod packed_ternary;
mod precision;
mod quantized_rows;
mod quantized_tensor;
mod quantized_weight;
mod quantizer;

pub use packed_ternary::{PackedTernary, ScaleGranularity};
pub use precision::Precision;
pub use quantized_rows::QuantizedRows;
pub use quantized_tensor::QuantizedTensor;
pub use quantized_weight::QuantizedWeight;
pub use quantizer::{Granularity, Quantizer, ScaleRule};
