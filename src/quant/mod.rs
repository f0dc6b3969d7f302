//! Quantizers and packed forms.

mod adaptive;
mod compression;
mod five_level;
mod gradients;
mod grid;
mod packed_five_trits;
mod packed_ternary;
mod precision;
mod quantized_rows;
mod quantized_tensor;
mod quantized_weight;
mod quantizer;

pub use adaptive::{AdaptiveQuantizer, BitUnit, distortion, mean_bits};
pub use compression::compression_ratio;
pub use five_level::Quantizer158Bit;
pub use gradients::{GradientDraw, GradientQuantizer, GradientRounding, TERNGRAD_CLIP_SIGMA, quantize_gradients};
pub use packed_five_trits::PackedFiveTrits;
pub use packed_ternary::{PackedTernary, ScaleGranularity};
pub use precision::Precision;
pub use quantized_rows::QuantizedRows;
pub use quantized_tensor::QuantizedTensor;
pub use quantized_weight::QuantizedWeight;
pub use quantizer::{Granularity, Quantizer, ScaleRule};
