//! `hybridq experiment`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;
use hybridq::train::{ExperimentOptions, ExperimentProgress, run_experiment};
use hybridq::{Error, Result};

#[derive(Args)]
pub struct Arguments {
    /// The experiment: arms of settings, their grids, seeds
    #[arg(value_name = "TOML")]
    file: PathBuf,
    /// Training text, instead of the file's
    #[arg(long, value_name = "FILE_OR_DIR")]
    data: Option<PathBuf>,
    /// Validation text, instead of the file's
    #[arg(long, value_name = "FILE")]
    val: Option<PathBuf>,
    /// Tokenizer, instead of the file's
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Folder of the results [default: the experiment's file without its ending]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Runs at a time [default: one a thread, as memory allows]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Threads of each run
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: u32,
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let mut given = toml::Table::new();
    let paths = [("data", &arguments.data), ("val", &arguments.val), ("tokenizer", &arguments.tokenizer)];
    for (name, path) in paths {
        if let Some(path) = path {
            given.insert(name.into(), path.to_string_lossy().into_owned().into());
        }
    }
    given.insert("threads".into(), i64::from(arguments.threads).into());
    let folder = arguments.out.clone().unwrap_or_else(|| arguments.file.with_extension(""));
    if folder == arguments.file {
        return Err(Error::invalid("--out", "a folder (the experiment's file has no ending to leave out)", "nothing"));
    }
    if arguments.jobs == Some(0) {
        return Err(Error::invalid("--jobs", "1 or more", 0));
    }
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let jobs = arguments.jobs.unwrap_or((threads / arguments.threads.max(1) as usize).max(1));
    let cancel = crate::cancel_on_interrupt("stopping; runs in flight keep a checkpoint")?;
    let progress = |progress: ExperimentProgress<'_>| {
        let text = match progress {
            ExperimentProgress::Begin(run) => format!("begin  {}, seed {}\n", run.label(), run.config.seed),
            ExperimentProgress::End(record) => {
                let loss = record.final_loss.map_or("failed".into(), |loss| format!("validation loss {loss:.4}"));
                format!("end    {}, seed {}: {loss}, {:.1} ms a step\n", record.label(), record.seed, record.step_ms)
            }
        };
        let _ = crate::write_stdout(&text); // a closed pipe must not end the runs
    };
    let options = ExperimentOptions { folder: &folder, given, jobs, cancel, progress: &progress };
    let outcome = run_experiment(&arguments.file, options)?;
    crate::write_stdout(&format!("\n{}\n", outcome.table))?;
    crate::write_stdout(&format!("{} of {} runs done, in {}\n", outcome.done, outcome.planned, folder.display()))?;
    Ok(if outcome.done == outcome.planned { crate::DONE } else { crate::INTERRUPTED })
}
