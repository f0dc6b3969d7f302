//! What is trained: a model with its data and loss, behind one trait.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::dispatch::Context;
use crate::nn::{GradientErrors, ParamStore, StepRandomness};
use crate::{Error, Result};

/// Figures of an evaluation on held-out examples.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Evaluation {
    /// Mean loss (language models: nats per token).
    pub loss: f64,
    /// Bits per byte of text, for language models.
    pub bits_per_byte: Option<f64>,
}

/// One vector for each training example, for clustering.
#[derive(Clone, PartialEq, Debug)]
pub struct Features {
    /// `[examples, dim]`, row-major.
    pub values: Vec<f32>,
    /// Elements of a row.
    pub dim: usize,
}

/// Parameters, examples and a loss. A user's own model that implements it gets the whole trainer: clusters, hybrid
/// optimizer, quantization, checkpoints with exact resume.
///
/// For an exact resume every method must be a pure function of its arguments and the parameters.
pub trait Objective {
    /// The parameters.
    fn store(&self) -> &ParamStore;

    /// The parameters, to change.
    fn store_mut(&mut self) -> &mut ParamStore;

    /// Number of training examples, at least 1.
    fn examples(&self) -> usize;

    /// What is counted in throughput: tokens of one example (1 for plain arrays).
    fn tokens_per_example(&self) -> usize {
        1
    }

    /// Mean loss over the training examples `indices`. Adds `gradient_scale` times its gradient to the store's gradients.
    /// The store's quantized copies are up to date.
    fn loss_and_gradients(
        &mut self,
        context: &Context,
        indices: &[usize],
        randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64>;

    /// As [`Objective::loss_and_gradients`], of the mean in which example `i` counts `weights[i]` times (above 0), for batches
    /// drawn by loss. Error, where an objective has no such version: it says so.
    fn weighted_loss_and_gradients(
        &mut self,
        _context: &Context,
        _indices: &[usize],
        _weights: &[f32],
        _randomness: StepRandomness,
        _gradient_scale: f32,
    ) -> Result<f64> {
        Err(Error::invalid("loss_aware_sampling", "an objective that weighs examples", "one that does not"))
    }

    /// The loss of each example of the last pass, unweighted; empty where it is not known.
    fn example_losses(&self) -> &[f64] {
        &[]
    }

    /// The loss of [`Objective::loss_and_gradients`] alone, for probes.
    fn loss(&mut self, context: &Context, indices: &[usize], randomness: StepRandomness) -> Result<f64> {
        self.loss_and_gradients(context, indices, randomness, 0.0)
    }

    /// Errors of gradients in int8 since this was last asked for, where the objective knows of them.
    fn take_gradient_errors(&mut self) -> GradientErrors {
        GradientErrors::default()
    }

    /// Loss on held-out examples; `None` if there are none.
    fn evaluate(&mut self, _context: &Context) -> Result<Option<Evaluation>> {
        Ok(None)
    }

    /// Features of the training examples; `None` turns clustering of the data off.
    fn features(&self, _context: &Context) -> Result<Option<Features>> {
        Ok(None)
    }

    /// Writes the model in its exchange format into `folder`.
    fn save_model(&self, _folder: &Path) -> Result<()> {
        Ok(())
    }

    /// A text that tells this model and data from others: a checkpoint of another identity is refused.
    fn identity(&self) -> String;
}
