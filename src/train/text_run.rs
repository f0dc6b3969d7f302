//! From a configuration to a trainer of a language model: text, tokenizer, model, run directory.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::TrainConfig;
use super::language_model::LanguageModelObjective;
use super::model_folder::{open_trainable_model, tokenizer_of_model};
use super::run_directory::RunDirectory;
use super::trainer::Trainer;
use crate::data::{NgramBaselines, TextFile, TextSource, TextSplit, TokenDataset, Tokenizer};
use crate::dispatch::Context;
use crate::formats::atomic_write;
use crate::models::{Model, ModelConfig, PRESETS, preset};
use crate::nn::KeptPrecision;
use crate::{Error, Result};

/// A trainer of language models.
pub type LanguageModelTrainer = Trainer<LanguageModelObjective>;

/// Where a run lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunPlace {
    /// A new run: in this folder, or in the first free `runs/MODEL-NNN`.
    New(Option<PathBuf>),
    /// The run to go on with.
    Resumed(RunDirectory),
    /// Nothing is written.
    Nowhere,
}

/// The text files of a run: `files.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct FileList {
    training: Vec<TextFile>,
    validation: Vec<TextFile>,
}

impl LanguageModelTrainer {
    /// Reads the text, makes the model and puts the run in its place.
    ///
    /// Errors: no data, what [`TextSource::open`] refuses, a text too short, a tokenizer or window that does not fit the
    /// model, a folder that holds a run already; for a resumed run: text files other than the run's.
    pub fn open(context: &Context, config: TrainConfig, place: RunPlace) -> Result<Self> {
        config.validate()?;
        if let RunPlace::New(Some(out)) = &place {
            RunDirectory::check_free(out)?;
        }
        let data = config.data.as_deref();
        let data = data.ok_or_else(|| Error::invalid("data (--data)", "a text file or a folder", "nothing"))?;
        let source = TextSource::open(data)?;
        let validation = config.val.as_deref().map(TextSource::open).transpose()?;
        let files = FileList {
            training: source.files().to_vec(),
            validation: validation.as_ref().map_or_else(Vec::new, |source| source.files().to_vec()),
        };
        if let RunPlace::Resumed(directory) = &place {
            files.check_same(&directory.files())?;
        }
        let tokenizer = open_tokenizer(&config)?;
        let model = make_model(context, &config, &tokenizer)?;
        model.config.check_language_model()?;
        let dataset = TokenDataset::new(context, &tokenizer, &source, validation.as_ref())?;
        let digest = match &validation {
            Some(validation) => format!("{} {}", source.digest(), validation.digest()),
            None => source.digest(),
        };
        let (seq_length, windows) = (config.seq_length, config.eval_windows);
        let byte_level = tokenizer.is_byte_level();
        let name = run_name(&config);
        let objective = LanguageModelObjective::new(model, tokenizer, dataset, digest, seq_length, windows)?
            .with_checkpoints(config.gradient_checkpointing)
            .with_gradient_error_limit(config.gradient_error_limit as f32);
        let mut trainer = Trainer::new(context.clone(), config, objective)?;
        if byte_level {
            trainer = trainer.with_baselines(move || baselines(&source, validation.as_ref()));
        }
        match place {
            RunPlace::Nowhere => Ok(trainer),
            RunPlace::Resumed(directory) => trainer.resume_in(directory),
            RunPlace::New(out) => {
                let directory = RunDirectory::create(out.as_deref(), &name)?;
                let json = serde_json::to_vec_pretty(&files).expect("a file list is plain data");
                atomic_write(directory.files(), |file| file.write(&json))?;
                trainer.start_in(directory)
            }
        }
    }
}

impl FileList {
    /// Error: the list stored at `path` differs, with the first file that does.
    fn check_same(&self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let stored: FileList =
            serde_json::from_str(&text).map_err(|error| Error::format(path, None, error.to_string()))?;
        let pairs = [(&self.training, &stored.training), (&self.validation, &stored.validation)];
        for (now, then) in pairs {
            for file in now.iter().chain(then) {
                let same = now.contains(file) && then.contains(file);
                if !same {
                    let expected = "the text files the run began with (a changed text needs a new run)";
                    return Err(Error::invalid("--resume: data", expected, format!("a change in {}", file.path)));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn open_tokenizer(config: &TrainConfig) -> Result<Tokenizer> {
    if let Some(path) = &config.tokenizer {
        return Tokenizer::load(path);
    }
    match &config.init {
        Some(init) => tokenizer_of_model(init),
        None => Ok(Tokenizer::bytes()),
    }
}

pub(super) fn make_model(context: &Context, config: &TrainConfig, tokenizer: &Tokenizer) -> Result<Model> {
    let mut model = new_model(context, config, tokenizer)?;
    let kept @ [weights, gradients] = [config.latent_precision, config.kept_gradient_precision];
    if kept != [KeptPrecision::F32; 2] {
        model.keep_parameters(weights, gradients, config.seed);
    }
    if config.grad_accumulation > 1 {
        model.sum_batches();
    }
    Ok(model)
}

fn new_model(context: &Context, config: &TrainConfig, tokenizer: &Tokenizer) -> Result<Model> {
    if let Some(init) = &config.init {
        return adapt(open_trainable_model(context, init)?, config);
    }
    let mut model = if PRESETS.contains(&config.model.as_str()) {
        let mut model = preset(&config.model)?;
        if !tokenizer.is_byte_level() {
            model.vocab_size = tokenizer.vocabulary();
        }
        model
    } else {
        let path = Path::new(&config.model);
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::invalid("model (--model)", format!("{} or a JSON file", PRESETS.join(", ")), &config.model)
            }
            _ => Error::io(path, error),
        })?;
        ModelConfig::from_json(&text, path)?
    };
    model.precision = config.weight_precision();
    model.gradient_precision = config.gradient_precision;
    model.head_precision = config.head_precision(model.vocab_size);
    model.bos_token_id = model.bos_token_id.or(tokenizer.bos());
    if model.eos_token_id.is_empty() {
        model.eos_token_id.extend(tokenizer.eos());
    }
    Model::new(model, config.seed)
}

/// A loaded model in the precision the configuration names, if it names one.
fn adapt(loaded: Model, config: &TrainConfig) -> Result<Model> {
    let mut wanted = loaded.config.clone();
    if config.precision.is_some() || !config.use_quantization || !config.quantize_parameters {
        wanted.precision = config.weight_precision();
        wanted.weight_forms.clear();
    }
    wanted.gradient_precision = config.gradient_precision;
    wanted.head_precision = config.head_precision(wanted.vocab_size);
    if wanted == loaded.config {
        return Ok(loaded);
    }
    let mut model = Model::new(wanted, config.seed)?;
    for id in model.store.ids() {
        let spec = model.store.spec(id).clone();
        let same = loaded.store.find(&spec.name).filter(|&from| loaded.store.spec(from).shape == spec.shape);
        let from = same.ok_or_else(|| {
            let expected = format!("a model with the tensor {} {:?} (needed at this precision)", spec.name, spec.shape);
            Error::invalid("init (--init)", expected, "none")
        })?;
        model.store.weight_mut(id).copy_from_slice(&loaded.store.weight_values(from));
    }
    Ok(model)
}

/// What `runs/NAME-NNN` is called.
fn run_name(config: &TrainConfig) -> String {
    let stem = Path::new(&config.model).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| "model".into())
}

/// Bits per byte of byte models on the same split.
fn baselines(source: &TextSource, validation: Option<&TextSource>) -> Result<Vec<(String, f64)>> {
    let split = TextSplit::new(source, validation, &Tokenizer::bytes());
    let (training, validation) = (split.training.join(&b'\n'), split.validation.join(&b'\n'));
    let found = NgramBaselines::measure(&training, &validation)?;
    let rows = [("unigram", found.unigram), ("bigram", found.bigram), ("trigram", found.trigram)];
    let interpolated = [("trigram, interpolated", found.interpolated)];
    let bits = |(name, nats): (&str, f64)| (name.to_string(), nats / std::f64::consts::LN_2);
    Ok(rows.into_iter().chain(interpolated).map(bits).collect())
}
