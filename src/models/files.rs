//! Models as Hugging Face folders: `config.json` beside `model.safetensors`, or beside shards with an index.
//!
//! Parameters have the names that transformers gives them. Three things differ from file to file: a checkpoint of the
//! model without its head leaves out the prefix of the names; GPT-2 stores the weights of linear layers as `[in, out]`;
//! BitNet checkpoints may hold ternary weights, four rows a byte, with a scale.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::config::{ModelConfig, ModelType};
use super::head::Head;
use super::layers::Declaration;
use super::model::Model;
use super::packed_rows;
use super::quantization_json::scales_divide;
use crate::formats::{Dtype, SafetensorsFolder, TensorData, atomic_write, write_safetensors};
use crate::nn::{ParamId, ParamKind, ParamSpec, ParamStore, Precision};
use crate::quant::Stored;
use crate::{Error, Result};

const CONFIG_FILE: &str = "config.json";
const WEIGHTS_FILE: &str = "model.safetensors";

/// Types that become f32 without loss of more than rounding.
const FLOATS: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];

/// How a parameter lies in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// As in the store.
    Rows,
    /// `[in, out]`.
    Transposed,
    /// Ternary, four rows a byte, beside a scale.
    Packed,
    /// Ternary values as floats, beside a scale.
    Scaled,
}

/// A tensor of BART's files that is added to the logits: zeros, as no training reaches it.
const FINAL_BIAS: &str = "final_logits_bias";
/// The second head of BERT's pre-training, which no model here has.
const NEXT_SENTENCE: &str = "cls.seq_relationship.";

/// A parameter's tensor.
struct Source {
    name: String,
    shape: Vec<usize>,
    form: Form,
}

impl Model {
    /// Reads a Hugging Face folder: `config.json`, and `model.safetensors` or shards with `model.safetensors.index.json`
    /// (F32, F16, BF16; BitNet's packed layers). [`ParamStore::quantize`] must follow before the first pass.
    ///
    /// Errors: missing or damaged files, an unknown architecture, a tensor that is missing, has another shape or type,
    /// holds NaN or infinity, or is not of the model. Memory is asked for only after all shapes were found to fit.
    pub fn load(folder: &Path) -> Result<Self> {
        let config_path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&config_path).map_err(|error| Error::io(&config_path, error))?;
        let config = ModelConfig::from_json(&text, &config_path)?;
        let Declaration { plan, parameters: specs, .. } = Model::declare(&config);
        let tensors = SafetensorsFolder::open(folder)?;
        let sources = find_sources(&config, &specs, &tensors)?;
        if tensors.names().any(|name| name.starts_with(NEXT_SENTENCE)) {
            let path = tensors.path().display();
            tracing::warn!("{path}: {NEXT_SENTENCE}*: the head for the next sentence is left out");
        }
        check_final_bias(&config, &tensors)?;
        let mut store = ParamStore::new(specs)?;
        config.put_weight_forms(&mut store)?;
        let divides = scales_divide(&text);
        for (id, source) in store.ids().zip(&sources) {
            let shape = store.spec(id).shape.clone();
            let weight = store.weight_mut(id);
            source.read(&tensors, &shape, divides, weight)?;
            if let Some(index) = weight.iter().position(|value| !value.is_finite()) {
                let tensor = format!("{}: {}", tensors.path().display(), source.name);
                return Err(Error::NonFinite { tensor, index, value: weight[index] });
            }
        }
        Ok(Model { config, plan, store })
    }

    /// Writes `config.json` and `model.safetensors` (the latent weights, F32) into `folder`, which is made if missing.
    /// Each file is replaced in one step. transformers loads the folder and computes the same where
    /// [`ModelConfig::transformers_obstacle`] finds nothing against it. Error: a packed model, which has no such weights.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.store.check_weights()?;
        let config = self.present_config();
        let factors = self.weight_factors(&config);
        let tensor = |id: ParamId| {
            let (spec, factor) = (self.store.spec(id), factors[id.index()]);
            let name = spec.name.as_str();
            match (plain_form(&self.config, spec), self.store.stored_weight(id)) {
                (Form::Transposed, _) => {
                    let (rows, cols) = (spec.shape[0], spec.shape[1]);
                    TensorData::made(name, Dtype::F32, &[cols, rows], move || {
                        bytemuck::cast_slice(&transposed(&self.scaled_weight(id, factor), rows, cols)).to_vec()
                    })
                }
                (_, Stored::F32(weight)) if factor == 1.0 => TensorData::new(name, &spec.shape, weight),
                _ => TensorData::made(name, Dtype::F32, &spec.shape, move || {
                    bytemuck::cast_slice(&self.scaled_weight(id, factor)).to_vec()
                }),
            }
        };
        let tensors: Vec<TensorData<'_>> = self.store.ids().map(tensor).collect();
        write_folder(folder, &config.to_json(), &tensors)
    }
}

pub(super) fn write_folder(folder: &Path, config: &str, tensors: &[TensorData<'_>]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    // transformers refuses files without this entry.
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors(folder.join(WEIGHTS_FILE), &metadata, tensors)?;
    atomic_write(folder.join(CONFIG_FILE), |writer| writer.write(config.as_bytes()))
}

/// Row-major `[rows, cols]` to `[cols, rows]`.
pub(super) fn transposed(matrix: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| matrix[row * cols + col])).collect()
}

/// How a parameter lies in a file that is not packed.
pub(super) fn plain_form(config: &ModelConfig, spec: &ParamSpec) -> Form {
    let conv1d = config.model_type == ModelType::Gpt2 && spec.kind == ParamKind::Linear;
    if conv1d { Form::Transposed } else { Form::Rows }
}

/// What a checkpoint of the model without its head leaves out of the names.
fn base_prefix(config: &ModelConfig) -> &'static str {
    match config.model_type {
        ModelType::Gpt2 => "transformer.",
        ModelType::Plain | ModelType::Lstm | ModelType::Gru => "",
        ModelType::Bert => "bert.",
        ModelType::Bart => "model.",
        ModelType::Bitnet | ModelType::Llama | ModelType::Mistral => "model.",
    }
}

/// The tensor of each parameter, checked; no other tensors are left.
fn find_sources(config: &ModelConfig, specs: &[ParamSpec], tensors: &SafetensorsFolder) -> Result<Vec<Source>> {
    let prefix = base_prefix(config);
    let has_prefix = prefix.is_empty() || tensors.names().any(|name| name.starts_with(prefix));
    let sources: Vec<Source> = specs
        .iter()
        .map(|spec| {
            let name = if has_prefix { &spec.name } else { spec.name.strip_prefix(prefix).unwrap_or(&spec.name) };
            let other = other_name(name).filter(|other| tensors.find(name).is_none() && tensors.find(other).is_some());
            Source::new(config, spec, other.as_deref().unwrap_or(name), tensors)
        })
        .collect();
    let scales = sources.iter().filter(|source| matches!(source.form, Form::Packed | Form::Scaled));
    let scales = scales.map(|source| scale_name(&source.name));
    let known: BTreeSet<String> = sources.iter().map(|source| source.name.clone()).chain(scales).collect();
    let surplus = |name: &&str| !known.contains(*name) && !is_derived(name, config);
    if let Some(name) = tensors.names().find(surplus) {
        return Err(Error::format(tensors.path(), None, format!("{name}: not a tensor of this model")));
    }
    sources.iter().zip(specs).try_for_each(|(source, spec)| source.check(spec.precision, tensors))?;
    Ok(sources)
}

/// The scale of a ternary tensor.
pub(super) fn scale_name(weight: &str) -> String {
    format!("{weight}_scale")
}

/// Error: a bias of the logits that is not zero.
fn check_final_bias(config: &ModelConfig, tensors: &SafetensorsFolder) -> Result<()> {
    if config.model_type != ModelType::Bart || tensors.find(FINAL_BIAS).is_none() {
        return Ok(());
    }
    let mut bias = vec![0.0; config.vocab_size];
    let file = tensors.file_of(FINAL_BIAS)?;
    file.read_f32(FINAL_BIAS, &[1, config.vocab_size], &mut bias)?;
    match bias.iter().find(|&&value| value != 0.0) {
        Some(value) => {
            Err(Error::format(file.path(), None, format!("tensor {FINAL_BIAS:?}: expected zeros, found {value}")))
        }
        None => Ok(()),
    }
}

/// Another name of a tensor in BERT's files: norms had a gamma and a beta at first, the bias of the head has two names.
fn other_name(name: &str) -> Option<String> {
    let biases = ["cls.predictions.bias", "cls.predictions.decoder.bias"];
    if let Some(place) = biases.iter().position(|bias| *bias == name) {
        return Some(biases[1 - place].into());
    }
    let norm = |end: &str| name.strip_suffix(end).filter(|norm| norm.ends_with("LayerNorm"));
    norm(".weight").map(|norm| format!("{norm}.gamma")).or_else(|| Some(format!("{}.beta", norm(".bias")?)))
}

/// Tensors that Hugging Face files may hold although they follow from others (a tied head, rotary frequencies, the causal
/// masks of early GPT-2 files) or belong to parts that the model does not have (BERT's pooler and heads of its pre-training).
fn is_derived(name: &str, config: &ModelConfig) -> bool {
    if config.model_type == ModelType::Bert {
        let masked = config.head == Head::MaskedLanguageModel;
        let tied = name == "cls.predictions.decoder.weight" && config.tie_word_embeddings;
        return tied
            || (["cls.predictions.bias", "cls.predictions.decoder.bias"].contains(&name) && masked)
            || name.ends_with("embeddings.position_ids")
            || name.starts_with(NEXT_SENTENCE)
            || (name.starts_with("cls.") && !masked)
            || name.contains("pooler.dense.");
    }
    if config.model_type == ModelType::Bart {
        let tables = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", FINAL_BIAS];
        return tables.contains(&name) || (name == "lm_head.weight" && config.tie_word_embeddings);
    }
    let mask = [".attn.bias", ".attn.masked_bias"].iter().any(|end| name.ends_with(end));
    (name == "lm_head.weight" && config.tie_word_embeddings)
        || name.ends_with(".rotary_emb.inv_freq")
        || (mask && config.model_type == ModelType::Gpt2)
}

impl Source {
    fn new(config: &ModelConfig, spec: &ParamSpec, name: &str, tensors: &SafetensorsFolder) -> Self {
        let mut form = plain_form(config, spec);
        if spec.kind == ParamKind::Linear && tensors.find(&scale_name(name)).is_some() {
            let packed = tensors.find(name).is_some_and(|tensor| tensor.dtype == Dtype::U8);
            form = if packed { Form::Packed } else { Form::Scaled };
        }
        let shape = match (form, &spec.shape[..]) {
            (Form::Transposed, [rows, cols]) => vec![*cols, *rows],
            (Form::Packed, [rows, cols]) => vec![rows.div_ceil(packed_rows::ROWS_PER_BYTE), *cols],
            (_, shape) => shape.to_vec(),
        };
        Source { name: name.to_string(), shape, form }
    }

    /// The tensor is there with the right shape and a type that can be read as a parameter of `precision`.
    fn check(&self, precision: Precision, tensors: &SafetensorsFolder) -> Result<()> {
        let file = tensors.file_of(&self.name)?;
        let tensor = file.tensor(&self.name)?;
        let at = Some(tensor.range.start as u64);
        let fault = |message: String| Err(Error::format(file.path(), at, format!("tensor {:?}: {message}", self.name)));
        if tensor.shape != self.shape {
            return fault(format!("expected shape {:?}, found {:?}", self.shape, tensor.shape));
        }
        let ternary = matches!(self.form, Form::Packed | Form::Scaled);
        if ternary && precision != Precision::Ternary {
            return fault(format!("expected a parameter in {precision}, found a ternary one with a scale"));
        }
        if self.form != Form::Packed && !FLOATS.contains(&tensor.dtype) {
            return fault(format!("expected F32, F16, BF16 or F64, found {}", tensor.dtype));
        }
        Ok(())
    }

    /// Reads the tensor as rows of `shape`.
    fn read(&self, tensors: &SafetensorsFolder, shape: &[usize], divides: bool, out: &mut [f32]) -> Result<()> {
        let file = tensors.file_of(&self.name)?;
        match self.form {
            Form::Rows => file.read_f32(&self.name, &self.shape, out),
            Form::Transposed => {
                let mut columns = vec![0.0; out.len()];
                file.read_f32(&self.name, &self.shape, &mut columns)?;
                out.copy_from_slice(&transposed(&columns, self.shape[0], self.shape[1]));
                Ok(())
            }
            Form::Packed => {
                let bytes = file.bytes(&self.name)?;
                packed_rows::unpack(bytes, shape[0], shape[1], out)
                    .map_err(|index| self.not_ternary(tensors, index))?;
                self.apply_scale(tensors, divides, out)
            }
            Form::Scaled => {
                file.read_f32(&self.name, &self.shape, out)?;
                if let Some(index) = out.iter().position(|&value| ![-1.0, 0.0, 1.0].contains(&value)) {
                    return Err(self.not_ternary(tensors, index));
                }
                self.apply_scale(tensors, divides, out)
            }
        }
    }

    /// Makes latent weights of ternary ones: their scale, the mean of their magnitudes, is then the file's.
    fn apply_scale(&self, tensors: &SafetensorsFolder, divides: bool, ternary: &mut [f32]) -> Result<()> {
        let name = scale_name(&self.name);
        let mut scale = [0f32];
        let file = tensors.file_of(&name)?;
        let shape = file.tensor(&name)?.shape.clone();
        file.read_f32(&name, if shape.is_empty() { &[] } else { &[1] }, &mut scale)?;
        let scale = if divides { 1.0 / scale[0] } else { scale[0] };
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::format(file.path(), None, format!("tensor {name:?}: expected a scale, found {scale}")));
        }
        let kept = ternary.iter().filter(|&&value| value != 0.0).count().max(1);
        let magnitude = (f64::from(scale) * ternary.len() as f64 / kept as f64) as f32;
        ternary.iter_mut().for_each(|value| *value *= magnitude);
        Ok(())
    }

    fn not_ternary(&self, tensors: &SafetensorsFolder, index: usize) -> Error {
        let message = format!("tensor {:?}: element {index} is not ternary", self.name);
        Error::format(tensors.path(), None, message)
    }
}
