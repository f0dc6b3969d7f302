//! `hybridq export`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hybridq::Result;
use hybridq::models::ExportType;
use hybridq::train::export_model;

#[derive(Args)]
pub struct Arguments {
    /// A run, a model folder or a Hugging Face folder
    #[arg(long)]
    model: PathBuf,
    /// What to write: a folder that Hugging Face's transformers loads
    #[arg(long, value_enum)]
    format: Format,
    /// How weights are stored
    #[arg(long = "type", value_enum, default_value_t = Type::F32)]
    kind: Type,
    /// The folder to make
    #[arg(long)]
    out: PathBuf,
    /// Threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// config.json, model.safetensors and the tokenizer
    Safetensors,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    /// As trained
    F32,
    /// Half precision
    F16,
    /// Half precision with the range of f32
    Bf16,
    /// Ternary layers at two bits a weight (BitNet's checkpoint form)
    Packed,
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let Format::Safetensors = arguments.format;
    let kind = match arguments.kind {
        Type::F32 => ExportType::F32,
        Type::F16 => ExportType::F16,
        Type::Bf16 => ExportType::Bf16,
        Type::Packed => ExportType::Packed,
    };
    let context = crate::context(arguments.threads)?;
    let model = export_model(&context, &arguments.model, &arguments.out, kind)?;
    crate::write_stdout(&crate::describe(&model, &arguments.out))?;
    Ok(crate::DONE)
}
