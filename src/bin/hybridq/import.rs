//! `hybridq import`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;
use hybridq::Result;
use hybridq::train::import_model;

#[derive(Args)]
pub struct Arguments {
    /// A Hugging Face folder (config.json with model.safetensors or its shards) or a GGUF file
    #[arg(long)]
    from: PathBuf,
    /// The model folder to make
    #[arg(long)]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let model = import_model(&arguments.from, &arguments.out)?;
    crate::write_stdout(&crate::describe(&model, &arguments.out))?;
    Ok(crate::DONE)
}
