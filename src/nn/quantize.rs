//! The quantized copies of a store's matrices.
#![forbid(unsafe_code)]

use rayon::prelude::*;

use super::param_store::{ParamStore, Precision};
use crate::dispatch::Context;
use crate::quant::QuantizedWeight;
use crate::{Error, Result};

/// Elements of a parallel block.
const BLOCK: usize = 1 << 16;
/// Lanes of the sums (as the kernels' reductions: csrc/lanes.h).
const LANES: usize = 16;

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
    /// change of weights, before the next pass. Error: a weight that is NaN or infinite, named by tensor; the copies
    /// are then partly new and must not be used.
    pub fn quantize(&mut self, context: &Context) -> Result<QuantizeReport> {
        let (mut flips, mut elements) = (0, 0);
        let mut total = [0f64; 2];
        for id in self.ids() {
            let (spec, weights, copy) = self.quantize_view(id);
            let precision = spec.precision;
            if precision == Precision::F32 {
                continue;
            }
            let changed = match copy {
                Some(copy) => copy.requantize(context, precision, weights),
                None => {
                    QuantizedWeight::quantize(context, precision, weights, spec.shape[0], spec.shape[1]).map(|made| {
                        *copy = made;
                        0
                    })
                }
            };
            flips += changed.map_err(|error| name_tensor(error, &spec.name))?;
            elements += weights.len();
            let squares = match copy {
                Some(QuantizedWeight::Packed(packed)) => {
                    context.install(|| sums(weights, weights, |w, _| sign_distance(w, packed.scales[0], precision)))
                }
                Some(QuantizedWeight::Dequantized { values, .. }) => {
                    context.install(|| sums(weights, values, |w, q| w - q))
                }
                None => [0.0; 2],
            };
            total = [total[0] + squares[0], total[1] + squares[1]];
        }
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Ok(QuantizeReport {
            flip_rate: ratio(flips as f64, elements as f64),
            quant_error: ratio(total[1], total[0]).sqrt(),
        })
    }
}

/// Distance of a weight from its packed value: `s * sign(w)`, or 0 where a ternary `|w|` is at most `s / 2`.
fn sign_distance(weight: f32, scale: f32, precision: Precision) -> f32 {
    let kept = precision == Precision::Binary || weight.abs() > 0.5 * scale;
    if kept { weight.abs() - scale } else { weight }
}

/// Sums of `w^2` and `distance(w, q)^2`: f64 lanes over fixed blocks, the same at every thread count.
fn sums(weights: &[f32], values: &[f32], distance: impl Fn(f32, f32) -> f32 + Sync) -> [f64; 2] {
    let block = |(weights, values): (&[f32], &[f32])| {
        let (mut squares, mut errors) = ([0f64; LANES], [0f64; LANES]);
        for (weights, values) in weights.chunks(LANES).zip(values.chunks(LANES)) {
            for (lane, (&w, &q)) in weights.iter().zip(values).enumerate() {
                let off = f64::from(distance(w, q));
                squares[lane] += f64::from(w) * f64::from(w);
                errors[lane] += off * off;
            }
        }
        [squares.iter().sum::<f64>(), errors.iter().sum::<f64>()]
    };
    let blocks: Vec<[f64; 2]> = weights.par_chunks(BLOCK).zip(values.par_chunks(BLOCK)).map(block).collect();
    blocks.into_iter().fold([0.0; 2], |total, sum| [total[0] + sum[0], total[1] + sum[1]])
}

/// A non-finite weight reported with the tensor's name.
fn name_tensor(error: Error, tensor: &str) -> Error {
    match error {
        Error::NonFinite { index, value, .. } => Error::NonFinite { tensor: tensor.to_string(), index, value },
        other => other,
    }
}
