//! Models by path: folders, runs and files, their tokenizers, and moving models in and out.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data::Tokenizer;
use crate::dispatch::{Context, ContextOptions};
use crate::formats::{GgufFile, SafetensorsFile, SafetensorsFolder};
use crate::models::{ExportType, GgufExportType, Head, Model};
use crate::{Error, Result};

/// Files that hold a tokenizer, any one of them.
const TOKENIZER_FILES: [&str; 4] = ["tokenizer.json", "vocab.json", "encoder.json", "vocab.txt"];

/// What may lie beside a model and goes with it, besides its tokenizer.
const COMPANIONS: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "vocab.txt",
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

/// The model behind `path` (a run, a model folder, a Hugging Face folder, a GGUF file, a packed file) ready to compute with, and its
/// tokenizer. Errors: what [`Model::load`], [`Model::load_gguf`] and [`Model::load_packed`] refuse, a model that does not write
/// text from left to right, a tokenizer with more ids than the model.
pub fn open_model(context: &Context, path: &Path) -> Result<(Model, Tokenizer)> {
    let (model, tokenizer) = open_any_model(context, path)?;
    model.config.check_language_model()?;
    Ok((model, tokenizer))
}

/// As [`open_model`], of any kind: encoders and encoder-decoders too.
pub fn open_any_model(context: &Context, path: &Path) -> Result<(Model, Tokenizer)> {
    let (model, tokenizer) = if GgufFile::is_at(path) {
        let file = GgufFile::open(path)?;
        (Model::load_gguf(context, &file)?, Tokenizer::from_gguf(&file)?)
    } else if Model::is_packed_file(path) {
        let file = Arc::new(SafetensorsFile::open(path)?);
        (Model::load_packed(&file)?, packed_tokenizer(&file)?)
    } else {
        let folder = resolve_model(path)?;
        let mut model = Model::load(&folder)?;
        model.store.quantize(context)?;
        (model, open_model_tokenizer(&folder)?)
    };
    // Bytes stand for no tokenizer: what reads ids alone does without.
    if model.config.head == Head::LanguageModel || !tokenizer.is_byte_level() {
        tokenizer.check_vocabulary(model.config.vocab_size)?;
    }
    Ok((model, tokenizer))
}

/// The model behind `path`, as for [`open_model`] but of any kind, with weights to train ([`Model::into_trainable`]).
pub fn open_trainable_model(context: &Context, path: &Path) -> Result<Model> {
    if !is_model_file(path) {
        return Model::load(&resolve_model(path)?);
    }
    let (model, _) = open_any_model(context, path)?;
    if model.store.check_weights().is_ok() { Ok(model) } else { model.into_trainable(context) }
}

/// A model in one file, GGUF or packed.
fn is_model_file(path: &Path) -> bool {
    GgufFile::is_at(path) || Model::is_packed_file(path)
}

/// The tokenizer of the model behind `path`: bytes if it has none.
pub(super) fn tokenizer_of_model(path: &Path) -> Result<Tokenizer> {
    if GgufFile::is_at(path) {
        Tokenizer::from_gguf(&GgufFile::open(path)?)
    } else if Model::is_packed_file(path) {
        packed_tokenizer(&SafetensorsFile::open(path)?)
    } else {
        open_model_tokenizer(&resolve_model(path)?)
    }
}

/// Reads the Hugging Face folder, GGUF or packed file `from` and writes it into the new model folder `out` as hybridq keeps models: all weights
/// f32 in one file, with the tokenizer if there is one. Gives the model. Errors: what [`Model::load`] refuses, a
/// tokenizer with more ids than the model, an `out` that holds a model.
pub fn import_model(from: &Path, out: &Path) -> Result<Model> {
    check_free(out)?;
    if is_model_file(from) {
        let context = Context::new(ContextOptions::default())?;
        let model = open_trainable_model(&context, from)?;
        model.save(out)?;
        tokenizer_of_model(from)?.save(out)?;
        return Ok(model);
    }
    let from = resolve_model(from)?;
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

/// Writes the model behind `from` (a run, a model folder, a Hugging Face folder, a GGUF file) as a GGUF file for
/// llama.cpp; the model may be an encoder. Gives the model and the file's bytes. Errors: those of [`open_model`] and [`Model::export_gguf`], a tokenizer
/// that llama.cpp has no equal of, an `out` that exists.
pub fn export_gguf(context: &Context, from: &Path, out: &Path, kind: GgufExportType) -> Result<(Model, u64)> {
    if out.exists() {
        return Err(Error::invalid("--out", "a new file", out.display()));
    }
    let (model, tokenizer) = open_any_model(context, from)?;
    let metadata = tokenizer.gguf_metadata(model.config.vocab_size)?;
    let bytes = model.export_gguf(context, out, kind, metadata)?;
    Ok((model, bytes))
}

/// Metadata of packed files: the text of a `tokenizer.json`, and the ids of BOS and EOS.
const TOKENIZER_KEY: &str = "tokenizer";
const BOS_KEY: &str = "bos";
const EOS_KEY: &str = "eos";

/// Writes the model behind `from` (anything [`open_model`] opens) as one file at 1.6 bits a ternary weight, with its
/// tokenizer. Gives the model and the file's bytes. Errors: those of [`open_model`] and [`Model::save_packed`], an `out`
/// that exists.
pub fn export_packed(context: &Context, from: &Path, out: &Path) -> Result<(Model, u64)> {
    if out.exists() {
        return Err(Error::invalid("--out", "a new file", out.display()));
    }
    let (model, tokenizer) = open_model(context, from)?;
    let mut extra = BTreeMap::new();
    if let Some(json) = tokenizer.subword_json()? {
        extra.insert(TOKENIZER_KEY.to_string(), json);
        let ends = [(BOS_KEY, tokenizer.bos()), (EOS_KEY, tokenizer.eos())];
        extra.extend(ends.into_iter().filter_map(|(key, id)| Some((key.to_string(), id?.to_string()))));
    }
    let bytes = model.save_packed(context, out, extra)?;
    Ok((model, bytes))
}

fn packed_tokenizer(file: &SafetensorsFile) -> Result<Tokenizer> {
    let Some(json) = file.metadata().get(TOKENIZER_KEY) else { return Ok(Tokenizer::bytes()) };
    let id = |key: &str| file.metadata().get(key).and_then(|id| id.parse().ok());
    Tokenizer::from_json(file.path(), json.as_bytes(), (id(BOS_KEY), id(EOS_KEY)))
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
