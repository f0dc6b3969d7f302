//! The hybrid optimizer: AdamW or SGD, bounded by a trust region, steered by the auxiliary network.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use super::auxiliary_network::{AuxiliaryNetwork, AuxiliaryOutput, Feedback, WARM_HIDDEN_SIZE};
use super::config::{OptimizerConfig, OptimizerKind};
use super::direction::{Counters, Direction, GradientCheck, Moments};
use super::features::StateFeatures;
use super::optimizer::{Optimizer, TrainingState, UpdateReport};
use super::sgd::Sgd;
use super::state::OptimizerState;
use super::steepest::{SteepestDescent, SteepestSettings, reaches};
use super::trust_region::{Part, RadiusMode, RadiusRule, TrustNorm, TrustRegion};
use crate::dispatch::Context;
use crate::kernels::UpdateSums;
use crate::nn::{ParamSpec, ParamStore};
use crate::{Error, Result};

/// An inner optimizer whose step passes, in turn: direction (moments of the inner optimizer), multiplier and radius
/// (auxiliary network), bound (trust region), weights. Every part has its switch in [`OptimizerConfig`]; with all of
/// them off the result is that of the inner optimizer, bit for bit.
///
/// With the trust region in the max or spectral norm ([`TrustNorm`]) the direction of the tensors it reaches is the exact
/// step on that ball instead of the inner optimizer's.
///
/// The network costs no extra buffer: the inner optimizers' update of the step before is recomputed from the old moments
/// while they are advanced, and every sum is taken in that same pass.
///
/// With a third output the direction leans on momentum by `b` in (-1, 1): the inner optimizer's mean gradient `m`
/// becomes `m + b (m - g)`, from the bare gradient (-1) over the inner optimizer (0) to momentum carried further (+1).
/// The bias of a step was decided at the step before, because the pass that takes the sums needs it; its feedback is
/// the agreement of the new gradient with the old momentum.
#[derive(Debug)]
pub struct HybridOptimizer {
    inner: Box<dyn Direction>,
    trust_region: Option<TrustRegion>,
    use_adaptive_lr: bool,
    /// `None`: the radius stays.
    radius_rule: Option<RadiusRule>,
    initial_radius: f32,
    base_learning_rate: f32,
    state: HybridState,
    /// Of the step that runs: kept, so that it allocates nothing.
    sums: Vec<UpdateSums>,
    parts: Vec<Part>,
    rates: Vec<f32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HybridState {
    network: Option<AuxiliaryNetwork>,
    features: StateFeatures,
    direction_bias: f32,
    /// Of the rule of the reduction ratio.
    radius: f32,
    last: Option<LastStep>,
    /// Sums of the squares of the weights at the start, where the radius counts them; else empty.
    initial_squares: Vec<f32>,
}

/// What feedback on a step needs at the next one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastStep {
    loss: f32,
    update_norm: f32,
    predicted_reduction: f32,
    /// Norm of the gradients before clipping over that after, 1 or more.
    clipped: f32,
    constraint_active: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scalars {
    inner: Counters,
    hybrid: HybridState,
}

impl HybridOptimizer {
    /// For the parameters of `store`. Error: a value of `config` outside its range.
    pub fn new(store: &ParamStore, config: &OptimizerConfig) -> Result<Self> {
        config.validate()?;
        let norm = if config.use_trust_region { config.trust_norm } else { TrustNorm::L2 };
        let covers = |spec: &ParamSpec| !reaches(norm, spec);
        let mut inner: Box<dyn Direction> = match config.inner {
            OptimizerKind::Sgd => Box::new(Sgd::covering(store, config.momentum, covers)),
            _ => {
                let adamw = AdamW::covering(store, config.momentum, config.beta2, config.epsilon, covers);
                Box::new(adamw.with_states(config.state_precision, config.seed))
            }
        };
        if norm != TrustNorm::L2 {
            let settings = SteepestSettings {
                norm,
                momentum: config.steepest_momentum,
                rms: f64::from(config.steepest_rms),
                iterations: config.newton_schulz_iterations,
                precision: config.newton_schulz_precision,
            };
            inner = Box::new(SteepestDescent::new(store, inner, settings));
        }
        let (hidden, outputs) = (config.auxiliary_nn_hidden_size, config.auxiliary_nn_output_size);
        let (rate, radius) = (config.auxiliary_nn_learning_rate, config.initial_trust_radius);
        // The weights were found with a radius that follows the schedule.
        let scheduled = config.use_trust_region
            && config.trust_radius_adaptation
            && config.trust_radius_rule == RadiusRule::Schedule;
        let warm = config.auxiliary_nn_warm_start && scheduled && hidden == WARM_HIDDEN_SIZE;
        let network = if warm {
            AuxiliaryNetwork::warm_started(outputs, rate, radius)?
        } else {
            AuxiliaryNetwork::new(hidden, outputs, rate, radius, config.seed)?
        };
        let state = HybridState {
            network: config.use_auxiliary_nn.then_some(network),
            features: StateFeatures::default(),
            direction_bias: 0.0,
            radius: config.initial_trust_radius,
            last: None,
            initial_squares: match config.radius_mode {
                RadiusMode::Initial => store.ids().map(|id| squares(&store.weight_values(id)) as f32).collect(),
                _ => Vec::new(),
            },
        };
        Ok(HybridOptimizer {
            inner,
            trust_region: config
                .use_trust_region
                .then_some(TrustRegion { scope: config.trust_scope, mode: config.radius_mode }),
            use_adaptive_lr: config.use_adaptive_lr,
            radius_rule: config.trust_radius_adaptation.then_some(config.trust_radius_rule),
            initial_radius: config.initial_trust_radius,
            base_learning_rate: config.base_learning_rate,
            state,
            sums: Vec::new(),
            parts: Vec::new(),
            rates: Vec::new(),
        })
    }

    /// The radius of a step, unless the network moves it.
    fn planned_radius(&self, state: &TrainingState) -> f32 {
        match self.radius_rule {
            Some(RadiusRule::Schedule) => self.initial_radius * state.learning_rate / self.base_learning_rate,
            Some(RadiusRule::ReductionRatio) => self.state.radius,
            _ => self.initial_radius,
        }
    }

    /// Feedback on the last step, then the decision for this one.
    fn consult_network(&mut self, state: &TrainingState, radius: f32, alignment: f32) -> AuxiliaryOutput {
        let off = AuxiliaryOutput { multiplier: 1.0, radius, direction_bias: 0.0 };
        let HybridState { network: Some(network), features, last, .. } = &mut self.state else { return off };
        if let Some(last) = last {
            network.update_with_feedback(&Feedback {
                alignment,
                actual_reduction: last.loss - state.loss,
                predicted_reduction: last.predicted_reduction,
                constraint_active: last.constraint_active,
            });
        }
        let output = network.decide(features.observe(state));
        AuxiliaryOutput {
            multiplier: if self.use_adaptive_lr { output.multiplier } else { off.multiplier },
            radius: if self.radius_rule == Some(RadiusRule::Network) { output.radius } else { off.radius },
            ..output
        }
    }
}

fn squares(weights: &[f32]) -> f64 {
    weights.iter().map(|&weight| f64::from(weight) * f64::from(weight)).sum()
}

impl Optimizer for HybridOptimizer {
    fn name(&self) -> &'static str {
        "hybrid"
    }

    fn step(&mut self, context: &Context, store: &mut ParamStore, state: &TrainingState) -> Result<UpdateReport> {
        let mut report = UpdateReport {
            lr_multiplier: 1.0,
            trust_radius: f32::INFINITY,
            efficiency: 1.0,
            direction_bias: self.state.direction_bias,
            ..UpdateReport::default()
        };
        let gradient_squares = match self.inner.moments_mut().check(context, store, state)? {
            GradientCheck::SumOfSquares(squares) => squares,
            GradientCheck::NotFinite(name) => {
                report.skipped = Some(name);
                return Ok(report);
            }
        };
        self.sums.clear();
        let bias = self.state.direction_bias;
        self.inner.advance(context, store, state.weight_decay, bias, &mut self.sums);
        let whole = self.sums.iter().fold(UpdateSums::default(), |mut whole, sums| {
            whole += *sums;
            whole
        });
        let lengths = self.state.last.map_or(0.0, |last| gradient_squares.sqrt() * f64::from(last.update_norm));
        if lengths > 0.0 {
            report.alignment = (whole.gradient_previous / lengths) as f32;
        }
        let mut parts = std::mem::take(&mut self.parts);
        parts.clear();
        parts.extend(self.sums.iter().zip(&self.inner.moments().entries).enumerate().map(
            |(parameter, (&sums, entry))| Part {
                decay: f64::from(self.inner.decoupled_decay(parameter, state.weight_decay)),
                len: entry.len,
                weight_squares: match self.state.initial_squares.get(parameter) {
                    Some(&initial) => f64::from(initial),
                    None => sums.weight_squares,
                },
                ball: self.inner.ball(parameter),
                sums,
            },
        ));
        let region = self.trust_region.unwrap_or_default();
        let radius = self.planned_radius(state);
        let mut state = *state;
        state.log_reach = match self.trust_region {
            Some(_) => region.log_reach(f64::from(radius), f64::from(state.learning_rate), &parts) as f32,
            None => 0.0,
        };
        let output = self.consult_network(&state, radius, report.alignment);
        self.state.direction_bias = output.direction_bias;
        report.lr_multiplier = output.multiplier;
        if self.trust_region.is_some() {
            report.trust_radius = output.radius;
        }
        let rate = state.learning_rate * output.multiplier;
        let constrained = region.constrain(f64::from(report.trust_radius), f64::from(rate), &parts);
        let factors = region.factors(f64::from(report.trust_radius), f64::from(rate), &parts).zip(store.ids());
        let of = |(factor, id)| if store.is_frozen(id) { 0.0 } else { (f64::from(rate) * factor) as f32 };
        self.rates.clear();
        self.rates.extend(factors.map(of));
        self.inner.apply(context, store, &self.rates, state.step);

        let predicted: f64 =
            parts.iter().zip(&self.rates).map(|(part, &rate)| f64::from(rate) * part.sums.gradient_update).sum();
        let clipped = state.gradient_norm / gradient_squares.sqrt();
        let elements: usize = parts.iter().map(|part| part.len).sum();
        self.parts = parts;
        report.update_norm = constrained.update_norm;
        report.constraint_active = constrained.constrained_elements > 0;
        report.constrained_share = constrained.constrained_elements as f32 / elements.max(1) as f32;
        if constrained.unconstrained_norm > 0.0 {
            report.efficiency = (constrained.update_norm / constrained.unconstrained_norm) as f32;
        }
        let last = LastStep {
            loss: state.loss,
            update_norm: whole.update_squares.sqrt() as f32,
            predicted_reduction: predicted as f32,
            clipped: if clipped > 1.0 && clipped.is_finite() { clipped as f32 } else { 1.0 },
            constraint_active: report.constraint_active,
        };
        let finite = last.loss.is_finite() && last.update_norm.is_finite() && last.predicted_reduction.is_finite();
        self.state.last = finite.then_some(last);
        Ok(report)
    }

    fn observe_reduction(&mut self, actual: f32) {
        let Some(last) = self.state.last.filter(|last| last.predicted_reduction > 0.0 && actual.is_finite()) else {
            return;
        };
        // The loss follows the gradients as they were before clipping.
        let ratio = actual / (last.clipped * last.predicted_reduction);
        let factor = match ratio {
            _ if ratio < 0.25 => 0.5,
            _ if ratio > 0.75 && last.constraint_active => 2.0,
            _ => 1.0,
        };
        self.state.radius = (factor * self.state.radius).clamp(0.001, 1.0);
    }

    fn state(&self) -> OptimizerState<'_> {
        let moments = self.inner.moments();
        let scalars = Scalars { inner: moments.counters, hybrid: self.state.clone() };
        let mut tensors = moments.tensors();
        tensors.extend(self.inner.more_moments().into_iter().flat_map(Moments::tensors));
        OptimizerState { tensors, scalars: serde_json::to_value(scalars).expect("finite numbers are JSON") }
    }

    fn workspace_bytes(&self) -> usize {
        self.inner.workspace_bytes()
    }

    fn load_state(&mut self, state: &OptimizerState<'_>) -> Result<()> {
        let scalars: Scalars = state.parse_scalars("hybrid optimizer")?;
        match (&scalars.hybrid.network, &self.state.network) {
            (None, None) => {}
            (Some(stored), Some(own)) if own.has_shape_of(stored) => stored.validate()?,
            _ => return Err(Error::invalid("auxiliary network", "the configured shape", "another")),
        }
        if let Some(more) = self.inner.more_moments() {
            more.check_state(state)?;
        }
        if scalars.hybrid.initial_squares.len() != self.state.initial_squares.len() {
            return Err(Error::invalid("radius_mode", "that of the stored run", "another"));
        }
        self.inner.moments_mut().load(state, scalars.inner)?;
        if let Some(more) = self.inner.more_moments_mut() {
            more.load(state, Counters::default())?;
        }
        self.state = scalars.hybrid;
        Ok(())
    }

    fn auxiliary_network(&self) -> Option<&AuxiliaryNetwork> {
        self.state.network.as_ref()
    }

    fn set_auxiliary_network(&mut self, network: AuxiliaryNetwork) -> Result<()> {
        network.validate()?;
        match &mut self.state.network {
            Some(own) if own.has_shape_of(&network) => *own = network,
            _ => return Err(Error::invalid("auxiliary network", "the configured shape", "another")),
        }
        self.state.last = None;
        Ok(())
    }
}
