//! The l2 trust region: the length of an update is bounded relative to the weights it changes.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::direction::step_squares;
use crate::kernels::UpdateSums;

/// Root mean square below which weights count as this large for a relative radius, so that tensors that start at zero
/// can move (the device of Adafactor, Shazeer and Stern 2018, with a value near the usual initial weights).
const RMS_FLOOR: f64 = 0.01;

/// What is bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustScope {
    /// The change of all weights together: `||dT|| <= r ||T||`, the stated problem. Rescaling keeps the direction of
    /// the inner optimizer, and small tensors move within the norm of the whole.
    #[default]
    Global,
    /// Each parameter by itself, as in LARS and LAMB: protects every layer alike but turns the whole update.
    Tensor,
}

/// What a radius counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RadiusMode {
    /// The norm of the weights, at least 0.01 per element (root mean square).
    #[default]
    Relative,
    /// Nothing: the radius is the bound itself.
    Absolute,
}

/// `||update|| <= radius` in the l2 norm: a longer update is rescaled onto the ball, which is the exact solution of the
/// linearised problem for a given direction. The update includes weight decay.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TrustRegion {
    /// What is bounded.
    pub scope: TrustScope,
    /// What the radius counts.
    pub mode: RadiusMode,
}

/// One parameter's part in a step.
pub(super) struct Part {
    pub sums: UpdateSums,
    pub decay: f64,
    pub len: usize,
}

/// The outcome of [`TrustRegion::constrain`].
pub(super) struct Constrained {
    /// Factor on the rate of each parameter, (0, 1]; exactly 1 where the bound does not bite.
    pub factors: Vec<f64>,
    pub constrained_elements: usize,
    pub update_norm: f64,
    pub unconstrained_norm: f64,
}

impl TrustRegion {
    /// The factors that keep a step of `rate` within `radius` (infinite: no bound).
    pub(super) fn constrain(&self, radius: f64, rate: f64, parts: &[Part]) -> Constrained {
        let wanted: Vec<f64> = parts.iter().map(|part| rate * rate * step_squares(&part.sums, part.decay)).collect();
        let whole: f64 = wanted.iter().sum();
        let floored = |part: &Part| part.sums.weight_squares.max(RMS_FLOOR * RMS_FLOOR * part.len as f64);
        let bound = |weight_squares: f64| match self.mode {
            RadiusMode::Relative => radius * weight_squares.sqrt(),
            RadiusMode::Absolute => radius,
        };
        let factor = |wanted_squares: f64, bound: f64| {
            let norm = wanted_squares.sqrt();
            if norm > bound { bound / norm } else { 1.0 }
        };
        let factors: Vec<f64> = match self.scope {
            TrustScope::Tensor => {
                parts.iter().zip(&wanted).map(|(part, &wanted)| factor(wanted, bound(floored(part)))).collect()
            }
            TrustScope::Global => {
                vec![factor(whole, bound(parts.iter().map(floored).sum())); parts.len()]
            }
        };
        let active = parts.iter().zip(&factors).filter(|&(_, &factor)| factor < 1.0);
        Constrained {
            constrained_elements: active.map(|(part, _)| part.len).sum(),
            update_norm: wanted
                .iter()
                .zip(&factors)
                .map(|(wanted, factor)| wanted * factor * factor)
                .sum::<f64>()
                .sqrt(),
            unconstrained_norm: whole.sqrt(),
            factors,
        }
    }
}
