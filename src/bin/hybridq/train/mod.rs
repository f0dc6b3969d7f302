//! `hybridq train`.
#![forbid(unsafe_code)]

mod progress;

use std::path::{Path, PathBuf};

use clap::Args;
use hybridq::train::{LanguageModelTrainer, RunDirectory, RunPlace, StopReason, Summary, TrainConfig};
use hybridq::{Error, Result};

use crate::process_memory::{peak_memory, plan_memory};
use progress::ProgressLines;

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// Text file, or folder (obeys .gitignore)
    #[arg(long, value_name = "FILE_OR_DIR")]
    data: Option<PathBuf>,
    /// Validation text [default: the last tenth of each training file]
    #[arg(long, value_name = "FILE")]
    val: Option<PathBuf>,
    /// Folder of the run [default: a new runs/MODEL-NNN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// tiny, small, base, small-plain, gpt2-small-plain, or a JSON file [default: tiny]
    #[arg(long, value_name = "PRESET_OR_JSON")]
    model: Option<String>,
    /// Model whose weights to start from: a folder, a run, a GGUF or packed file
    #[arg(long, value_name = "MODEL")]
    init: Option<PathBuf>,
    /// tokenizer.json, or GPT-2's vocabulary with its merges beside it [default: bytes]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Settings; a flag beats them
    #[arg(long, value_name = "TOML")]
    config: Option<PathBuf>,
    /// Optimizer steps
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    steps: Option<u64>,
    /// Passes over the text instead of steps
    #[arg(long, value_name = "N")]
    epochs: Option<f64>,
    /// Examples of a batch
    #[arg(long, value_name = "B")]
    batch: Option<u64>,
    /// Tokens of an example
    #[arg(long, value_name = "T")]
    seq: Option<u64>,
    /// Batches averaged for one step
    #[arg(long, value_name = "N")]
    grad_accum: Option<u64>,
    /// Keep activations of every N-th block alone and compute the others again: less memory, more time
    #[arg(long, value_name = "N")]
    gradient_checkpointing: Option<u64>,
    /// Base learning rate
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// Seed of every random choice
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Threads [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<u64>,
    /// cpu or cuda:N
    #[arg(long)]
    device: Option<String>,
    /// ternary, five-level, binary, int2, int4, int8 or f32 [default: ternary]
    #[arg(long, value_parser = ["ternary", "five-level", "binary", "int2", "int4", "int8", "f32"], hide_possible_values = true)]
    precision: Option<String>,
    /// hybrid, adamw or sgd [default: hybrid]
    #[arg(long, value_parser = ["hybrid", "adamw", "sgd"], hide_possible_values = true)]
    optimizer: Option<String>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Steps between evaluations
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,
    /// Validation windows of an evaluation
    #[arg(long, value_name = "N")]
    eval_windows: Option<u64>,
    /// Stop with a checkpoint after this many seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,
    /// Go on with the run in --out; flags left out are the run's
    #[arg(long)]
    resume: bool,
}

impl Arguments {
    /// The flags given, as fields of the configuration.
    fn fields(&self) -> Result<toml::Table> {
        let mut table = toml::Table::new();
        let mut put = |name: &str, value: Option<toml::Value>| {
            if let Some(value) = value {
                table.insert(name.into(), value);
            }
        };
        let paths = [("data", &self.data), ("val", &self.val), ("init", &self.init), ("tokenizer", &self.tokenizer)];
        for (name, path) in paths {
            put(name, path.as_ref().map(|path| path.to_string_lossy().into_owned().into()));
        }
        let words = [
            ("model", &self.model),
            ("device", &self.device),
            ("precision", &self.precision),
            ("optimizer", &self.optimizer),
        ];
        for (name, word) in words {
            put(name, word.clone().map(toml::Value::String));
        }
        let counts = [
            ("max_steps", "--steps", self.steps),
            ("batch_size", "--batch", self.batch),
            ("seq_length", "--seq", self.seq),
            ("grad_accumulation", "--grad-accum", self.grad_accum),
            ("gradient_checkpointing", "--gradient-checkpointing", self.gradient_checkpointing),
            ("seed", "--seed", self.seed),
            ("threads", "--threads", self.threads),
            ("checkpoint_interval", "--checkpoint-every", self.checkpoint_every),
            ("eval_interval", "--eval-every", self.eval_every),
            ("eval_windows", "--eval-windows", self.eval_windows),
        ];
        for (name, flag, count) in counts {
            let fits = |count: u64| i64::try_from(count).map_err(|_| Error::invalid(flag, "at most 2^63 - 1", count));
            put(name, count.map(fits).transpose()?.map(toml::Value::Integer));
        }
        for (name, number) in
            [("epochs", self.epochs), ("base_learning_rate", self.lr), ("time_limit", self.time_limit)]
        {
            put(name, number.map(toml::Value::Float));
        }
        Ok(table)
    }

    /// The effective configuration and where the run lives.
    fn settle(&self) -> Result<(TrainConfig, RunPlace)> {
        let flags = self.fields()?;
        if self.resume {
            let missing = || Error::invalid("--resume", "the run's folder in --out", "nothing");
            let out = self.out.as_deref().ok_or_else(missing)?;
            if let Some(directory) = RunDirectory::open(out)? {
                let stored = directory.read_config()?;
                let mut changes = TrainConfig::fields_of(self.config.as_deref())?;
                changes.extend(flags);
                let config = stored.overlaid(&changes)?;
                config.check_resumes(&stored)?;
                return Ok((config, RunPlace::Resumed(directory)));
            }
        }
        let config = TrainConfig::layered(self.config.as_deref(), &flags)?;
        if let (true, None, Some(out)) = (self.resume, &config.data, &self.out) {
            let expected = "a run in --out, or --data to begin one there";
            return Err(Error::invalid("--resume", expected, format!("no run in {}", out.display())));
        }
        Ok((config, RunPlace::New(self.out.clone())))
    }
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let (config, place) = arguments.settle()?;
    let context = crate::context(config.threads)?;
    let lines = ProgressLines::new(config.log_interval);
    let mut trainer = LanguageModelTrainer::open(&context, config, place)?
        .cancelled_by(crate::cancel_on_interrupt("stopping with a checkpoint")?)
        .on_progress(lines.callback());
    let directory = trainer.directory().expect("the program trains in a folder").clone();
    lines.begin(&trainer, &context);
    let (plan, beside) = plan_memory(&mut trainer);
    lines.memory(&plan, beside);
    let summary = trainer.run();
    lines.end();
    let summary = summary?;
    crate::write_stdout(&closing(&trainer, &directory, &summary))?;
    Ok(if summary.stop == StopReason::Interrupted { crate::INTERRUPTED } else { crate::DONE })
}

/// What a run ends with: the result, where it is, what to try next.
fn closing(trainer: &LanguageModelTrainer, directory: &RunDirectory, summary: &Summary) -> String {
    let mut text = String::new();
    let reason = match summary.stop {
        StopReason::Finished => "done",
        StopReason::Converged => "ended: the validation loss no longer falls",
        StopReason::TimeLimit => "ended: time limit",
        StopReason::Interrupted => "interrupted",
    };
    text += &format!("{reason} after {} steps, {:.1} s of training\n", summary.steps, summary.total_seconds);
    if summary.skipped_steps > 0 {
        text += &format!("skipped          {} steps: loss or gradient not finite\n", summary.skipped_steps);
    }
    if let Some(loss) = summary.final_loss {
        text += &format!("training loss    {loss:.4}\n");
    }
    if let Some(evaluation) = &summary.evaluation {
        text += &format!("validation loss  {:.4} nats per token\n", evaluation.val_loss);
        if let Some(bits) = evaluation.val_bits_per_byte {
            text += &format!("bits per byte    {bits:.3}");
            let beside: Vec<_> = trainer.baselines().iter().map(|(name, bits)| format!("{name} {bits:.3}")).collect();
            if !beside.is_empty() {
                text += &format!("   (byte models of the same split: {})", beside.join(", "));
            }
            text += "\n";
        }
    }
    text += &format!("multiplier       mean {:.3}\n", summary.mean_multiplier);
    let radius = summary.final_radius.map_or("none".into(), |radius| format!("{radius:.4} at the end"));
    let active = 100.0 * summary.constraint_activation_rate;
    text += &format!("trust radius     {radius}, constraint active in {active:.1} % of steps\n");
    let quoted = |path: &Path| format!("{}", path.display());
    if let Some(peak) = peak_memory() {
        text += &format!("memory           {peak:.0} MiB at the peak\n");
    }
    text += &format!("run              {}\n", quoted(directory.root()));
    text += &format!("report           {}\n", quoted(&directory.report()));
    let name = quoted(directory.root());
    if summary.stop == StopReason::Finished || summary.stop == StopReason::Converged {
        text += &format!("try              hybridq generate --model {name} --prompt \"The \"\n");
    } else {
        text += &format!("go on            hybridq train --out {name} --resume\n");
        text += &format!("try              hybridq generate --model {name} --prompt \"The \"\n");
    }
    text
}
