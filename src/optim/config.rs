//! Configuration of the optimizers.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use super::hybrid::HybridOptimizer;
use super::newton_schulz::NewtonSchulzPrecision;
use super::optimizer::Optimizer;
use super::sgd::Sgd;
use super::state::StatePrecision;
use super::trust_region::{RadiusMode, RadiusRule, TrustNorm, TrustScope};
use crate::nn::ParamStore;
use crate::{Error, Result};

/// A plain optimizer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// [`HybridOptimizer`] around [`OptimizerConfig::inner`].
    #[default]
    Hybrid,
    /// [`AdamW`] alone.
    AdamW,
    /// [`Sgd`] alone.
    Sgd,
}

/// Everything an optimizer is built from. The learning rate and weight decay of a step come with each step, from the
/// base values here and a [`super::LearningRateSchedule`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which optimizer.
    pub optimizer: OptimizerKind,
    /// The optimizer inside the hybrid one: `adamw` or `sgd`.
    pub inner: OptimizerKind,
    /// Learning rate before schedule and multiplier.
    pub base_learning_rate: f32,
    /// Weight decay of linear weights and embeddings.
    pub weight_decay: f32,
    /// Momentum of SGD, beta1 of AdamW; [0, 1).
    pub momentum: f64,
    /// Decay of AdamW's second moment; [0, 1).
    pub beta2: f64,
    /// AdamW's epsilon, above 0.
    pub epsilon: f32,
    /// Whether the auxiliary network runs. Off: multiplier 1 and a fixed radius.
    pub use_auxiliary_nn: bool,
    /// Hidden units of the auxiliary network.
    pub auxiliary_nn_hidden_size: usize,
    /// Whether the network starts from meta-trained weights ([`super::AuxiliaryNetwork::warm_started`]) instead of a neutral
    /// output. They steer steps within a radius that follows the schedule and are for 16 hidden units: otherwise the network
    /// starts fresh.
    pub auxiliary_nn_warm_start: bool,
    /// Learning rate of the auxiliary network's own Adam.
    pub auxiliary_nn_learning_rate: f32,
    /// 2: multiplier and radius; 3: direction bias as well.
    pub auxiliary_nn_output_size: usize,
    /// Whether the auxiliary network's multiplier acts on the learning rate.
    pub use_adaptive_lr: bool,
    /// Whether updates are bounded.
    pub use_trust_region: bool,
    /// Radius at the start, 0.001 to 1.
    pub initial_trust_radius: f32,
    /// Whether the radius changes, by `trust_radius_rule`.
    pub trust_radius_adaptation: bool,
    /// What changes the radius.
    pub trust_radius_rule: RadiusRule,
    /// The norm of the trust region, and with it the shape of the steps.
    pub trust_norm: TrustNorm,
    /// Momentum of the steps in the `max` and `spectral` norms; [0, 1).
    pub steepest_momentum: f64,
    /// Root mean square of the elements of such a step for a learning rate of 1; AdamW's own is 0.2 to 0.4.
    pub steepest_rms: f32,
    /// Newton-Schulz iterations of the `spectral` norm, 1 to 8.
    pub newton_schulz_iterations: usize,
    /// Arithmetic of their products.
    pub newton_schulz_precision: NewtonSchulzPrecision,
    /// What the trust region bounds.
    pub trust_scope: TrustScope,
    /// What the radius counts.
    pub radius_mode: RadiusMode,
    /// How AdamW's moments are kept between steps.
    pub state_precision: StatePrecision,
    /// Seed of the auxiliary network's hidden layer, and of the rounding of moments.
    pub seed: u64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            optimizer: OptimizerKind::Hybrid,
            inner: OptimizerKind::AdamW,
            base_learning_rate: 0.001,
            weight_decay: 1e-5,
            momentum: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            use_auxiliary_nn: true,
            auxiliary_nn_hidden_size: 16,
            auxiliary_nn_warm_start: true,
            auxiliary_nn_learning_rate: 0.001,
            auxiliary_nn_output_size: 2,
            use_adaptive_lr: true,
            use_trust_region: true,
            initial_trust_radius: 0.01,
            trust_radius_adaptation: true,
            trust_radius_rule: RadiusRule::Network,
            trust_norm: TrustNorm::L2,
            steepest_momentum: 0.95,
            steepest_rms: 0.2,
            newton_schulz_iterations: 3,
            newton_schulz_precision: NewtonSchulzPrecision::F32,
            trust_scope: TrustScope::Global,
            radius_mode: RadiusMode::Relative,
            state_precision: StatePrecision::F32,
            seed: 0,
        }
    }
}

impl OptimizerConfig {
    /// The optimizer for the parameters of `store`. Error: a value outside its range, by name.
    pub fn build(&self, store: &ParamStore) -> Result<Box<dyn Optimizer>> {
        self.validate()?;
        Ok(match self.optimizer {
            OptimizerKind::AdamW => {
                let plain = AdamW::new(store, self.momentum, self.beta2, self.epsilon);
                Box::new(plain.with_states(self.state_precision, self.seed))
            }
            OptimizerKind::Sgd => Box::new(Sgd::new(store, self.momentum)),
            OptimizerKind::Hybrid => Box::new(HybridOptimizer::new(store, self)?),
        })
    }

    /// Checks every value against its range.
    pub fn validate(&self) -> Result<()> {
        fn check(name: &str, fits: bool, expected: &str, found: impl ToString) -> Result<()> {
            if fits { Ok(()) } else { Err(Error::invalid(name, expected, found)) }
        }
        let share = |value: f64| (0.0..1.0).contains(&value);
        let rate = |value: f32| value > 0.0 && value.is_finite();
        check("base_learning_rate", rate(self.base_learning_rate), "a number above 0", self.base_learning_rate)?;
        let decay = self.weight_decay;
        check("weight_decay", decay >= 0.0 && decay.is_finite(), "a number, 0 or more", decay)?;
        check("momentum", share(self.momentum), "0 to below 1", self.momentum)?;
        check("beta2", share(self.beta2), "0 to below 1", self.beta2)?;
        check("epsilon", rate(self.epsilon), "a number above 0", self.epsilon)?;
        let hidden = self.auxiliary_nn_hidden_size;
        check("auxiliary_nn_hidden_size", (1..=4096).contains(&hidden), "1 to 4096", hidden)?;
        let network_rate = self.auxiliary_nn_learning_rate;
        check("auxiliary_nn_learning_rate", (0.0..=1.0).contains(&network_rate), "0 to 1", network_rate)?;
        let outputs = self.auxiliary_nn_output_size;
        check("auxiliary_nn_output_size", (2..=3).contains(&outputs), "2 or 3", outputs)?;
        let radius = self.initial_trust_radius;
        check("initial_trust_radius", (0.001..=1.0).contains(&radius), "0.001 to 1", radius)?;
        check("steepest_momentum", share(self.steepest_momentum), "0 to below 1", self.steepest_momentum)?;
        check("steepest_rms", rate(self.steepest_rms), "a number above 0", self.steepest_rms)?;
        let iterations = self.newton_schulz_iterations;
        check("newton_schulz_iterations", (1..=8).contains(&iterations), "1 to 8", iterations)?;
        let is_steepest = self.use_trust_region && self.trust_norm != TrustNorm::L2;
        let all_adamw = match self.optimizer {
            OptimizerKind::AdamW => true,
            OptimizerKind::Sgd => false,
            OptimizerKind::Hybrid => self.inner == OptimizerKind::AdamW && !is_steepest,
        };
        let states = self.state_precision;
        let expected = "f32 (fewer bits: AdamW alone, or the hybrid around it with an l2 trust region)";
        check(
            "optimizer_state_precision",
            all_adamw || states == StatePrecision::F32,
            expected,
            format!("{states:?}"),
        )?;
        check("inner", self.inner != OptimizerKind::Hybrid, "adamw or sgd", "hybrid")
    }
}
