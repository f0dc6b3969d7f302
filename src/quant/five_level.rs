//! The five-level quantizer of hybridq's prototypes, kept reachable.
#![forbid(unsafe_code)]

use crate::{Error, Result};

/// `round(clip(v, -1, 1) * 2) / 2 * scale`, ties to even: the grid {-1, -1/2, 0, 1/2, 1} times `scale`.
///
/// The name is the prototypes'; five levels are 2.32 bits, not 1.58. Values are expected in [-1, 1] and are *not*
/// divided by the scale. For weights take [`super::Quantizer`] with [`super::Precision::FiveLevel`], whose scale
/// follows the data.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quantizer158Bit {
    scale: f32,
}

impl Quantizer158Bit {
    /// A quantizer of `quantizer_scale` (1 in the prototypes). Error: not a positive number.
    pub fn new(quantizer_scale: f32) -> Result<Self> {
        if !(quantizer_scale.is_finite() && quantizer_scale > 0.0) {
            return Err(Error::invalid("quantizer_scale", "a positive number", quantizer_scale));
        }
        Ok(Quantizer158Bit { scale: quantizer_scale })
    }

    /// Quantizes `values` in place. Error: a value that is not finite; nothing has changed then.
    pub fn quantize(&self, values: &mut [f32]) -> Result<()> {
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite { tensor: "values".into(), index, value: values[index] });
        }
        values.iter_mut().for_each(|v| *v = (v.clamp(-1.0, 1.0) * 2.0).round_ties_even() / 2.0 * self.scale);
        Ok(())
    }
}
