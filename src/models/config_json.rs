//! `config.json`: reading what Hugging Face's transformers writes for each model type, and writing what it reads.
//!
//! A key is one of four: read into a [`ModelConfig`]; required to have the one value that is computed here; known to say
//! nothing about the computation; or unknown, which is an error, so that nothing is computed differently in silence.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::bart_json::bart;
use super::config::{Activation, ModelConfig, ModelType, WeightForm};
use super::encoder_json::{bert, read_head};
use super::head::Head;
use super::json_fields::Fields;
use super::quantization_json::{ONLINE, read_quantization};
use super::recurrent_json::recurrent;
use super::sharing::Sharing;
use crate::nn::ops::RopeScaling;
use crate::nn::{GradPrecision, HeadPrecision, Precision};
use crate::{Error, Result};

impl ModelConfig {
    /// Reads a `config.json`; `path` is for messages. What a file leaves out has transformers' default. Errors: not JSON, a
    /// missing or unknown key, an unknown architecture or activation, a value out of range; each names the key.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let mut fields = Fields::parse(text, path)?;
        let model_type: ModelType = fields.required("model_type")?;
        let (head, labels) = read_head(&mut fields, model_type)?;
        fields.fixed("is_encoder_decoder", json!(model_type == ModelType::Bart))?;
        fields.fixed("add_cross_attention", json!(false))?;
        let (bos_token_id, eos_token_id) = (fields.optional("bos_token_id")?, token_ids(&mut fields)?);
        let precision: Option<Precision> = fields.optional("precision")?;
        let quantized = read_quantization(&mut fields)?.then_some(Precision::Ternary);
        let shared = Shared {
            model_type,
            bos_token_id,
            eos_token_id,
            precision: precision.or(quantized).unwrap_or(Precision::F32),
            gradient_precision: fields.or("gradient_precision", GradPrecision::default())?,
            head_precision: fields.or("head_precision", HeadPrecision::default())?,
            weight_forms: fields.or("weight_forms", BTreeMap::new())?,
            vocab_size: fields.required("vocab_size")?,
            initializer_range: fields.or("initializer_range", 0.02)?,
            tie_word_embeddings: fields.or("tie_word_embeddings", !model_type.is_gated())?,
            parameter_sharing: fields.or("parameter_sharing", Sharing::default())?,
            head,
            labels,
        };
        let config = match model_type {
            ModelType::Gpt2 => gpt2(&mut fields, shared)?,
            ModelType::Bert => bert(&mut fields, shared)?,
            ModelType::Bart => bart(&mut fields, shared)?,
            ModelType::Lstm | ModelType::Gru => recurrent(&mut fields, shared)?,
            _ => llama(&mut fields, shared)?,
        };
        fields.finish("")?;
        config.validate().map_err(|error| Error::format(path, None, error.to_string()))?;
        Ok(config)
    }

    /// The text of a `config.json`, for transformers where it computes this model.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.to_keys()).expect("numbers and names become JSON") + "\n"
    }

    /// The keys of a `config.json`.
    pub(super) fn to_keys(&self) -> Map<String, Value> {
        let config = match self.model_type {
            ModelType::Gpt2 => self.gpt2_keys(),
            ModelType::Bert => self.bert_keys(),
            ModelType::Bart => self.bart_keys(),
            ModelType::Lstm | ModelType::Gru => self.recurrent_keys(),
            _ => self.llama_keys(),
        };
        let Value::Object(mut config) = config else { unreachable!("both forms are objects") };
        let eos = match &self.eos_token_id[..] {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        let rest = json!({
            "model_type": self.model_type.name(),
            "vocab_size": self.vocab_size,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": short(self.initializer_range),
            "torch_dtype": "float32",
            "precision": self.precision,
            "gradient_precision": self.gradient_precision,
            "head_precision": self.head_precision,
        });
        config.extend(rest.as_object().cloned().unwrap_or_default());
        if !self.parameter_sharing.is_empty() {
            config.insert("parameter_sharing".into(), json!(self.parameter_sharing));
        }
        if !self.weight_forms.is_empty() {
            config.insert("weight_forms".into(), json!(self.weight_forms));
        }
        if self.precision == Precision::Ternary && self.transformers_obstacle().is_none() {
            config.insert("quantization_config".into(), ONLINE.to_json());
        }
        config
    }

    /// Why transformers cannot compute this model, if so.
    pub fn transformers_obstacle(&self) -> Option<String> {
        let (quantized, form) = (self.precision != Precision::F32, self.model_type);
        if quantized && (!form.is_gated() || self.precision != Precision::Ternary) {
            return Some(format!("transformers has no {} layers for model_type {}", self.precision, form.name()));
        }
        if !self.weight_forms.is_empty() {
            return Some("transformers has no weight_forms: scales or precisions of single layers".into());
        }
        if self.sliding_window.is_some() && form != ModelType::Mistral {
            return Some(format!("transformers ignores sliding_window for model_type {}", form.name()));
        }
        if !self.parameter_sharing.is_empty() {
            return Some("transformers has no parameter_sharing; an export holds each layer's copy".into());
        }
        let none = form == ModelType::Plain || form.is_recurrent();
        none.then(|| format!("transformers has no model_type {}", form.name()))
    }

    fn gpt2_keys(&self) -> Value {
        json!({
            "architectures": ["GPT2LMHeadModel"],
            "n_embd": self.hidden_size,
            "n_inner": self.intermediate_size,
            "n_layer": self.num_hidden_layers,
            "n_head": self.num_attention_heads,
            "n_positions": self.max_position_embeddings,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": short(self.layer_norm_eps),
            "attn_pdrop": short(self.attention_dropout),
            "embd_pdrop": short(self.hidden_dropout),
            "resid_pdrop": short(self.hidden_dropout),
        })
    }

    fn llama_keys(&self) -> Value {
        let architecture = match self.model_type {
            ModelType::Bitnet => "BitNetForCausalLM",
            ModelType::Mistral => "MistralForCausalLM",
            ModelType::Llama => "LlamaForCausalLM",
            _ => "HybridqPlainForCausalLM",
        };
        let mut keys = json!({
            "architectures": [architecture],
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": short(self.rms_norm_eps),
            "hidden_act": self.hidden_act,
            "sliding_window": self.sliding_window,
        });
        let mut set = |key: &str, value: Value| keys[key] = value;
        if self.model_type == ModelType::Plain {
            set("layer_norm_eps", short(self.layer_norm_eps));
            return keys;
        }
        set("attention_dropout", short(self.attention_dropout));
        set("rope_theta", short(self.rope_theta));
        set("rope_scaling", self.rope_scaling.map_or(Value::Null, |scaling| rope_scaling_keys(&scaling)));
        if let Some(head_dim) = self.head_dim {
            set("head_dim", json!(head_dim));
        }
        if self.model_type == ModelType::Llama {
            set("attention_bias", json!(self.attention_bias));
            set("mlp_bias", json!(self.mlp_bias));
        }
        keys
    }
}

/// What the forms have in common.
pub(super) struct Shared {
    model_type: ModelType,
    bos_token_id: Option<u32>,
    eos_token_id: Vec<u32>,
    precision: Precision,
    gradient_precision: GradPrecision,
    head_precision: HeadPrecision,
    weight_forms: BTreeMap<String, WeightForm>,
    vocab_size: usize,
    initializer_range: f32,
    tie_word_embeddings: bool,
    parameter_sharing: Sharing,
    head: Head,
    labels: Vec<String>,
}

impl Shared {
    /// A configuration to be completed by a form.
    pub(super) fn config(self, hidden_act: Activation) -> ModelConfig {
        ModelConfig {
            model_type: self.model_type,
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: None,
            vocab_size: self.vocab_size,
            max_position_embeddings: 0,
            rms_norm_eps: 1e-6,
            layer_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            hidden_act,
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: self.tie_word_embeddings,
            parameter_sharing: self.parameter_sharing,
            initializer_range: self.initializer_range,
            sliding_window: None,
            bos_token_id: self.bos_token_id,
            eos_token_id: self.eos_token_id,
            decoder: None,
            decoder_start_token_id: None,
            head: self.head,
            labels: self.labels,
            type_vocab_size: 1,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            precision: self.precision,
            gradient_precision: self.gradient_precision,
            head_precision: self.head_precision,
            weight_forms: self.weight_forms,
        }
    }
}

fn gpt2(fields: &mut Fields<'_>, shared: Shared) -> Result<ModelConfig> {
    fields.fixed("scale_attn_weights", json!(true))?;
    fields.fixed("scale_attn_by_inverse_layer_idx", json!(false))?;
    let hidden_size: usize = fields.required("n_embd")?;
    let heads = fields.required("n_head")?;
    let hidden_act = fields.or("activation_function", Activation::GeluPytorchTanh)?;
    // Where a file names no dropout there is none: configurations are written by hand, too.
    let (embedded, residual): (Option<f32>, Option<f32>) =
        (fields.optional("embd_pdrop")?, fields.optional("resid_pdrop")?);
    if let (Some(embedded), Some(residual)) = (embedded, residual)
        && embedded != residual
    {
        return Err(fields.error(format!("embd_pdrop: expected {residual}, as resid_pdrop, found {embedded}")));
    }
    Ok(ModelConfig {
        hidden_size,
        hidden_dropout: residual.or(embedded).unwrap_or(0.0),
        attention_dropout: fields.or("attn_pdrop", 0.0)?,
        intermediate_size: fields.or("n_inner", hidden_size.saturating_mul(4))?,
        num_hidden_layers: fields.required("n_layer")?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        max_position_embeddings: fields.required("n_positions")?,
        layer_norm_eps: fields.or("layer_norm_epsilon", 1e-5)?,
        ..shared.config(hidden_act)
    })
}

/// Llama, Mistral, BitNet, and the plain form with the same keys.
fn llama(fields: &mut Fields<'_>, shared: Shared) -> Result<ModelConfig> {
    let model_type = shared.model_type;
    let bitnet = model_type == ModelType::Bitnet;
    let heads = fields.required("num_attention_heads")?;
    let (rope_theta, rope_scaling) = rope(fields, if bitnet { 500_000.0 } else { 10_000.0 })?;
    // Mistral's files without the key mean the window of its first version, those with null mean none.
    let windowless = model_type != ModelType::Mistral || fields.map.contains_key("sliding_window");
    let hidden_act = fields.required("hidden_act")?;
    Ok(ModelConfig {
        hidden_size: fields.required("hidden_size")?,
        intermediate_size: fields.required("intermediate_size")?,
        num_hidden_layers: fields.required("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: fields.or("num_key_value_heads", heads)?,
        head_dim: fields.optional("head_dim")?,
        max_position_embeddings: fields.required("max_position_embeddings")?,
        rms_norm_eps: fields.or("rms_norm_eps", if bitnet { 1e-5 } else { 1e-6 })?,
        layer_norm_eps: fields.or("layer_norm_eps", 1e-5)?,
        rope_theta,
        rope_scaling,
        attention_bias: fields.or("attention_bias", false)?,
        mlp_bias: fields.or("mlp_bias", false)?,
        sliding_window: fields.optional("sliding_window")?.or((!windowless).then_some(4096)),
        attention_dropout: fields.or("attention_dropout", 0.0)?,
        ..shared.config(hidden_act)
    })
}

/// One id, or a list of them.
fn token_ids(fields: &mut Fields<'_>) -> Result<Vec<u32>> {
    const KEY: &str = "eos_token_id";
    match fields.map.get(KEY) {
        Some(Value::Array(_)) => fields.required(KEY),
        _ => Ok(fields.optional(KEY)?.into_iter().collect()),
    }
}

/// `rope_theta` with `rope_scaling` (transformers 4), or both in `rope_parameters` (transformers 5).
fn rope(fields: &mut Fields<'_>, default_theta: f32) -> Result<(f32, Option<RopeScaling>)> {
    let mut theta = fields.or("rope_theta", default_theta)?;
    let context = fields.map.get("max_position_embeddings").cloned();
    let mut scaling = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(mut rope) = fields.object(key)? else { continue };
        theta = rope.or("rope_theta", theta)?;
        rope.fixed("partial_rotary_factor", json!(1.0))?;
        let old_name = rope.map.remove("type");
        let kind = rope.map.get("rope_type").cloned().or(old_name).unwrap_or(json!("default"));
        if kind == "default" {
            continue;
        }
        if kind == "llama3" && !rope.map.contains_key("original_max_position_embeddings") {
            rope.map.insert("original_max_position_embeddings".into(), context.clone().unwrap_or_default());
        }
        rope.map.insert("rope_type".into(), kind);
        let parsed = serde_json::from_value(Value::Object(std::mem::take(&mut rope.map)));
        scaling = Some(parsed.map_err(|error| rope.error(format!("{key}: {error}")))?);
    }
    fields.fixed("partial_rotary_factor", json!(1.0))?;
    Ok((theta, scaling))
}

fn rope_scaling_keys(scaling: &RopeScaling) -> Value {
    match *scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": short(factor)}),
        RopeScaling::Dynamic { factor } => json!({"rope_type": "dynamic", "factor": short(factor)}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3",
            "factor": short(factor),
            "low_freq_factor": short(low_freq_factor),
            "high_freq_factor": short(high_freq_factor),
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    }
}

/// The shortest number that reads back as `value`.
pub(super) fn short(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().expect("a number's text is a number"))
}

#[cfg(test)]
mod tests {
    use super::super::{PRESETS, preset};
    use super::*;

    fn read(text: &str) -> Result<ModelConfig> {
        ModelConfig::from_json(text, Path::new("c.json"))
    }

    const LLAMA: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 172, "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4,
        "vocab_size": 512, "max_position_embeddings": 512, "hidden_act": "silu", "attention_bias": false}"#;

    #[test]
    fn every_form_comes_back() {
        for name in PRESETS {
            let mut config = preset(name).unwrap();
            assert_eq!(read(&config.to_json()).unwrap(), config);
            (config.precision, config.initializer_range) = (Precision::F32, 0.013);
            (config.bos_token_id, config.eos_token_id) = (Some(3), vec![4, 5]);
            let (recurrent, plain) = (config.model_type.is_recurrent(), config.model_type == ModelType::Plain);
            config.attention_dropout = if recurrent || plain { 0.0 } else { 0.07 };
            assert_eq!(read(&config.to_json()).unwrap(), config);
        }
        let (factor, low_freq_factor, high_freq_factor) = (8.0, 1.0, 4.0);
        let original_max_position_embeddings = 100;
        for scaling in [
            RopeScaling::Linear { factor },
            RopeScaling::Dynamic { factor },
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings },
        ] {
            let config = ModelConfig { rope_scaling: Some(scaling), head_dim: Some(6), ..read(LLAMA).unwrap() };
            assert_eq!(read(&config.to_json()).unwrap(), config);
        }
    }

    #[test]
    fn hugging_face_files_are_read() {
        let config = read(LLAMA).unwrap();
        assert_eq!((config.precision, config.head_dim(), config.rms_norm_eps), (Precision::F32, 8, 1e-6));
        assert!(!config.tie_word_embeddings);
        let changed = |key: &str, value: Value| {
            let mut json: Value = serde_json::from_str(LLAMA).unwrap();
            json[key] = value;
            read(&json.to_string())
        };
        let theta5 = json!({"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0});
        let config = changed("rope_parameters", theta5).unwrap();
        assert_eq!((config.rope_theta, config.rope_scaling), (5e5, Some(RopeScaling::Linear { factor: 2.0 })));
        let theta4 = json!({"type": "dynamic", "factor": 2.0});
        let config = changed("rope_scaling", theta4).unwrap();
        assert_eq!((config.rope_theta, config.context_length()), (1e4, 1024));
        assert_eq!(changed("eos_token_id", json!([2, 3])).unwrap().eos_token_id, [2, 3]);
        let gpt2 = r#"{"model_type": "gpt2", "n_embd": 12, "n_head": 3, "n_layer": 1, "n_positions": 9, "vocab_size": 7,
            "activation_function": "gelu_new", "n_inner": null, "resid_pdrop": 0.1}"#;
        let config = read(gpt2).unwrap();
        assert_eq!((config.intermediate_size, config.tie_word_embeddings), (48, true));
        assert_eq!((config.hidden_dropout, config.attention_dropout), (0.1, 0.0));
        let unequal = gpt2.replace("0.1", "0.1, \"embd_pdrop\": 0.2, \"attn_pdrop\": 0.3");
        assert!(
            read(&unequal).unwrap_err().to_string().contains("embd_pdrop: expected 0.1, as resid_pdrop, found 0.2")
        );
        let config = changed("attention_dropout", json!(0.25)).unwrap();
        assert_eq!(config.attention_dropout, 0.25);
        let message = |key: &str, value: Value| changed(key, value).unwrap_err().to_string();
        assert_eq!(
            message("mlp_bias", json!("yes")),
            r#"c.json: mlp_bias: invalid type: string \"yes\", expected a boolean"#
        );
        assert!(message("model_type", json!("mamba")).contains("model_type: unknown variant `mamba`, expected one of"));
        assert!(message("hidden_act", json!("mish")).contains("hidden_act: unknown variant `mish`, expected one of"));
        assert!(message("hiden_act", json!("silu")).contains("hiden_act: unknown key"));
        assert!(message("vocab_size", Value::Null).contains("vocab_size: missing"));
        assert!(message("vocab_size", json!(-5)).contains("vocab_size: "));
        assert!(
            message("add_cross_attention", json!(true)).contains("add_cross_attention: expected false, found true")
        );
        let yarn = json!({"rope_type": "yarn", "factor": 4.0});
        assert!(message("rope_scaling", yarn).contains("rope_scaling: unknown variant `yarn`"));
        let unknown = json!({"rope_type": "linear", "factor": 4.0, "faktor": 3});
        assert!(message("rope_scaling", unknown).contains("faktor"));
        assert!(message("quantization_config", json!({"quant_method": "gptq"})).contains("quant_method"));
        assert!(read("[]").unwrap_err().to_string().contains("object"));
    }
}
