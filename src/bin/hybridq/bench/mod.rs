//! `hybridq bench`: medians of repeated runs beside ceilings of this machine measured in the same run.
#![forbid(unsafe_code)]

mod kernels;
mod measure;
mod train;

use clap::{Args, ValueEnum};
use hybridq::Result;

#[derive(Args)]
pub struct Arguments {
    /// What to measure [default: both]
    #[arg(long, value_enum)]
    suite: Option<Suite>,
    /// Threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
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
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Each kernel family at several shapes, on every instruction set level
    Kernels,
    /// Whole training steps
    Train,
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let context = crate::context(arguments.threads)?;
    let ceilings = measure::Ceilings::measure(&context);
    let report = measure::Report::new(arguments.json);
    ceilings.report(&report, &context)?;
    if arguments.suite != Some(Suite::Train) {
        kernels::run(&report, &context, &ceilings)?;
    }
    if arguments.suite != Some(Suite::Kernels) {
        train::run(&report, &context, arguments)?;
    }
    Ok(crate::DONE)
}
