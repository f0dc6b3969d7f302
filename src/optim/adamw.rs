//! AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
#![forbid(unsafe_code)]

use super::direction::{BLOCK, Direction, Moments, plain_state, plain_step};
use super::optimizer::{Optimizer, TrainingState, UpdateReport};
use super::state::{OptimizerState, StatePrecision};
use crate::Result;
use crate::dispatch::{Context, StochasticRounding};
use crate::kernels::{AdamWSettings, UpdateSums};
use crate::nn::{ParamSpec, ParamStore};
use crate::quant::Coding;

/// AdamW with bias correction, as `torch.optim.AdamW` computes it:
/// `m += (1-beta1)(g-m)`, `v = beta2 v + (1-beta2) g^2`, `u = m/(1-beta1^t) / (sqrt(v)/sqrt(1-beta2^t) + epsilon)`,
/// `w = w (1 - lr decay) - lr u`. Decay acts on linear weights and embeddings only.
///
/// State: two f32 per weight, or fewer bits ([`StatePrecision`]). Pass 1 rounds what it stores: the sums it gives are of the
/// update before this rounding, the weights change by the one after.
#[derive(Clone, Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f32,
    moments: Moments,
    /// Of the last pass 1.
    settings: AdamWSettings,
    weight_decay: f32,
    /// Of the rounding of moments.
    seed: u64,
}

/// Random streams of the rounding of moments (see [`crate::tensor::RandomStream::new`]).
const STATE_PURPOSE: u32 = 71;

impl AdamW {
    /// For the parameters of `store`. The betas lie in [0, 1) and `epsilon` above 0, as
    /// [`super::OptimizerConfig::build`] checks.
    pub fn new(store: &ParamStore, beta1: f64, beta2: f64, epsilon: f32) -> Self {
        Self::covering(store, beta1, beta2, epsilon, |_| true)
    }

    /// For the parameters that `covers`; the others stay as they are.
    pub(super) fn covering(
        store: &ParamStore,
        beta1: f64,
        beta2: f64,
        epsilon: f32,
        covers: impl Fn(&ParamSpec) -> bool,
    ) -> Self {
        let moments = Moments::covering(store, &["adamw.first_moment", "adamw.second_moment"], covers);
        let settings = AdamWSettings {
            new_share1: 0.0,
            beta2: 0.0,
            new_share2: 0.0,
            epsilon,
            correction1: 0.0,
            correction2: 0.0,
            previous_correction1: 0.0,
            previous_correction2: 0.0,
            bias: 0.0,
        };
        AdamW { beta1, beta2, epsilon, moments, settings, weight_decay: 0.0, seed: 0 }
    }

    /// The same with moments of another precision, rounded by `seed`. Before the first step.
    pub fn with_states(self, precision: StatePrecision, seed: u64) -> Self {
        AdamW { moments: self.moments.in_precision(precision), seed, ..self }
    }

    /// `1/(1-beta1^t)` and `1/sqrt(1-beta2^t)`; 0 for `t = 0`: before the first step there is no update.
    fn corrections(&self, updates: u64) -> (f32, f32) {
        if updates == 0 {
            return (0.0, 0.0);
        }
        let remaining = |beta: f64| 1.0 - libm::pow(beta, updates as f64);
        ((1.0 / remaining(self.beta1)) as f32, (1.0 / remaining(self.beta2).sqrt()) as f32)
    }
}

impl Direction for AdamW {
    fn moments(&self) -> &Moments {
        &self.moments
    }

    fn moments_mut(&mut self) -> &mut Moments {
        &mut self.moments
    }

    fn advance(
        &mut self,
        context: &Context,
        store: &mut ParamStore,
        weight_decay: f32,
        bias: f32,
        sums: &mut Vec<UpdateSums>,
    ) {
        let (previous_correction1, previous_correction2) = self.corrections(self.moments.counters.updates);
        self.moments.counters.updates += 1;
        let (correction1, correction2) = self.corrections(self.moments.counters.updates);
        self.settings = AdamWSettings {
            new_share1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            new_share2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon,
            correction1,
            correction2,
            previous_correction1,
            previous_correction2,
            bias,
        };
        self.weight_decay = weight_decay;
        let (kernels, settings) = (context.kernels(), self.settings);
        let (seed, step) = (self.seed, self.moments.counters.updates as u32);
        let each = |id: crate::nn::ParamId| {
            let [m, v] = self.moments.both_mut(id.index());
            let inputs = store.stored_gradient(id).blocks().zip(store.stored_weight(id).blocks());
            let blocks = m.blocks().zip(v.blocks()).zip(inputs);
            context.sum(blocks.enumerate(), |(block, ((m, v), (g, w)))| {
                let coding = |moment: u32| Coding {
                    is_signed: moment == 0,
                    first: block * BLOCK,
                    rounding: StochasticRounding::new(seed, STATE_PURPOSE, step, 2 * id.index() as u32 + moment),
                };
                let advance = |g: &[f32], w: &[f32]| {
                    m.update(kernels, coding(0), |m| {
                        v.update(kernels, coding(1), |v| kernels.adamw_moments(g, w, &settings, m, v))
                    })
                };
                g.read(kernels, true, |g| w.read(kernels, true, |w| advance(g, w)))
            })
        };
        sums.extend(store.ids().map(each));
    }

    fn apply(&self, context: &Context, store: &mut ParamStore, rates: &[f32], step: u64) {
        let (kernels, settings) = (context.kernels(), &self.settings);
        context.install(|| {
            for id in store.ids() {
                let rate = rates[id.index()];
                let decay = f64::from(self.decoupled_decay(id.index(), self.weight_decay));
                let keep = (1.0 - f64::from(rate) * decay) as f32;
                let [m, v] = self.moments.both(id.index());
                let rounding = store.weight_rounding(id, step);
                let (weight, gradient) = store.stored_for_update(id);
                let blocks = weight.blocks().zip(gradient.blocks()).zip(m.blocks().zip(v.blocks())).enumerate();
                context.for_each(blocks, |(block, ((weight, gradient), (m, v)))| {
                    let apply = |gradient: &[f32], m: &[f32], v: &[f32]| {
                        weight.update(kernels, Coding { is_signed: true, first: block * BLOCK, rounding }, |weight| {
                            kernels.adamw_apply(gradient, m, v, settings, keep, rate, weight);
                        });
                    };
                    m.read(kernels, true, |m| {
                        v.read(kernels, false, |v| match settings.bias {
                            // The kernel does not read the gradient: any numbers will do.
                            0.0 => apply(m, m, v),
                            _ => gradient.read(kernels, true, |gradient| apply(gradient, m, v)),
                        });
                    });
                });
            }
        });
    }

    fn decoupled_decay(&self, parameter: usize, weight_decay: f32) -> f32 {
        if self.moments.entries[parameter].decays { weight_decay } else { 0.0 }
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn step(&mut self, context: &Context, store: &mut ParamStore, state: &TrainingState) -> Result<UpdateReport> {
        plain_step(self, context, store, state)
    }

    fn state(&self) -> OptimizerState<'_> {
        plain_state(&self.moments)
    }

    fn load_state(&mut self, state: &OptimizerState<'_>) -> Result<()> {
        self.moments.load(state, state.parse_scalars("adamw")?)
    }
}
