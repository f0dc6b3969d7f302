//! What a run shows while it goes on: a bar on a terminal, else plain lines.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};

use hybridq::data::Split;
use hybridq::dispatch::Context;
use hybridq::train::{LanguageModelTrainer, MemoryPlan, Progress, StepMetrics};
use indicatif::{ProgressBar, ProgressStyle};

use crate::process_memory::MIB;

/// Prints a line; a closed pipe must not end a training run.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub struct ProgressLines {
    bar: Option<ProgressBar>,
    interval: u64,
}

impl ProgressLines {
    pub fn new(interval: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {eta} left");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        ProgressLines { bar, interval }
    }

    /// What is about to be trained on what.
    pub fn begin(&self, trainer: &LanguageModelTrainer, context: &Context) {
        let (config, objective) = (trainer.config(), trainer.objective());
        let model = objective.model();
        let text = objective.dataset();
        if let Some(directory) = trainer.directory() {
            say!("run    {}", directory.root().display());
        }
        say!(
            "model  {}: {} parameters, {} layers x {}, {} weights",
            config.model,
            model.store.total_elements(),
            model.config.num_hidden_layers,
            model.config.hidden_size,
            name_of(&model.config.precision)
        );
        let (training, validation) = (text.tokens(Split::Training), text.tokens(Split::Validation));
        say!("text   {training} training tokens, {validation} validation tokens");
        say!(
            "steps  {} of {} x {} tokens, {} optimizer, {} threads, {}",
            config.max_steps,
            config.batch_size * config.grad_accumulation,
            config.seq_length,
            trainer.optimizer().name(),
            context.threads(),
            context.kernels().isa().name()
        );
        if trainer.steps_done() > 0 {
            say!("goes on after step {}", trainer.steps_done());
        }
        if let Some(bar) = &self.bar {
            bar.set_length(config.max_steps);
            bar.set_position(trainer.steps_done());
            bar.reset_eta();
        }
    }

    /// The memory the run is about to take; `beside`: MiB the process holds beside it.
    pub fn memory(&self, plan: &MemoryPlan, beside: Option<f64>) {
        let mib = |bytes: usize| bytes as f64 / MIB;
        let beside = beside.unwrap_or(0.0);
        let parts: Vec<_> = plan.parts().iter().map(|&(name, bytes)| format!("{name} {:.0}", mib(bytes))).collect();
        say!(
            "memory {:.0} MiB planned: {:.0} in a step ({}, program {beside:.0}), {:.0} more in evaluations",
            beside + mib(plan.step() + plan.evaluation),
            beside + mib(plan.step()),
            parts.join(", "),
            mib(plan.evaluation)
        );
    }

    pub fn callback(&self) -> impl FnMut(Progress<'_>) + Send + 'static {
        let (bar, interval) = (self.bar.clone(), self.interval);
        move |progress| match (progress, &bar) {
            (Progress::Step(step), bar) if step.skipped.is_some() => {
                let line = format!("step {:6}  {}", step.step, describe(step));
                match bar {
                    Some(bar) => bar.println(line),
                    None => say!("{line}"),
                }
            }
            (Progress::Step(step), Some(bar)) => {
                bar.set_position(step.step);
                bar.set_message(describe(step));
            }
            (Progress::Step(step), None) if step.step == 1 || step.step.is_multiple_of(interval) => {
                say!("step {:6}  {}", step.step, describe(step));
            }
            (Progress::Evaluation(evaluation), bar) => {
                let bits =
                    evaluation.val_bits_per_byte.map_or(String::new(), |bits| format!("  bits per byte {bits:.3}"));
                let line = format!("step {:6}  validation loss {:.4}{bits}", evaluation.step, evaluation.val_loss);
                match bar {
                    Some(bar) => bar.println(line),
                    None => say!("{line}"),
                }
            }
            _ => {}
        }
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn describe(step: &StepMetrics) -> String {
    if let Some(reason) = &step.skipped {
        return format!("skipped: {reason}");
    }
    let radius = step.trust_radius.map_or(String::new(), |radius| format!("  radius {radius:.4}"));
    let in_f32 = match &step.f32_gradients[..] {
        [] => String::new(),
        [layer] => format!("  gradients of {layer} in f32"),
        [layer, more @ ..] => format!("  gradients of {layer} and {} more in f32", more.len()),
    };
    format!(
        "loss {:.4}  lr {:.2e} x {:.3}{radius}  flips {:.2} %{in_f32}  {:.0} tokens/s",
        step.loss,
        step.lr,
        step.lr_multiplier,
        100.0 * step.flip_rate,
        step.tokens_per_s
    )
}

/// The name a setting has in TOML and flags.
fn name_of(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default()
}
