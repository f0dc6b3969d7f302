//! Steps whose loss or gradient is not finite: left out, told, and in a row the end of a run.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Instant;

use super::batches::Batch;
use super::freezing::Freezing;
use super::metrics::StepMetrics;
use super::objective::Objective;
use super::trainer::Trainer;
use crate::nn::ParamStore;
use crate::{Error, Result};

impl<O: Objective> Trainer<O> {
    /// Leaves the step out that has this batch, or gives up.
    pub(super) fn skip(&mut self, batch: Batch, loss: f64, grad_norm: f64, start: Instant) -> Result<StepMetrics> {
        let (step, most) = (self.steps_done, self.config.max_skipped_steps);
        let reason = self.not_finite(loss, grad_norm);
        let in_a_row = self.history.skipped_in_a_row() + 1;
        if in_a_row >= most {
            let after = match most {
                0 | 1 => String::new(),
                _ => format!(" ({in_a_row} steps in a row, max_skipped_steps = {most})"),
            };
            self.batch = batch;
            return Err(Error::Training(format!("step {}: {reason}{after}", step + 1)));
        }
        let tokens = (batch.examples.len() * self.objective.tokens_per_example()) as u64;
        let elapsed = start.elapsed().as_secs_f64();
        self.steps_done += 1;
        self.tokens += tokens;
        self.seconds += elapsed;
        let last = self.history.steps.last();
        let metrics = StepMetrics {
            step: self.steps_done,
            tokens: self.tokens,
            loss,
            lr: self.schedule.learning_rate(self.config.base_learning_rate as f32, step, self.config.max_steps),
            lr_multiplier: 1.0,
            trust_radius: last.and_then(|last| last.trust_radius),
            update_norm: 0.0,
            constraint_active: false,
            grad_norm,
            quant_error: last.map_or(0.0, |last| last.quant_error),
            flip_rate: 0.0,
            alignment: 0.0,
            gradient_error: 0.0,
            f32_gradients: Vec::new(),
            cluster: batch.cluster,
            cluster_losses: Vec::new(),
            mean_bits: self.config.adaptive_bits.then(|| self.mean_bits()),
            precisions: BTreeMap::new(),
            frozen: Freezing::frozen(self.objective.store()),
            skipped: Some(reason),
            seconds: self.seconds,
            tokens_per_s: tokens as f64 / elapsed.max(1e-9),
        };
        self.batch = batch;
        self.record(metrics)
    }

    /// What is not finite, and where.
    pub(super) fn not_finite(&self, loss: f64, grad_norm: f64) -> String {
        let what = if loss.is_finite() { format!("gradient norm {grad_norm}") } else { format!("loss {loss}") };
        let tensor = first_not_finite(self.objective.store());
        let tensor = tensor.unwrap_or_else(|| "every weight and gradient is finite, an activation overflowed".into());
        format!("{what} is not finite: {tensor}")
    }
}

/// Names the first weight, else the first gradient, that is not finite.
fn first_not_finite(store: &ParamStore) -> Option<String> {
    let find = |values: &[f32], what: &str, name: &str| {
        let index = values.iter().position(|value| !value.is_finite())?;
        Some(format!("{what} {name}, element {index}, is {}", values[index]))
    };
    let weights = store.ids().find_map(|id| find(&store.weight_values(id), "weight", &store.spec(id).name));
    weights.or_else(|| store.ids().find_map(|id| find(&store.gradient_values(id), "gradient of", &store.spec(id).name)))
}
