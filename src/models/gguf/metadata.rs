//! A configuration as GGUF metadata, and back.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::encoder::{encoder_entries, encoder_keys};
use crate::formats::{GgufFile, GgufValue};
use crate::models::{Activation, ModelConfig, ModelType, preset};
use crate::nn::Precision;
use crate::nn::ops::RopeScaling;
use crate::{Error, Result};

/// Our own key: a `rope_scaling` object, where llama.cpp's keys do not tell it all.
const ROPE_SCALING_KEY: &str = "hybridq.rope_scaling";
/// Keys of an architecture that say nothing about the computation.
const SILENT: [&str; 3] = ["vocab_size", "tensor_data_layout", "rope.scaling.original_context_length"];

/// llama.cpp's name of the architecture.
fn architecture(model_type: ModelType) -> &'static str {
    match model_type {
        ModelType::Llama | ModelType::Mistral => "llama",
        ModelType::Bitnet => "bitnet",
        ModelType::Gpt2 | ModelType::Plain => "gpt2",
        other => other.name(),
    }
}

/// The metadata of a configuration that has no obstacle.
pub(super) fn metadata_of(config: &ModelConfig) -> Vec<(String, GgufValue)> {
    let name = architecture(config.model_type);
    let mut entries = vec![("general.architecture".to_string(), GgufValue::String(name.into()))];
    let mut add = |key: &str, value: GgufValue| entries.push((format!("{name}.{key}"), value));
    let number = |value: usize| GgufValue::U32(value as u32);
    add("vocab_size", number(config.vocab_size));
    add("context_length", number(config.max_position_embeddings));
    add("embedding_length", number(config.hidden_size));
    add("block_count", number(config.num_hidden_layers));
    add("feed_forward_length", number(config.intermediate_size));
    add("attention.head_count", number(config.num_attention_heads));
    if config.model_type.is_plain() || config.model_type == ModelType::Bert {
        add("attention.layer_norm_epsilon", GgufValue::F32(config.layer_norm_eps));
        if config.model_type == ModelType::Bert {
            entries.extend(encoder_entries(config));
        }
        return entries;
    }
    add("attention.head_count_kv", number(config.num_key_value_heads));
    add("attention.key_length", number(config.head_dim()));
    add("attention.value_length", number(config.head_dim()));
    add("attention.layer_norm_rms_epsilon", GgufValue::F32(config.rms_norm_eps));
    add("rope.dimension_count", number(config.head_dim()));
    add("rope.freq_base", GgufValue::F32(config.rope_theta));
    if let Some(RopeScaling::Linear { factor }) = config.rope_scaling {
        add("rope.scaling.type", GgufValue::String("linear".into()));
        add("rope.scaling.factor", GgufValue::F32(factor));
    }
    if let Some(scaling @ RopeScaling::Llama3 { .. }) = config.rope_scaling {
        let text = serde_json::to_string(&scaling).expect("numbers become JSON");
        entries.push((ROPE_SCALING_KEY.into(), GgufValue::String(text)));
    }
    entries
}

/// The keys of one architecture, taken one by one.
pub(super) struct Keys<'a> {
    pub(super) file: &'a GgufFile,
    architecture: &'a str,
    taken: BTreeSet<String>,
}

impl Keys<'_> {
    fn find(&mut self, key: &str) -> Option<(String, &GgufValue)> {
        let key = format!("{}.{key}", self.architecture);
        self.taken.insert(key.clone());
        self.file.metadata().get(&key).map(|value| (key, value))
    }

    pub(super) fn get<T>(
        &mut self,
        key: &str,
        what: &str,
        read: impl Fn(&GgufValue) -> Option<T>,
    ) -> Result<Option<T>> {
        let file = self.file;
        let Some((key, value)) = self.find(key) else { return Ok(None) };
        let wrong = || file.error(None, format!("{key}: expected {what}, found {:?}", value.to_string()));
        read(value).map(Some).ok_or_else(wrong)
    }

    fn size(&mut self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a size", |value| value.as_u64().and_then(|value| value.try_into().ok()))
    }

    fn number(&mut self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a number", GgufValue::as_f32)
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.file.error(None, format!("{}.{key}: missing", self.architecture)))
    }

    fn required_size(&mut self, key: &str) -> Result<usize> {
        let value = self.size(key)?;
        self.required(key, value)
    }

    fn required_number(&mut self, key: &str) -> Result<f32> {
        let value = self.number(key)?;
        self.required(key, value)
    }

    /// `key`, if it is there, has the one value that is computed here.
    pub(super) fn fixed(&mut self, key: &str, expected: u64) -> Result<()> {
        match self.size(key)?.filter(|&found| found as u64 != expected) {
            None => Ok(()),
            Some(found) => {
                Err(self.file.error(None, format!("{}.{key}: expected {expected}, found {found}", self.architecture)))
            }
        }
    }

    /// Error: a key of the architecture that nobody took.
    fn finish(mut self) -> Result<()> {
        SILENT.iter().for_each(|key| drop(self.find(key)));
        let prefix = format!("{}.", self.architecture);
        let unknown = self.file.metadata().keys().find(|key| key.starts_with(&prefix) && !self.taken.contains(*key));
        unknown.map_or(Ok(()), |key| Err(self.file.error(None, format!("{key}: unknown key"))))
    }
}

/// The configuration in a file's metadata, in f32, with the scaling it states for Llama 3 frequencies beside it (which
/// hold only if the divisors are in the file). Errors: an unknown architecture, a missing or unknown key, a value out of
/// range; each names the key.
pub(super) fn config_of(file: &GgufFile) -> Result<(ModelConfig, Option<RopeScaling>)> {
    let missing = || file.error(None, "general.architecture: missing");
    let name = file.metadata().get("general.architecture").and_then(GgufValue::as_str).ok_or_else(missing)?;
    let model_type = match name {
        "llama" => ModelType::Llama,
        "bitnet" => ModelType::Bitnet,
        "gpt2" => ModelType::Gpt2,
        "bert" => ModelType::Bert,
        other => {
            let message = format!("general.architecture: expected llama, bitnet, gpt2 or bert, found {other:?}");
            return Err(file.error(None, message));
        }
    };
    let mut keys = Keys { file, architecture: name, taken: BTreeSet::new() };
    let embedding =
        file.find("token_embd.weight").ok_or_else(|| file.error(None, "tensor \"token_embd.weight\": missing"))?;
    let heads = keys.required_size("attention.head_count")?;
    let mut config = ModelConfig {
        model_type,
        hidden_size: keys.required_size("embedding_length")?,
        intermediate_size: keys.required_size("feed_forward_length")?,
        num_hidden_layers: keys.required_size("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: keys.size("attention.head_count_kv")?.unwrap_or(heads),
        max_position_embeddings: keys.required_size("context_length")?,
        vocab_size: embedding.shape[0],
        hidden_act: if model_type == ModelType::Gpt2 { Activation::GeluPytorchTanh } else { Activation::Silu },
        tie_word_embeddings: file.find("output.weight").is_none(),
        attention_bias: model_type == ModelType::Llama && file.find("blk.0.attn_q.bias").is_some(),
        mlp_bias: model_type == ModelType::Llama && file.find("blk.0.ffn_down.bias").is_some(),
        precision: Precision::F32,
        ..preset("gpt2")?
    };
    let mut stated = None;
    if model_type.is_gated() {
        stated = gated_keys(&mut keys, &mut config)?;
    } else {
        config.layer_norm_eps = keys.required_number("attention.layer_norm_epsilon")?;
    }
    if model_type == ModelType::Bert {
        encoder_keys(&mut keys, &mut config)?;
    }
    keys.finish()?;
    config.bos_token_id = token(file, "tokenizer.ggml.bos_token_id", config.vocab_size);
    config.eos_token_id = token(file, "tokenizer.ggml.eos_token_id", config.vocab_size).into_iter().collect();
    config.validate().map_err(|error| file.error(None, error.to_string()))?;
    Ok((config, stated))
}

/// A special token, where it is one of the vocabulary.
fn token(file: &GgufFile, key: &str, vocabulary: usize) -> Option<u32> {
    let id = file.metadata().get(key)?.as_u64()?;
    u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary)
}

/// What Llama and BitNet have in common.
fn gated_keys(keys: &mut Keys<'_>, config: &mut ModelConfig) -> Result<Option<RopeScaling>> {
    config.rms_norm_eps = keys.required_number("attention.layer_norm_rms_epsilon")?;
    config.rope_theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    config.head_dim = keys.size("attention.key_length")?;
    if config.num_attention_heads == 0 {
        return Err(keys.file.error(None, "attention.head_count: expected at least 1, found 0"));
    }
    let head_dim = config.head_dim() as u64;
    if config.head_dim == Some(config.hidden_size / config.num_attention_heads) {
        config.head_dim = None;
    }
    keys.fixed("attention.value_length", head_dim)?;
    keys.fixed("rope.dimension_count", head_dim)?;
    keys.fixed("expert_count", 0)?;
    keys.fixed("expert_used_count", 0)?;
    let kind = keys.get("rope.scaling.type", "a name", |value| value.as_str().map(String::from))?;
    let factor = keys.number("rope.scaling.factor")?;
    config.rope_scaling = match (kind.as_deref(), factor) {
        (None | Some("none"), None) => None,
        (None | Some("linear"), Some(factor)) => Some(RopeScaling::Linear { factor }),
        (kind, factor) => {
            let message = format!("rope.scaling: expected none or linear with a factor, found {kind:?}, {factor:?}");
            return Err(keys.file.error(None, message));
        }
    };
    let Some(text) = keys.file.metadata().get(ROPE_SCALING_KEY).and_then(GgufValue::as_str) else { return Ok(None) };
    let stated = serde_json::from_str(text);
    stated
        .map(Some)
        .map_err(|error| keys.file.error(None, format!("{ROPE_SCALING_KEY}: {error}").escape_debug().to_string()))
}

/// Error: a model that llama.cpp would compute differently.
pub(super) fn check_obstacles(config: &ModelConfig) -> Result<()> {
    match config.llama_cpp_obstacle() {
        Some(obstacle) => Err(Error::Unsupported(format!("no export to gguf: {obstacle}"))),
        None => Ok(()),
    }
}
