//! `hybridq inspect`.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use hybridq::formats::inspect;
use hybridq::models::{ModelConfig, SharingInfo};
use hybridq::train::resolve_model;
use hybridq::{Error, Result};

#[derive(Args)]
pub struct Arguments {
    /// A safetensors file (a model, a checkpoint), a GGUF file, a folder of them, or a run
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
            let (name, dtype) = (&tensor.name, &tensor.dtype);
            let shape = format!("{:?}", tensor.shape);
            let _ = writeln!(text, "  {name:width$}  {dtype:6} {shape:16} {} bytes", tensor.bytes);
        }
    }
    let _ = writeln!(
        text,
        "{} elements in {} bytes: {:.2} times smaller than f32",
        found.elements, found.bytes, found.ratio_to_f32
    );
    if let Some(info) = sharing_of(&arguments.path)? {
        let saved = 100.0 * info.reduction;
        let _ = writeln!(
            text,
            "{} parameters in use, {} unique ({saved:.1} % less), {} bytes with packed layers",
            info.total, info.unique, info.packed_bytes
        );
        for tensor in &info.shared {
            let _ = writeln!(text, "  {} is {}", tensor.name, tensor.users[1..].join(", "));
        }
    }
    crate::write_stdout(&text)?;
    Ok(crate::DONE)
}

/// What a model folder's tensors are used for; `None` for other files.
fn sharing_of(path: &Path) -> Result<Option<SharingInfo>> {
    let Ok(folder) = resolve_model(path) else { return Ok(None) };
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
    Ok(Some(ModelConfig::from_json(&text, &path)?.sharing_info()?))
}
