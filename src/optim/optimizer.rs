//! The interface of every optimizer: what a step gets and what it reports.
#![forbid(unsafe_code)]

use super::auxiliary_network::AuxiliaryNetwork;
use super::state::OptimizerState;
use crate::dispatch::Context;
use crate::nn::ParamStore;
use crate::{Error, Result};

/// Changes the weights of a [`ParamStore`] by its gradients.
pub trait Optimizer: std::fmt::Debug + Send {
    /// `hybrid`, `adamw` or `sgd`.
    fn name(&self) -> &'static str;

    /// One update of every parameter from the gradients in `store`, which are left as they are.
    /// [`ParamStore::quantize`] must follow before the next forward pass.
    ///
    /// A gradient that is not finite skips the step: weights and state stay, [`UpdateReport::skipped`] names the
    /// tensor, and the optimizer counts it. Errors: a learning rate or weight decay that is negative or not finite, a
    /// store other than the one the optimizer was built for.
    fn step(&mut self, context: &Context, store: &mut ParamStore, state: &TrainingState) -> Result<UpdateReport>;

    /// By how much the last step reduced the loss of its own batch, where somebody has looked.
    fn observe_reduction(&mut self, _actual: f32) {}

    /// Everything needed to go on exactly: full-size tensors (borrowed) and scalars.
    fn state(&self) -> OptimizerState<'_>;

    /// Bytes of the full-size tensors of [`Optimizer::state`].
    fn state_bytes(&self) -> usize {
        self.state().tensors.iter().map(|tensor| tensor.values.bytes().len()).sum()
    }

    /// Bytes that each thread takes while it computes an update, beside the state.
    fn workspace_bytes(&self) -> usize {
        0
    }

    /// Goes on from [`Optimizer::state`]. Errors, leaving the optimizer as it was: a tensor missing or of another
    /// shape, scalars that do not parse.
    fn load_state(&mut self, state: &OptimizerState<'_>) -> Result<()>;

    /// The auxiliary network, where there is one: for its statistics and for saving it alone.
    fn auxiliary_network(&self) -> Option<&AuxiliaryNetwork> {
        None
    }

    /// Puts a trained network in, for example from another run. Error: this optimizer has none, or one of another shape.
    fn set_auxiliary_network(&mut self, _network: AuxiliaryNetwork) -> Result<()> {
        Err(Error::invalid("auxiliary network", "a hybrid optimizer", self.name()))
    }
}

/// What the trainer knows at a step, beside the gradients.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TrainingState {
    /// Step number, from 0.
    pub step: u64,
    /// Loss of this step's batch, before the update.
    pub loss: f32,
    /// Scheduled learning rate ([`super::LearningRateSchedule::learning_rate`]).
    pub learning_rate: f32,
    /// Scheduled weight decay; applied to linear weights and embeddings only.
    pub weight_decay: f32,
    /// L2 norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Data cluster the batch came from, if it came from one.
    pub cluster: Option<usize>,
    /// Share of the run that is done, 0 to 1.
    pub progress: f32,
    /// Share of the quantized weights that the last step changed; 0: none, or not known.
    pub flip_rate: f32,
    /// Logarithm of a step's length at multiplier 1 over the trust region's bound; 0: not known. [`super::HybridOptimizer`]
    /// finds it itself.
    pub log_reach: f32,
}

/// What a step did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct UpdateReport {
    /// Factor of the auxiliary network on the scheduled learning rate; 1 without it.
    pub lr_multiplier: f32,
    /// Trust radius in force: relative to the parameter norm or absolute as configured; infinite without a trust region.
    pub trust_radius: f32,
    /// L2 norm of the change of all weights.
    pub update_norm: f64,
    /// Whether the trust region shortened the update (of any tensor).
    pub constraint_active: bool,
    /// Share of the weights in tensors whose update was shortened, 0 to 1.
    pub constrained_share: f32,
    /// Norm of the update over its norm without the trust region, 0 to 1 (1 for a zero update).
    pub efficiency: f32,
    /// Lean on momentum, (-1, 1); 0 unless the network has a third output.
    pub direction_bias: f32,
    /// Cosine of this gradient with the update of the step before, the hypergradient of the learning rate with its sign
    /// turned; 0 at the first step and for plain optimizers.
    pub alignment: f32,
    /// The first parameter with a gradient that is not finite: the step was skipped.
    pub skipped: Option<String>,
}

impl UpdateReport {
    /// Efficiency after quantization: [`UpdateReport::efficiency`] times the share of the weights' magnitude that
    /// survives rounding, `1 - quantization_error` (relative, as [`ParamStore::quantize`] reports it; clamped to 0..1).
    pub fn quantized_efficiency(&self, quantization_error: f32) -> f32 {
        self.efficiency * (1.0 - quantization_error.clamp(0.0, 1.0))
    }
}
