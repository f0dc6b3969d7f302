//! The auxiliary network's inputs: the training state in scale-free form.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::optimizer::TrainingState;

/// Number of inputs of the auxiliary network.
pub const FEATURES: usize = 9;
/// Of them, those of the running means; the others are the step's own.
pub(super) const RUNNING_FEATURES: usize = 6;

/// Share of a new value in a running mean: a memory of about 20 steps.
const NEW_SHARE: f32 = 0.05;
/// Share of the ternary weights that a step changes where training goes well (0.4 to 0.9 % at good rates).
const USUAL_FLIP_RATE: f32 = 0.01;
/// Inputs are clamped to +-this.
const LIMIT: f32 = 3.0;
/// Clusters with a running mean of their own; higher ids share the last.
const MAX_CLUSTERS: usize = 1024;

/// Running means behind the inputs; the loss also per data cluster.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFeatures {
    steps: u64,
    loss: f32,
    last_loss: f32,
    log_norm: f32,
    log_norm_variance: f32,
    cluster_losses: Vec<Option<f32>>,
}

impl StateFeatures {
    /// Takes a step in and gives the inputs, each clamped to +-3. Six are 0 at the first step:
    /// log of loss over its running mean; log of gradient norm over its running (geometric) mean; log of the cluster's
    /// running mean loss over that of all (0 without clusters); log of `L_t / L_{t-1}`; running standard deviation of
    /// the log gradient norm; `ln(1 + step) / 10`. Then the step's length in the trust region
    /// ([`TrainingState::log_reach`]), the log of the flip rate over 1 %, and the share of the run that is done.
    ///
    /// A value without a logarithm (a negative loss, a zero gradient) counts as no news: its input is 0.
    pub fn observe(&mut self, state: &TrainingState) -> [f32; FEATURES] {
        let step = libm::logf(1.0 + state.step as f32) / 10.0;
        let flips = log_ratio(state.flip_rate, USUAL_FLIP_RATE);
        let mut inputs = [0.0, 0.0, 0.0, 0.0, 0.0, step, state.log_reach, flips, state.progress];
        let first = self.steps == 0;
        self.steps += 1;
        if state.loss.is_finite() {
            if first {
                (self.loss, self.last_loss) = (state.loss, state.loss);
            }
            inputs[0] = log_ratio(state.loss, self.loss);
            inputs[3] = log_ratio(state.loss, self.last_loss);
            self.last_loss = state.loss;
            self.loss += NEW_SHARE * (state.loss - self.loss);
            if let Some(cluster) = state.cluster {
                let cluster = cluster.min(MAX_CLUSTERS - 1);
                if self.cluster_losses.len() <= cluster {
                    self.cluster_losses.resize(cluster + 1, None);
                }
                let mean = self.cluster_losses[cluster].get_or_insert(state.loss);
                *mean += NEW_SHARE * (state.loss - *mean);
                inputs[2] = log_ratio(*mean, self.loss);
            }
        }
        let norm = state.gradient_norm as f32;
        if norm.is_finite() && norm > 0.0 {
            let log_norm = libm::logf(norm);
            if first {
                self.log_norm = log_norm;
            }
            let difference = log_norm - self.log_norm;
            inputs[1] = difference;
            self.log_norm += NEW_SHARE * difference;
            self.log_norm_variance += NEW_SHARE * (difference * difference - self.log_norm_variance);
            inputs[4] = libm::sqrtf(self.log_norm_variance);
        }
        inputs.map(|input| if input.is_finite() { input.clamp(-LIMIT, LIMIT) } else { 0.0 })
    }
}

fn log_ratio(value: f32, reference: f32) -> f32 {
    if value > 0.0 && reference > 0.0 { libm::logf(value / reference).clamp(-LIMIT, LIMIT) } else { 0.0 }
}
