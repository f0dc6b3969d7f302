//! `hybridq eval`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hybridq::data::{TextSource, TokenDataset};
use hybridq::eval::language_model;
use hybridq::train::open_model;
use hybridq::{Error, Result};

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// A run, a model folder, a Hugging Face folder, a GGUF file or a packed file
    #[arg(long)]
    model: PathBuf,
    /// Text file or folder; all of it is read
    #[arg(long)]
    data: PathBuf,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Task::Lm)]
    task: Task,
    /// Windows of the text, evenly spaced
    #[arg(long, default_value_t = 64)]
    eval_windows: usize,
    /// Tokens of a window [default: the model's context, at most 256, or what the text allows]
    #[arg(long)]
    seq: Option<usize>,
    /// Threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Task {
    /// Language modelling
    Lm,
}

/// Windows longer than this change the loss little and cost memory.
const DEFAULT_WINDOW: usize = 256;

pub fn run(arguments: &Arguments) -> Result<u8> {
    let Task::Lm = arguments.task;
    if arguments.eval_windows == 0 || arguments.eval_windows > 1_000_000_000 {
        return Err(Error::invalid("--eval-windows", "1 to 1000000000", arguments.eval_windows));
    }
    let context = crate::context(arguments.threads)?;
    let (mut model, tokenizer) = open_model(&context, &arguments.model)?;
    let source = TextSource::open(&arguments.data)?;
    // The text is all validation: the dataset's training part is the same text, unused.
    let dataset = TokenDataset::new(&context, &tokenizer, &source, Some(&source))?;
    let length = arguments.seq.unwrap_or(model.config.context_length().min(DEFAULT_WINDOW));
    let report = language_model(&context, &mut model, &dataset, arguments.eval_windows, length)?;
    if arguments.json {
        crate::write_stdout(&(serde_json::to_string(&report).expect("plain numbers") + "\n"))?;
    } else {
        crate::write_stdout(&format!(
            "loss           {:.4} nats per token\nperplexity     {:.3}\nbits per byte  {:.4}\nover           {} tokens, {} bytes\n",
            report.loss, report.perplexity, report.bits_per_byte, report.tokens, report.bytes
        ))?;
    }
    Ok(crate::DONE)
}
