//! What the trainer tells about steps and runs.

use super::arguments::Growable;
use crate::train::{StepMetrics, StopReason, Summary};

/// All steps were done.
pub const HQ_STOP_FINISHED: u32 = 0;
/// The held-out loss no longer fell.
pub const HQ_STOP_CONVERGED: u32 = 1;
/// The time limit was reached.
pub const HQ_STOP_TIME_LIMIT: u32 = 2;

/// What a step did. Set `struct_size` to `sizeof(hq_step_report)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_step_report {
    /// `sizeof(hq_step_report)`.
    pub struct_size: u32,
    /// 1 if the trust region shortened the update.
    pub constraint_active: u32,
    /// Steps done.
    pub step: u64,
    /// Tokens (examples, for a model of the caller's own) read.
    pub tokens: u64,
    /// Loss of the batch before the update (language models: nats per token).
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Training throughput, tokens per second.
    pub tokens_per_second: f64,
    /// Learning rate before the multiplier.
    pub learning_rate: f32,
    /// The auxiliary network's factor on it.
    pub learning_rate_multiplier: f32,
    /// Trust radius relative to the parameters' norm; 0 if there is none.
    pub trust_radius: f32,
    /// Share of quantized weights that changed.
    pub flip_rate: f32,
    /// L2 norm of the change of all weights.
    pub update_norm: f64,
    /// Relative quantization error of the weights after the update.
    pub quant_error: f64,
    /// Training time so far, in seconds.
    pub seconds: f64,
    /// Data cluster of the batch; -1 if it came from none.
    pub cluster: i64,
    /// 1 if the step was left out: its loss or gradient is not finite, weights and state are those before it.
    pub skipped: u32,
    /// Always 0.
    pub reserved: u32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_step_report {
    /// Up to `flip_rate`.
    const FIRST_SIZE: usize = 64;
}

/// The outcome of a run. Set `struct_size` to `sizeof(hq_run_summary)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_run_summary {
    /// `sizeof(hq_run_summary)`.
    pub struct_size: u32,
    /// Why it ended: an HQ_STOP_ constant.
    pub stop: u32,
    /// Steps done.
    pub steps: u64,
    /// Loss of the last step's batch; NaN if there was no step.
    pub loss: f64,
    /// Held-out loss of the last evaluation; NaN if there was none.
    pub validation_loss: f64,
    /// Training time in seconds.
    pub seconds: f64,
    /// Mean of the auxiliary network's factor over the steps.
    pub mean_multiplier: f64,
    /// Share of steps whose update the trust region shortened.
    pub constraint_rate: f64,
    /// Steps left out for a loss or gradient that is not finite; `steps` counts them too.
    pub skipped_steps: u64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_run_summary {
    /// Up to `constraint_rate`.
    const FIRST_SIZE: usize = 56;
}

pub(super) fn step_report(metrics: &StepMetrics) -> hq_step_report {
    hq_step_report {
        struct_size: size_of::<hq_step_report>() as u32,
        constraint_active: u32::from(metrics.constraint_active),
        step: metrics.step,
        tokens: metrics.tokens,
        loss: metrics.loss,
        gradient_norm: metrics.grad_norm,
        tokens_per_second: metrics.tokens_per_s,
        learning_rate: metrics.lr,
        learning_rate_multiplier: metrics.lr_multiplier,
        trust_radius: metrics.trust_radius.unwrap_or(0.0),
        flip_rate: metrics.flip_rate as f32,
        update_norm: metrics.update_norm,
        quant_error: metrics.quant_error,
        seconds: metrics.seconds,
        cluster: metrics.cluster.map_or(-1, |cluster| cluster as i64),
        skipped: u32::from(metrics.skipped.is_some()),
        reserved: 0,
    }
}

pub(super) fn summary_of(summary: &Summary) -> hq_run_summary {
    hq_run_summary {
        struct_size: 0,
        stop: match summary.stop {
            StopReason::Converged => HQ_STOP_CONVERGED,
            StopReason::TimeLimit => HQ_STOP_TIME_LIMIT,
            _ => HQ_STOP_FINISHED,
        },
        steps: summary.steps,
        loss: summary.final_loss.unwrap_or(f64::NAN),
        validation_loss: summary.evaluation.as_ref().map_or(f64::NAN, |evaluation| evaluation.val_loss),
        seconds: summary.total_seconds,
        mean_multiplier: summary.mean_multiplier,
        constraint_rate: summary.constraint_activation_rate,
        skipped_steps: summary.skipped_steps,
    }
}
