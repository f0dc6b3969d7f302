//! `hybridq bench`: medians of repeated runs beside ceilings of this machine measured in the same run.
#![forbid(unsafe_code)]

mod ceilings;
mod compare;
mod decode;
mod dispatch;
mod kernels;
mod measure;
mod record;
mod train;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hybridq::Result;

use record::{Line, Report, read_record};

#[derive(Args)]
pub struct Arguments {
    /// What to measure [default: kernels and train]
    #[arg(long, value_enum)]
    suite: Option<Suite>,
    /// Threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
    /// Suite kernels: every shape (many minutes) instead of one or two minutes' worth
    #[arg(long)]
    full: bool,
    /// Learn this machine's thresholds of the dispatcher first and keep them; alone: nothing else
    #[arg(long)]
    calibrate: bool,
    /// Print this record (of --json) beside what is measured, or beside a second one without measuring
    #[arg(long, value_name = "FILE", num_args = 1..=2)]
    compare: Vec<PathBuf>,
    /// Suite decode: keep the model's GGUF file here, or use the one that is there
    #[arg(long, value_name = "FILE")]
    gguf: Option<PathBuf>,
    /// JSON Lines instead of a table
    #[arg(long)]
    json: bool,
    /// Suite train: a model preset
    #[arg(long, default_value = "small-plain")]
    model: String,
    /// Suite train: examples of a batch
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Suite train: tokens of an example
    #[arg(long, default_value_t = 256)]
    seq: usize,
    /// Suite train: steps measured, after two of warm-up
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Suite train: settings of the run, as of train
    #[arg(long, value_name = "TOML")]
    config: Option<PathBuf>,
    /// Suite train: keep activations of every N-th block alone
    #[arg(long, value_name = "N", default_value_t = 0)]
    gradient_checkpointing: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Each kernel family at several shapes, on every instruction set level
    Kernels,
    /// Whole training steps
    Train,
    /// Generation with a model of a billion ternary weights
    Decode,
    /// The dispatcher's choices against every backend, and what a choice costs
    Dispatch,
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let records: Vec<Vec<Line>> = arguments.compare.iter().map(|path| read_record(path)).collect::<Result<_>>()?;
    let names: Vec<String> = arguments.compare.iter().map(|path| path.display().to_string()).collect();
    if let [old, new] = &records[..] {
        compare::print(old, new, (&names[0], &names[1]))?;
        return Ok(crate::DONE);
    }
    let mut context = crate::context(arguments.threads)?;
    let report = Report::new(arguments.json);
    if arguments.calibrate {
        context = dispatch::learn(&report, &context, crate::dispatch_cache())?;
        if arguments.suite.is_none() {
            return Ok(crate::DONE);
        }
    }
    if matches!(arguments.suite, None | Some(Suite::Kernels)) {
        kernels::run(&report, &context, arguments.full)?;
    }
    if matches!(arguments.suite, None | Some(Suite::Train)) {
        train::run(&report, &context, arguments)?;
    }
    if arguments.suite == Some(Suite::Decode) {
        decode::run(&report, &context, arguments.gguf.as_deref())?;
    }
    if arguments.suite == Some(Suite::Dispatch) {
        dispatch::run(&report, &context)?;
    }
    if let [old] = &records[..] {
        compare::print(old, &report.lines(), (&names[0], "this run"))?;
    }
    Ok(crate::DONE)
}
