//! The trust region: the length of an update is bounded relative to the weights it changes.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::direction::step_squares;
use crate::kernels::UpdateSums;

/// Root mean square below which weights count as this large for a relative radius, so that tensors that start at zero
/// can move (the device of Adafactor, Shazeer and Stern 2018, with a value near the usual initial weights).
const RMS_FLOOR: f64 = 0.01;

/// The norm of the ball an update stays in. With the steps of each norm, an update that fills the ball of a relative radius
/// has the same l2 length: the norms differ in shape, a radius means the same in all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustNorm {
    /// Euclidean: the inner optimizer's update, rescaled if too long.
    #[default]
    L2,
    /// The largest element: steps along the signs of the momentum.
    Max,
    /// The largest singular value of a matrix: steps along the orthogonal factor of the momentum; tensors other than
    /// linear matrices as with `l2`.
    Spectral,
}

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
    /// The norm that the weights had when the optimizer was made, at least 0.01 per element. Weights of ternary layers grow as
    /// they train, and steps relative to them with them; these do not.
    Initial,
    /// Nothing: the radius is the bound itself.
    Absolute,
}

/// Where the radius of a step comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RadiusRule {
    /// The auxiliary network; without it the radius stays.
    #[default]
    Network,
    /// The schedule: the initial radius times the scheduled over the base learning rate. Where the region bites, steps are
    /// as long as the radius says, whatever the learning rate.
    Schedule,
    /// Actual over predicted reduction of the loss of a step's own batch ([`super::Optimizer::observe_reduction`]): below 1/4 the
    /// radius halves, above 3/4 it doubles if the region bit (Nocedal and Wright, "Numerical Optimization", algorithm 4.1).
    ReductionRatio,
}

/// `||update|| <= radius`: a longer update is rescaled onto the ball, which is the exact solution of the linearised problem
/// for the direction of the inner optimizer (l2), of the signs (max) and of the orthogonal factor (spectral).
///
/// A relative l2 radius counts the l2 norm of the weights. In the other norms it counts their root mean square, of the
/// elements (max) or of the singular values (spectral, `|W|_F / sqrt(shorter side)`). The norm of several tensors together
/// is the largest of theirs in these norms, so their scope is always the tensor. The l2 update includes weight decay; in
/// the other norms decay, a step towards zero, is not counted.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TrustRegion {
    /// What is bounded, of tensors bounded in the l2 norm.
    pub scope: TrustScope,
    /// What the radius counts.
    pub mode: RadiusMode,
}

/// The ball of a max or spectral norm that an update fills.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Ball {
    /// Norm of the update for a rate of 1.
    pub length: f64,
    /// Elements, or singular values.
    pub count: usize,
}

/// One parameter's part in a step.
#[derive(Debug)]
pub(super) struct Part {
    pub sums: UpdateSums,
    pub decay: f64,
    pub len: usize,
    /// Sum of the squares of the weights the radius counts.
    pub weight_squares: f64,
    /// `None`: bounded in the l2 norm.
    pub ball: Option<Ball>,
}

/// The outcome of [`TrustRegion::constrain`].
pub(super) struct Constrained {
    pub constrained_elements: usize,
    pub update_norm: f64,
    pub unconstrained_norm: f64,
}

impl TrustRegion {
    /// Mean over the weights of the logarithm of a step of `rate` over its bound; 0 for no step.
    pub(super) fn log_reach(&self, radius: f64, rate: f64, parts: &[Part]) -> f64 {
        let (mut sum, mut elements) = (0.0, 0);
        for (part, reach) in parts.iter().zip(self.reaches(radius, rate, parts)) {
            if reach > 0.0 && reach.is_finite() {
                sum += part.len as f64 * libm::log(reach);
                elements += part.len;
            }
        }
        sum / elements.max(1) as f64
    }

    /// The length of a step of `rate` over its bound, for each parameter.
    fn reaches<'a>(&self, radius: f64, rate: f64, parts: &'a [Part]) -> impl Iterator<Item = f64> + use<'a> {
        let TrustRegion { scope, mode } = *self;
        let floored = |part: &Part| part.weight_squares.max(RMS_FLOOR * RMS_FLOOR * part.len as f64);
        let bound = move |weight_squares: f64| match mode {
            RadiusMode::Relative | RadiusMode::Initial => radius * weight_squares.sqrt(),
            RadiusMode::Absolute => radius,
        };
        let squares = move |part: &Part| rate * rate * step_squares(&part.sums, part.decay);
        let in_l2 = || parts.iter().filter(|part| part.ball.is_none());
        let global = in_l2().map(squares).sum::<f64>().sqrt() / bound(in_l2().map(floored).sum());
        let of_part = move |part: &Part| match (part.ball, scope) {
            (Some(ball), _) => rate * ball.length / bound(floored(part) / ball.count.max(1) as f64),
            (None, TrustScope::Tensor) => squares(part).sqrt() / bound(floored(part)),
            (None, TrustScope::Global) => global,
        };
        parts.iter().map(of_part)
    }

    /// The factors on the rate of each parameter that keep a step of `rate` within `radius` (infinite: no bound): in (0, 1],
    /// exactly 1 where the bound does not bite.
    pub(super) fn factors<'a>(&self, radius: f64, rate: f64, parts: &'a [Part]) -> impl Iterator<Item = f64> + use<'a> {
        self.reaches(radius, rate, parts).map(|reach| if reach > 1.0 { 1.0 / reach } else { 1.0 })
    }

    /// What comes of a step with these factors.
    pub(super) fn constrain(&self, radius: f64, rate: f64, parts: &[Part]) -> Constrained {
        let wanted = || parts.iter().map(|part| rate * rate * step_squares(&part.sums, part.decay));
        let factors = || self.factors(radius, rate, parts);
        let active = parts.iter().zip(factors()).filter(|&(_, factor)| factor < 1.0);
        Constrained {
            constrained_elements: active.map(|(part, _)| part.len).sum(),
            update_norm: wanted().zip(factors()).map(|(wanted, factor)| wanted * factor * factor).sum::<f64>().sqrt(),
            unconstrained_norm: wanted().sum::<f64>().sqrt(),
        }
    }
}
