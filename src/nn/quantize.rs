//! The quantized copies of a store's matrices.
#![forbid(unsafe_code)]

use super::param_store::{ParamId, ParamStore, Precision};
use crate::dispatch::Context;
use crate::quant::{QuantizedWeight, Requantized};
use crate::{Error, Result};

/// What [`ParamStore::quantize`] found.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct QuantizeReport {
    /// Share of the quantized values that differ from the last time (0 the first time).
    pub flip_rate: f64,
    /// `||W - Q|| / ||W||` over all quantized matrices.
    pub quant_error: f64,
}

impl ParamStore {
    /// Makes the quantized copy of every matrix whose precision is not f32 from its latent weights. Must follow every
    /// change of weights, before the next pass. Reads them twice: mean and error sums, then codes. Error: a weight that is NaN or infinite, named by tensor; the copies
    /// are then partly new and must not be used.
    pub fn quantize(&mut self, context: &Context) -> Result<QuantizeReport> {
        let (mut flips, mut elements) = (0, 0);
        let mut total = [0f64; 2];
        for id in self.ids() {
            let Some(found) = self.quantize_one(context, id)? else { continue };
            flips += found.changed;
            elements += self.spec(id).len();
            total = [total[0] + found.squares, total[1] + found.squared_error];
        }
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Ok(QuantizeReport {
            flip_rate: ratio(flips as f64, elements as f64),
            quant_error: ratio(total[1], total[0]).sqrt(),
        })
    }

    /// [`ParamStore::quantize`] of one parameter; `None` for one that is not quantized.
    pub(crate) fn quantize_one(&mut self, context: &Context, id: ParamId) -> Result<Option<Requantized>> {
        let (spec, weights, copy, form) = self.quantize_view(context, id);
        let precision = spec.precision;
        if precision == Precision::F32 || weights.is_empty() {
            return Ok(None);
        }
        let found = match copy {
            Some(copy) => copy.requantize(context, precision, form.scale, weights),
            None => {
                let made = QuantizedWeight::zeroed(precision, spec.shape[0], spec.shape[1]);
                let Some(mut made) = made else { return Ok(None) };
                made.requantize(context, precision, form.scale, weights).map(|found| {
                    *copy = Some(made);
                    Requantized { changed: 0, ..found }
                })
            }
        };
        let found = found.map_err(|error| name_tensor(error, &spec.name))?;
        form.flip_rate = (found.changed as f64 / weights.len() as f64) as f32;
        Ok(Some(found))
    }
}

/// A non-finite weight reported with the tensor's name.
fn name_tensor(error: Error, tensor: &str) -> Error {
    match error {
        Error::NonFinite { index, value, .. } => Error::NonFinite { tensor: tensor.to_string(), index, value },
        other => other,
    }
}
