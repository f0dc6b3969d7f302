//! Model folders: which one a path means, its tokenizer, and moving models in and out.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::data::Tokenizer;
use crate::dispatch::Context;
use crate::formats::SafetensorsFolder;
use crate::models::{ExportType, Model};
use crate::{Error, Result};

/// Files that hold a tokenizer, any one of them.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "vocab.json", "encoder.json"];

/// What may lie beside a model and goes with it, besides its tokenizer.
const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "generation_config.json",
    "chat_template.jinja",
];

/// The model folder behind a path that may be a run, a model folder or a Hugging Face folder. Error: it is none of them.
pub fn resolve_model(path: &Path) -> Result<PathBuf> {
    let of_run = path.join("model");
    for folder in [path, &of_run] {
        if folder.join("config.json").is_file() && SafetensorsFolder::is_present(folder) {
            return Ok(folder.to_path_buf());
        }
    }
    std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
    let message = if path.join("config.toml").is_file() {
        "a run without a model yet (it is written at the first checkpoint)"
    } else if path.join("pytorch_model.bin").is_file() || path.join("pytorch_model.bin.index.json").is_file() {
        "a model in PyTorch's own format; expected model.safetensors (transformers' save_pretrained writes it)"
    } else {
        "neither a run nor a model folder (config.json and model.safetensors)"
    };
    Err(Error::format(path, None, message))
}

fn has_tokenizer(folder: &Path) -> bool {
    TOKENIZER_FILES.iter().any(|name| folder.join(name).is_file())
}

/// The tokenizer of a model folder: its `tokenizer.json`, or bytes if it has none.
pub fn open_model_tokenizer(folder: &Path) -> Result<Tokenizer> {
    if has_tokenizer(folder) { Tokenizer::load(folder) } else { Ok(Tokenizer::bytes()) }
}

/// Reads the Hugging Face folder `from` and writes it into the new model folder `out` as hybridq keeps models: all weights
/// f32 in one file, with the tokenizer if there is one. Gives the model. Errors: what [`Model::load`] refuses, a
/// tokenizer with more ids than the model, an `out` that holds a model.
pub fn import_model(from: &Path, out: &Path) -> Result<Model> {
    let from = resolve_model(from)?;
    check_free(out)?;
    let model = Model::load(&from)?;
    let tokenizer = fitting_tokenizer(&from, &model)?;
    model.save(out)?;
    write_companions(&from, out, tokenizer.as_ref())?;
    Ok(model)
}

/// Writes the model behind `from` (a run, a model folder, a Hugging Face folder) into the new folder `out` for transformers.
/// Gives the model. Errors: those of [`Model::load`] and [`Model::export`], a tokenizer with more ids than the model, an
/// `out` that holds a model.
pub fn export_model(context: &Context, from: &Path, out: &Path, kind: ExportType) -> Result<Model> {
    let from = resolve_model(from)?;
    check_free(out)?;
    let mut model = Model::load(&from)?;
    let tokenizer = fitting_tokenizer(&from, &model)?;
    model.store.quantize(context)?;
    model.export(context, out, kind)?;
    write_companions(&from, out, tokenizer.as_ref())?;
    Ok(model)
}

fn check_free(out: &Path) -> Result<()> {
    if out.join("config.json").exists() {
        return Err(Error::invalid("--out", "a folder without a model", out.display()));
    }
    Ok(())
}

/// The folder's tokenizer, if it has one. Error: it does not fit the model.
fn fitting_tokenizer(folder: &Path, model: &Model) -> Result<Option<Tokenizer>> {
    let tokenizer = has_tokenizer(folder).then(|| Tokenizer::load(folder)).transpose()?;
    tokenizer.iter().try_for_each(|tokenizer| tokenizer.check_vocabulary(model.config.vocab_size))?;
    Ok(tokenizer)
}

/// Copies what lies beside the model, and makes a `tokenizer.json` of other tokenizer files.
fn write_companions(from: &Path, out: &Path, tokenizer: Option<&Tokenizer>) -> Result<()> {
    for name in COMPANIONS.iter().filter(|name| from.join(name).is_file()) {
        std::fs::copy(from.join(name), out.join(name)).map_err(|error| Error::io(out.join(name), error))?;
    }
    match tokenizer {
        Some(tokenizer) if !out.join("tokenizer.json").is_file() => tokenizer.save(out),
        _ => Ok(()),
    }
}
