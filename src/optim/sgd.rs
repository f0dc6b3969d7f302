//! Stochastic gradient descent with momentum.
#![forbid(unsafe_code)]

use super::direction::{BLOCK, Direction, Moments, plain_state, plain_step};
use super::optimizer::{Optimizer, TrainingState, UpdateReport};
use super::state::OptimizerState;
use crate::Result;
use crate::dispatch::Context;
use crate::kernels::{SgdSettings, UpdateSums};
use crate::nn::{ParamId, ParamSpec, ParamStore};
use crate::quant::Coding;

/// SGD with momentum, as `torch.optim.SGD` computes it without dampening: `v = momentum v + g + decay w`,
/// `w = w - lr v`. Decay acts on linear weights and embeddings only.
///
/// State: one f32 per weight.
#[derive(Clone, Debug)]
pub struct Sgd {
    momentum: f64,
    moments: Moments,
    /// Of the last pass 1.
    settings: SgdSettings,
}

impl Sgd {
    /// For the parameters of `store`; `momentum` lies in [0, 1), as [`super::OptimizerConfig::build`] checks.
    pub fn new(store: &ParamStore, momentum: f64) -> Self {
        Self::covering(store, momentum, |_| true)
    }

    /// For the parameters that `covers`; the others stay as they are.
    pub(super) fn covering(store: &ParamStore, momentum: f64, covers: impl Fn(&ParamSpec) -> bool) -> Self {
        let settings = SgdSettings {
            momentum: momentum as f32,
            weight_decay: 0.0,
            whole: (1.0 / (1.0 - momentum)) as f32,
            bias: 0.0,
        };
        Sgd { momentum, moments: Moments::covering(store, &["sgd.velocity"], covers), settings }
    }

    fn settings_of(&self, parameter: usize) -> SgdSettings {
        let decays = self.moments.entries[parameter].decays;
        SgdSettings { weight_decay: if decays { self.settings.weight_decay } else { 0.0 }, ..self.settings }
    }
}

impl Direction for Sgd {
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
        self.moments.counters.updates += 1;
        self.settings = SgdSettings { momentum: self.momentum as f32, weight_decay, bias, ..self.settings };
        let kernels = context.kernels();
        let each = |id: ParamId| {
            let settings = self.settings_of(id.index());
            let inputs = store.stored_gradient(id).blocks().zip(store.stored_weight(id).blocks());
            let blocks = self.moments.first_mut(id.index()).chunks_mut(BLOCK).zip(inputs);
            context.sum(blocks, |(v, (g, w))| {
                g.read(kernels, true, |g| w.read(kernels, true, |w| kernels.sgd_velocity(g, w, &settings, v)))
            })
        };
        sums.extend(store.ids().map(each));
    }

    fn apply(&self, context: &Context, store: &mut ParamStore, rates: &[f32], step: u64) {
        let kernels = context.kernels();
        context.install(|| {
            for id in store.ids() {
                let (settings, rate) = (self.settings_of(id.index()), rates[id.index()]);
                let velocity = self.moments.get(0, id.index()).chunks(BLOCK);
                let rounding = store.weight_rounding(id, step);
                let (weight, gradient) = store.stored_for_update(id);
                let blocks = weight.blocks().zip(gradient.blocks()).zip(velocity).enumerate();
                context.for_each(blocks, |(block, ((weight, gradient), v))| {
                    let coding = Coding { is_signed: true, first: block * BLOCK, rounding };
                    gradient.read(kernels, true, |g| {
                        weight.update(kernels, coding, |weight| kernels.sgd_apply(g, v, &settings, rate, weight))
                    });
                });
            }
        });
    }

    fn decoupled_decay(&self, _: usize, _: f32) -> f32 {
        0.0
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn step(&mut self, context: &Context, store: &mut ParamStore, state: &TrainingState) -> Result<UpdateReport> {
        plain_step(self, context, store, state)
    }

    fn state(&self) -> OptimizerState<'_> {
        plain_state(&self.moments)
    }

    fn load_state(&mut self, state: &OptimizerState<'_>) -> Result<()> {
        self.moments.load(state, state.parse_scalars("sgd")?)
    }
}
