//! `hybridq export`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hybridq::models::{ExportType, GgufExportType};
use hybridq::train::{export_gguf, export_model, export_packed};
use hybridq::{Error, Result};

#[derive(Args)]
pub struct Arguments {
    /// A run, a model folder, a Hugging Face folder, or (not to safetensors) a GGUF or packed file
    #[arg(long)]
    model: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    format: Format,
    /// How weights are stored; safetensors: f32 (default), f16, bf16, packed; gguf: f32 (default), f16, q8_0, tq1_0, tq2_0
    #[arg(long = "type", value_enum)]
    kind: Option<Type>,
    /// The folder (safetensors) or file (gguf, packed) to make
    #[arg(long)]
    out: PathBuf,
    /// Threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// A folder for transformers: config.json, model.safetensors and the tokenizer
    Safetensors,
    /// A file for llama.cpp
    Gguf,
    /// One file at 1.6 bits a ternary weight, embedding and head at 8.5 bits, for hybridq
    Packed,
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
    /// int8 with a scale for each 32 weights
    #[value(name = "q8_0")]
    Q8_0,
    /// Ternary layers at 1.6875 bits a weight, embedding and head in q8_0
    #[value(name = "tq1_0")]
    Tq1_0,
    /// Ternary layers at 2.0625 bits a weight, embedding and head in q8_0
    #[value(name = "tq2_0")]
    Tq2_0,
}

impl Type {
    fn for_safetensors(self) -> Option<ExportType> {
        match self {
            Type::F32 => Some(ExportType::F32),
            Type::F16 => Some(ExportType::F16),
            Type::Bf16 => Some(ExportType::Bf16),
            Type::Packed => Some(ExportType::Packed),
            _ => None,
        }
    }

    fn for_gguf(self) -> Option<GgufExportType> {
        match self {
            Type::F32 => Some(GgufExportType::F32),
            Type::F16 => Some(GgufExportType::F16),
            Type::Q8_0 => Some(GgufExportType::Q8_0),
            Type::Tq1_0 => Some(GgufExportType::Tq1_0),
            Type::Tq2_0 => Some(GgufExportType::Tq2_0),
            _ => None,
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let context = crate::context(arguments.threads)?;
    let wrong = |expected: &str| {
        let found = arguments.kind.and_then(|kind| Some(kind.to_possible_value()?.get_name().to_string()));
        Error::invalid("--type", expected, found.unwrap_or_default())
    };
    let (from, out) = (&arguments.model, &arguments.out);
    let model = match arguments.format {
        Format::Safetensors => {
            let kind = arguments.kind.unwrap_or(Type::F32).for_safetensors();
            let kind = kind.ok_or_else(|| wrong("f32, f16, bf16 or packed for safetensors"))?;
            export_model(&context, from, out, kind)?
        }
        Format::Gguf => {
            let kind = arguments
                .kind
                .unwrap_or(Type::F32)
                .for_gguf()
                .ok_or_else(|| wrong("f32, f16, q8_0, tq1_0 or tq2_0 for gguf"))?;
            export_gguf(&context, from, out, kind)?.0
        }
        Format::Packed if arguments.kind.is_some() => return Err(wrong("none for packed")),
        Format::Packed => export_packed(&context, from, out)?.0,
    };
    crate::write_stdout(&crate::describe(&model, out))?;
    Ok(crate::DONE)
}
