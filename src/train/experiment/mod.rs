//! Experiments: a grid of settings over several seeds, run side by side, ended and resumed at will, with a table and a plot.
//!
//! A folder holds `results.jsonl` (a line a run), `table.md`, `curves.svg` and, for runs in flight, `runs/`.
#![forbid(unsafe_code)]

mod plan;
mod record;
mod runner;
mod statistics;
mod table;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use plan::{Arm, Experiment, PlannedRun};
pub use record::RunRecord;
pub use runner::ExperimentProgress;

use super::text_run::{make_model, open_tokenizer};
use crate::dispatch::{Context, ContextOptions};
use crate::formats::atomic_write;
use crate::{Error, Result};
use record::{Results, results_path};
use runner::Runner;

/// How an experiment is done.
pub struct ExperimentOptions<'a> {
    /// Where results go.
    pub folder: &'a Path,
    /// Fields that beat the experiment's file: the data, the threads of a run.
    pub given: toml::Table,
    /// Runs at a time; fewer if memory does not suffice.
    pub jobs: usize,
    /// Set to end early; runs in flight keep a checkpoint.
    pub cancel: Arc<AtomicBool>,
    /// Told of every run.
    pub progress: &'a (dyn Fn(ExperimentProgress<'_>) + Sync),
}

/// The state of an experiment.
#[derive(Clone, PartialEq, Debug)]
pub struct ExperimentOutcome {
    /// Runs of the plan that have a result.
    pub done: usize,
    /// Runs of the plan.
    pub planned: usize,
    /// `table.md`.
    pub table: String,
}

/// Does what is not yet done of the experiment in `file` and writes table and plot.
///
/// Errors: those of [`Experiment::read`] and [`Experiment::runs`]; results in the folder that belong to other settings; a
/// run's text or model cannot be read. A run whose loss is not finite is a result, not an error.
pub fn run_experiment(file: &Path, options: ExperimentOptions<'_>) -> Result<ExperimentOutcome> {
    let experiment = Experiment::read(file)?;
    let runs = experiment.runs(file, &options.given)?;
    let folder = options.folder;
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let mut results = Results::open(results_path(folder))?;
    let mut waiting = Vec::new();
    for run in &runs {
        if !results.has(run)? {
            waiting.push(run);
        }
    }
    if let Some(first) = waiting.first() {
        let jobs = jobs_within_memory(first, options.jobs)?;
        let runner = Runner { folder, jobs, cancel: options.cancel, progress: options.progress };
        let outcome = runner.run(&waiting, &mut results);
        let unfinished = folder.join("runs");
        if std::fs::read_dir(&unfinished).is_ok_and(|mut entries| entries.next().is_none()) {
            let _ = std::fs::remove_dir(&unfinished); // empty: nothing is lost if it stays
        }
        outcome?;
    }
    let table = table::table(&experiment, &results.records);
    atomic_write(folder.join("table.md"), |file| file.write(table.as_bytes()))?;
    if let Some(svg) = table::curves(&experiment, &results.records) {
        atomic_write(folder.join("curves.svg"), |file| file.write(svg.as_bytes()))?;
    }
    let mut done = 0;
    for run in &runs {
        done += usize::from(results.has(run)?);
    }
    Ok(ExperimentOutcome { done, planned: runs.len(), table })
}

/// As many of `wanted` runs like `run` as fit into three quarters of the free memory, one at least.
fn jobs_within_memory(run: &PlannedRun, wanted: usize) -> Result<usize> {
    let config = &run.config;
    let context = Context::new(ContextOptions { threads: config.threads, isa: None })?;
    let model = make_model(&context, config, &open_tokenizer(config)?)?;
    let shape = &model.config;
    // Weights, gradients, two moments, the packed copy; activations of a training pass, generously.
    let parameters = 20 * model.store.total_elements() as u64;
    let tokens = (config.batch_size * config.seq_length) as u64;
    let per_token =
        shape.num_hidden_layers * (24 * shape.hidden_size + 8 * shape.intermediate_size) + 3 * shape.vocab_size;
    let needed = parameters + 4 * tokens * per_token as u64 + (64 << 20);
    let Some(free) = free_memory() else { return Ok(wanted.max(1)) };
    let fit = (free / 4 * 3 / needed).max(1) as usize;
    if fit < wanted {
        tracing::warn!("{wanted} runs at a time need {} MiB each: running {fit}", needed >> 20);
    }
    Ok(wanted.clamp(1, fit))
}

/// Bytes that programs may still take; `None` where the system does not say (it is read from /proc/meminfo).
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}
