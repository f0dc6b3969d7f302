//! `hybridq generate`.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use hybridq::generate::{GenerateOptions, SamplerOptions, generate};
use hybridq::train::open_model;
use hybridq::{Error, Result};

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// A run, a model folder, a Hugging Face folder, a GGUF file or a packed file
    #[arg(long)]
    model: PathBuf,
    /// Text to continue; an empty one starts from BOS
    #[arg(long)]
    prompt: String,
    /// Most tokens to generate
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Randomness; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Draw from this many most likely tokens
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the fewest most likely tokens whose probabilities sum to this
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// End before this text (may be given several times)
    #[arg(long)]
    stop: Vec<String>,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
    /// One JSON object at the end instead of a stream
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let context = crate::context(arguments.threads)?;
    let sampler = SamplerOptions {
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: arguments.seed,
        ..SamplerOptions::default()
    };
    sampler.validate().map_err(|error| match error {
        Error::InvalidValue { name, expected, found } => Error::invalid(format!("--{name}"), expected, found),
        other => other,
    })?;
    let options = GenerateOptions { sampler, tokens: arguments.tokens, stop: arguments.stop.clone() };
    let (mut model, tokenizer) = open_model(&context, &arguments.model)?;
    let mut failure = None;
    let piece = |text: &str| {
        if arguments.json {
            return ControlFlow::Continue(());
        }
        match crate::write_stdout(text) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let continuation = generate(&context, &mut model, &tokenizer, &arguments.prompt, &options, piece)?;
    if let Some(error) = failure {
        return Err(error);
    }
    if arguments.json {
        let reason = format!("{:?}", continuation.reason);
        let object = serde_json::json!({
            "text": continuation.text,
            "tokens": continuation.tokens,
            "prompt_tokens": continuation.prompt_tokens,
            "dropped_tokens": continuation.dropped_tokens,
            "reason": reason,
        });
        crate::write_stdout(&(object.to_string() + "\n"))?;
    } else if std::io::stdout().is_terminal() {
        // A script gets the continuation and nothing else.
        crate::write_stdout("\n")?;
    }
    Ok(crate::DONE)
}
