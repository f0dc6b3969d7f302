//! The program `hybridq`: one file a command.
#![forbid(unsafe_code)]

mod bench;
mod eval;
mod experiment;
mod export;
mod generate;
mod import;
mod info;
mod inspect;
mod install;
mod process_memory;
mod train;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use clap::{Parser, Subcommand};
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::models::Model;
use hybridq::{Error, Result};

/// Done; also when a time limit ended a run.
const DONE: u8 = 0;
/// A file, a tensor or the machine did not do what was asked.
const FAILED: u8 = 1;
/// A flag or setting is wrong.
const BAD_USAGE: u8 = 2;
/// Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Train, evaluate and run ternary (1.58-bit) language models.
#[derive(Parser)]
#[command(name = "hybridq", version, about)]
struct Cli {
    /// The dispatcher's cache of thresholds [default: HYBRIDQ_DISPATCH_CACHE, or hybridq/dispatch.toml in the user's cache]
    #[arg(long, global = true, value_name = "FILE")]
    dispatch_cache: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Version, instruction sets, threads, GPU
    Info(info::Arguments),
    /// Train a language model on a text file or folder
    Train(Box<train::Arguments>),
    /// Loss, perplexity and bits per byte of a model on a text
    Eval(eval::Arguments),
    /// A grid of settings over several seeds: a table and a plot
    Experiment(experiment::Arguments),
    /// Continue a prompt
    Generate(generate::Arguments),
    /// Write a model as a Hugging Face folder, a GGUF file or a packed file
    Export(export::Arguments),
    /// Make a model folder of a Hugging Face folder or a GGUF file
    Import(import::Arguments),
    /// Tensors and metadata of a file or folder
    Inspect(inspect::Arguments),
    /// Speed of kernels and of training on this machine
    Bench(bench::Arguments),
    /// The C library: headers, libraries, pkg-config and CMake files under a prefix
    Install(install::Arguments),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_target(false)
        .without_time()
        .init();
    if let Some(path) = cli.dispatch_cache {
        let _ = DISPATCH_CACHE.set(path); // once, here
    }
    let outcome = match cli.command {
        Command::Info(arguments) => info::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Experiment(arguments) => experiment::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Install(arguments) => install::run(&arguments),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // One line, whatever a file's content put into the message.
            eprintln!("error: {}", error.to_string().replace('\n', " "));
            ExitCode::from(if matches!(error, Error::InvalidValue { .. }) { BAD_USAGE } else { FAILED })
        }
    }
}

/// Help and version go to stdout as they are; a wrong command line becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let Err(error) = write_stdout(&error.to_string()) else { return ExitCode::from(DONE) };
        eprintln!("error: {error}");
        return ExitCode::from(FAILED);
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{error}");
        return ExitCode::from(BAD_USAGE);
    }
    let text = error.to_string();
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    eprintln!("{}", first.join(" "));
    ExitCode::from(BAD_USAGE)
}

/// `--dispatch-cache`.
static DISPATCH_CACHE: OnceLock<PathBuf> = OnceLock::new();

fn dispatch_cache() -> Option<&'static Path> {
    DISPATCH_CACHE.get().map(PathBuf::as_path)
}

/// The context for `--threads`.
fn context(threads: Option<usize>) -> Result<Context> {
    let named = |error| match error {
        Error::InvalidValue { name, expected, found } if name == "threads" => {
            Error::InvalidValue { name: "--threads".into(), expected, found }
        }
        other => other,
    };
    Context::with_cache(ContextOptions { threads, isa: None }, dispatch_cache()).map_err(named)
}

/// One line on a model and where it was written.
fn describe(model: &Model, folder: &Path) -> String {
    let config = &model.config;
    format!(
        "{}: {} parameters, {} layers x {}, {} weights, written to {}\n",
        config.model_type.name(),
        model.store.total_elements(),
        config.num_hidden_layers,
        config.hidden_size,
        config.precision,
        folder.display()
    )
}

/// The first Ctrl-C asks runs to end with a checkpoint, and says `notice`; the second one ends the process.
fn cancel_on_interrupt(notice: &'static str) -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("{notice}; Ctrl-C again stops at once");
    };
    ctrlc::set_handler(handler).map_err(|error| Error::Unsupported(format!("cannot watch for Ctrl-C: {error}")))?;
    Ok(cancel)
}

/// Writes to stdout; a reader that closed the pipe ends the program quietly.
fn write_stdout(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(i32::from(DONE)),
        result => result.map_err(|error| Error::io("stdout", error)),
    }
}
