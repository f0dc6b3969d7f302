//! The configuration of a decoder language model, with Hugging Face's field names.
#![forbid(unsafe_code)]

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::nn::{GradPrecision, Precision};
use crate::{Error, Result};

/// Largest width, feed-forward width and head dimension.
const MAX_WIDTH: usize = 1 << 17;
/// Most layers.
const MAX_LAYERS: usize = 4096;
/// Largest vocabulary.
const MAX_VOCABULARY: usize = 1 << 24;
/// Longest context.
const MAX_POSITIONS: usize = 1 << 22;
/// Most parameters: 2^40 f32 weights would be 4 TiB.
const MAX_PARAMETERS: u128 = 1 << 40;

/// The form of the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelType {
    /// BitNet b1.58 2B4T: RMS pre-norms, RoPE, gated feed-forward, and sub-norms before `o_proj` and `down_proj`.
    Bitnet,
    /// The same without sub-norms: f32 only.
    Llama,
    /// GPT-2 class: learned positions, GELU, fused `qkv`. Quantized, each linear layer has its own RMSNorm; in f32 the
    /// blocks have LayerNorms and the layers biases.
    Plain,
}

/// The activation function of the feed-forward layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)` on the gate ([`ModelType::Bitnet`] and [`ModelType::Llama`]).
    Silu,
    /// `max(x, 0)^2` on the gate ([`ModelType::Bitnet`] and [`ModelType::Llama`]).
    Relu2,
    /// GELU, tanh form ([`ModelType::Plain`]).
    GeluPytorchTanh,
}

/// Sizes and forms of a decoder language model. Serialized, it is the `config.json` of a Hugging Face folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The form of the network.
    pub model_type: ModelType,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads; they divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Key and value heads; they divide `num_attention_heads`. Left out of a file: as many as query heads.
    #[serde(default)]
    pub num_key_value_heads: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMS norms (LayerNorms of the plain f32 form use 1e-5).
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f32,
    /// Activation function.
    pub hidden_act: Activation,
    /// Whether the head is the embedding table.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
    /// Standard deviation of initial weights.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f32,
    /// Positions a query sees, itself included; `None`: all before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// Id that starts a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Id that ends a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<u32>,
    /// Form of the linear layers' weights; embeddings, head and norms are always f32. Left out of a file: f32.
    #[serde(default = "default_file_precision")]
    pub precision: Precision,
    /// Arithmetic of the linear layers' backward products.
    #[serde(default)]
    pub gradient_precision: GradPrecision,
}

fn default_eps() -> f32 {
    1e-6
}

fn default_rope_theta() -> f32 {
    10_000.0
}

fn default_true() -> bool {
    true
}

fn default_initializer_range() -> f32 {
    0.02
}

fn default_file_precision() -> Precision {
    Precision::F32
}

/// Keys of Hugging Face files that say nothing about the computation here.
const IGNORED_KEYS: &[&str] = &[
    "architectures",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "pad_token_id",
    "pretraining_tp",
    "_name_or_path",
];

/// Keys that would change the computation, with the only value that is computed.
const FIXED_KEYS: &[(&str, serde_json::Value)] = &[
    ("attention_bias", serde_json::Value::Bool(false)),
    ("mlp_bias", serde_json::Value::Bool(false)),
    ("rope_scaling", serde_json::Value::Null),
    ("quantization_config", serde_json::Value::Null),
];

impl ModelConfig {
    /// Reads a `config.json`; `path` is for messages. Errors: not JSON, a missing or unknown key, a value out of range.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let fault = |error: &dyn std::fmt::Display| Error::format(path, None, error.to_string());
        let mut value: serde_json::Value = serde_json::from_str(text).map_err(|error| fault(&error))?;
        if let Some(keys) = value.as_object_mut() {
            keys.retain(|key, _| !IGNORED_KEYS.contains(&key.as_str()));
            for (key, expected) in FIXED_KEYS {
                if let Some(found) = keys.remove(*key).filter(|found| found != expected) {
                    return Err(Error::format(path, None, format!("{key}: expected {expected}, found {found}")));
                }
            }
        }
        let mut config: ModelConfig = serde_json::from_value(value).map_err(|error| fault(&error))?;
        if config.num_key_value_heads == 0 {
            config.num_key_value_heads = config.num_attention_heads;
        }
        config.validate()?;
        Ok(config)
    }

    /// The text of a `config.json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a configuration has only numbers and names") + "\n"
    }

    /// Elements of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Checks every field. Errors name the field, what it may be, and what it is.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, self.hidden_size),
            ("num_key_value_heads", self.num_key_value_heads, self.num_attention_heads),
            ("vocab_size", self.vocab_size, MAX_VOCABULARY),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
            ("sliding_window", self.sliding_window.unwrap_or(1), MAX_POSITIONS),
        ];
        for (name, value, most) in sizes {
            if value == 0 || value > most {
                return Err(Error::invalid(name, format!("1 to {most}"), value));
            }
        }
        let divides = |name: &str, divisor: usize, of: &str, number: usize| match number % divisor {
            0 => Ok(()),
            _ => Err(Error::invalid(name, format!("a divisor of {of} = {number}"), divisor)),
        };
        divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)?;
        divides("num_key_value_heads", self.num_key_value_heads, "num_attention_heads", self.num_attention_heads)?;
        let plain = self.model_type == ModelType::Plain;
        if !plain && !self.head_dim().is_multiple_of(2) {
            let expected = "hidden_size / num_attention_heads even (rotary pairs)";
            return Err(Error::invalid("num_attention_heads", expected, self.head_dim()));
        }
        if plain && self.num_key_value_heads != self.num_attention_heads {
            let expected = format!("num_attention_heads = {} in the plain form", self.num_attention_heads);
            return Err(Error::invalid("num_key_value_heads", expected, self.num_key_value_heads));
        }
        if plain != (self.hidden_act == Activation::GeluPytorchTanh) {
            let expected = if plain { "gelu_pytorch_tanh in the plain form" } else { "silu or relu2 in a gated form" };
            return Err(Error::invalid("hidden_act", expected, format!("{:?}", self.hidden_act)));
        }
        if self.model_type == ModelType::Llama && self.precision != Precision::F32 {
            let expected = "f32 for model_type llama (bitnet has the norms that quantized layers need)";
            return Err(Error::invalid("precision", expected, format!("{:?}", self.precision)));
        }
        for (name, value, least, most) in [
            ("rms_norm_eps", self.rms_norm_eps, 1e-12, 1.0),
            ("rope_theta", self.rope_theta, 1.0, 1e12),
            ("initializer_range", self.initializer_range, 0.0, 100.0),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::invalid(name, format!("{least:e} to {most:e}"), value));
            }
        }
        for (name, id) in [("bos_token_id", self.bos_token_id), ("eos_token_id", self.eos_token_id)] {
            if let Some(id) = id.filter(|&id| id as usize >= self.vocab_size) {
                return Err(Error::invalid(name, format!("below vocab_size = {}", self.vocab_size), id));
            }
        }
        let parameters = self.approximate_parameters();
        if parameters > MAX_PARAMETERS {
            return Err(Error::invalid("model size", format!("at most {MAX_PARAMETERS} parameters"), parameters));
        }
        Ok(())
    }

    /// Parameters of the matrices and tables (norms and biases left out), without overflow.
    fn approximate_parameters(&self) -> u128 {
        let (hidden, ffn) = (self.hidden_size as u128, self.intermediate_size as u128);
        let kv_width = (self.head_dim() * self.num_key_value_heads) as u128;
        let feed_forward = if self.model_type == ModelType::Plain { 2 * hidden * ffn } else { 3 * hidden * ffn };
        let block = 2 * hidden * (hidden + kv_width) + feed_forward;
        let tables = if self.tie_word_embeddings { 1 } else { 2 } * self.vocab_size as u128
            + if self.model_type == ModelType::Plain { self.max_position_embeddings as u128 } else { 0 };
        self.num_hidden_layers as u128 * block + tables * hidden
    }
}

#[cfg(test)]
mod tests {
    use super::super::preset;
    use super::*;

    #[test]
    fn json_round_trip_and_hugging_face_keys() {
        let config = preset("tiny").unwrap();
        assert_eq!(ModelConfig::from_json(&config.to_json(), Path::new("config.json")).unwrap(), config);
        let llama = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 172, "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4,
            "vocab_size": 512, "max_position_embeddings": 512, "hidden_act": "silu", "attention_bias": false}"#;
        let config = ModelConfig::from_json(llama, Path::new("config.json")).unwrap();
        assert_eq!((config.precision, config.head_dim(), config.rms_norm_eps), (Precision::F32, 8, 1e-6));
        let biased = llama.replace("\"attention_bias\": false", "\"attention_bias\": true");
        let error = ModelConfig::from_json(&biased, Path::new("c.json")).unwrap_err().to_string();
        assert_eq!(error, "c.json: attention_bias: expected false, found true");
        let unknown = llama.replace("hidden_act", "hiden_act");
        assert!(ModelConfig::from_json(&unknown, Path::new("c.json")).unwrap_err().to_string().contains("hiden_act"));
    }

    #[test]
    fn wrong_values_are_named() {
        let good = preset("small-plain").unwrap();
        let message = |change: fn(&mut ModelConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(message(|c| c.hidden_size = 0).starts_with("hidden_size: expected 1 to"));
        assert!(message(|c| c.hidden_size = usize::MAX).starts_with("hidden_size"));
        assert!(message(|c| c.num_attention_heads = 7).contains("divisor of hidden_size = 384, found 7"));
        assert!(message(|c| c.num_key_value_heads = 4).starts_with("num_key_value_heads"));
        assert!(message(|c| c.rms_norm_eps = f32::NAN).starts_with("rms_norm_eps"));
        assert!(message(|c| c.hidden_act = Activation::Silu).starts_with("hidden_act"));
        assert!(message(|c| c.bos_token_id = Some(256)).starts_with("bos_token_id: expected below vocab_size = 256"));
        let huge = |c: &mut ModelConfig| {
            (c.hidden_size, c.intermediate_size, c.num_hidden_layers) = (1 << 17, 1 << 17, 4096);
            (c.num_attention_heads, c.num_key_value_heads) = (1 << 10, 1 << 10);
        };
        assert!(message(huge).starts_with("model size"));
    }
}
