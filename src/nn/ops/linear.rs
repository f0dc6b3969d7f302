//! Linear layers.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Arithmetic of the backward products of a quantized linear layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradPrecision {
    /// Dense f32 products on dequantized operands: the exact straight-through gradient.
    #[default]
    F32,
    /// Integer products on stochastically rounded int8 gradients: unbiased, and faster.
    Int8,
}
