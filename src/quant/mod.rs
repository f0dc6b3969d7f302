//! Quantizers and packed forms.

mod adaptive;
mod compression;
mod five_level;
mod gguf_matrix;
mod gradients;
mod granularity;
mod grid;
mod packed_five_level;
mod packed_five_trits;
mod packed_ternary;
mod precision;
mod q8_matrix;
mod quantized_rows;
mod quantized_tensor;
mod quantized_weight;
mod quantizer;
mod stored;

pub use adaptive::{AdaptiveQuantizer, BitUnit, distortion, mean_bits};
pub use compression::compression_ratio;
pub use five_level::Quantizer158Bit;
pub use gguf_matrix::GgufTernaryMatrix;
pub use gradients::{GradientDraw, GradientQuantizer, GradientRounding, TERNGRAD_CLIP_SIGMA, quantize_gradients};
pub use granularity::Granularity;
pub use packed_five_level::PackedFiveLevel;
pub use packed_five_trits::PackedFiveTrits;
pub use packed_ternary::PackedTernary;
pub use precision::Precision;
pub use q8_matrix::Q8Matrix;
pub use quantized_rows::QuantizedRows;
pub use quantized_tensor::QuantizedTensor;
pub use quantized_weight::{OutputScale, QuantizedWeight, Requantized};
pub use quantizer::{Quantizer, ScaleRule};
pub(crate) use stored::{BLOCK, CODED_BLOCK, Coding, Stored, StoredMut};
