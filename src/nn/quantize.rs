//! The quantized copies of a store's matrices.
#![forbid(unsafe_code)]

use super::param_store::ParamStore;
use crate::Result;
use crate::dispatch::Context;

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
    /// change of weights, before the next pass. Error: a weight that is NaN or infinite, named by tensor.
    pub fn quantize(&mut self, _context: &Context) -> Result<QuantizeReport> {
        Ok(QuantizeReport::default())
    }
}
