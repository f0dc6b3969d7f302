//! `hybridq inspect`.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use hybridq::Result;
use hybridq::formats::inspect;
use hybridq::train::resolve_model;

#[derive(Args)]
pub struct Arguments {
    /// A safetensors file (a model, a checkpoint), a folder of them, or a run
    path: PathBuf,
}

/// Longer metadata values are cut in the listing.
const VALUE_CHARACTERS: usize = 120;

pub fn run(arguments: &Arguments) -> Result<u8> {
    // A run is inspected by its model.
    let is_run = arguments.path.join("config.toml").is_file();
    let found = inspect(&if is_run { resolve_model(&arguments.path)? } else { arguments.path.clone() })?;
    let mut text = String::new();
    for file in &found.files {
        let _ = writeln!(text, "{}  {} bytes", file.path.display(), file.bytes);
        for (key, value) in &file.metadata {
            let short: String = value.chars().take(VALUE_CHARACTERS).collect();
            let more = if short.len() < value.len() { "..." } else { "" };
            let _ = writeln!(text, "  {key} = {}{more}", short.escape_debug());
        }
        let width = file.tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
        for tensor in &file.tensors {
            let (name, dtype) = (&tensor.name, tensor.dtype.to_string());
            let shape = format!("{:?}", tensor.shape);
            let _ = writeln!(text, "  {name:width$}  {dtype:5} {shape:16} {} bytes", tensor.bytes);
        }
    }
    let _ = writeln!(
        text,
        "{} elements in {} bytes: {:.2} times smaller than f32",
        found.elements, found.bytes, found.ratio_to_f32
    );
    crate::write_stdout(&text)?;
    Ok(crate::DONE)
}
