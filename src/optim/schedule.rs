//! Learning rate and weight decay over the steps of a run.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// How learning rate and weight decay change over a run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum LearningRateSchedule {
    /// Base learning rate and decay at every step.
    #[default]
    Constant,
    /// Linear warm-up, then half a cosine down to `final_fraction` of the base rate.
    WarmupCosine {
        /// Steps of linear warm-up: step `t` of them runs at `(t + 1) / warmup_steps`.
        warmup_steps: u64,
        /// Learning rate at the end, as a fraction of the base rate.
        final_fraction: f32,
    },
    /// Two stages (BitNet b1.58, "Training Tips, Code and FAQ"): each is linear from its own start; at half-way the
    /// rate drops and weight decay becomes 0.
    TwoStage {
        /// Steps of linear warm-up.
        warmup_steps: u64,
        /// Rate at which the second stage starts, as a fraction of the base rate; stage one ends a little above it.
        second_fraction: f32,
    },
}

impl LearningRateSchedule {
    /// Learning rate at `step` (from 0) of `total_steps`. Beyond the end the last value stays.
    pub fn learning_rate(&self, base: f32, step: u64, total_steps: u64) -> f32 {
        let rising = |warmup: u64| f64::from(base) * (step + 1) as f64 / warmup as f64;
        let progress = |warmup: u64| {
            let span = total_steps.saturating_sub(warmup).max(1);
            (step - warmup).min(span) as f64 / span as f64
        };
        let base = f64::from(base);
        let rate = match *self {
            LearningRateSchedule::Constant => base,
            LearningRateSchedule::WarmupCosine { warmup_steps, .. }
            | LearningRateSchedule::TwoStage { warmup_steps, .. }
                if step < warmup_steps =>
            {
                rising(warmup_steps)
            }
            LearningRateSchedule::WarmupCosine { warmup_steps, final_fraction } => {
                let half_cosine = 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress(warmup_steps)));
                let last = f64::from(final_fraction);
                base * (last + (1.0 - last) * half_cosine)
            }
            LearningRateSchedule::TwoStage { warmup_steps, second_fraction } => {
                // Stage one falls linearly as if to 0 at the end of the run, stage two from its own start to 0.
                let remaining = 1.0 - progress(warmup_steps);
                if Self::in_second_stage(step, total_steps) {
                    let second = total_steps / 2;
                    let span = (total_steps - second).max(1);
                    base * f64::from(second_fraction) * (1.0 - (step - second).min(span) as f64 / span as f64)
                } else {
                    base * remaining
                }
            }
        };
        rate as f32
    }

    /// Weight decay at `step` of `total_steps`.
    pub fn weight_decay(&self, base: f32, step: u64, total_steps: u64) -> f32 {
        match self {
            LearningRateSchedule::TwoStage { .. } if Self::in_second_stage(step, total_steps) => 0.0,
            _ => base,
        }
    }

    fn in_second_stage(step: u64, total_steps: u64) -> bool {
        step >= total_steps / 2
    }
}
