//! The configuration of a model, with the field names of Hugging Face's Llama.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::head::Head;
use super::sharing::Sharing;
use crate::nn::ops::{AttentionShape, RopeScaling};
use crate::nn::{GradPrecision, HeadPrecision, Precision};
use crate::{Error, Result};

/// Largest width, feed-forward width and head dimension.
const MAX_WIDTH: usize = 1 << 17;
/// Most layers.
const MAX_LAYERS: usize = 4096;
/// Largest vocabulary.
const MAX_VOCABULARY: usize = 1 << 24;
/// Longest context.
pub(super) const MAX_POSITIONS: usize = 1 << 22;
/// Most labels and token types.
const MAX_LABELS: usize = 1 << 16;
/// Most parameters: 2^40 f32 weights would be 4 TiB.
const MAX_PARAMETERS: u128 = 1 << 40;

/// The form of the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelType {
    /// BitNet b1.58 2B4T: RMS pre-norms, RoPE, gated feed-forward, and sub-norms before `o_proj` and `down_proj`.
    Bitnet,
    /// The same without sub-norms.
    Llama,
    /// Llama whose queries may see a window only.
    Mistral,
    /// GPT-2: learned positions, LayerNorms, GELU, fused `c_attn`, biases everywhere.
    Gpt2,
    /// GPT-2 as it is trained here: quantized, each linear layer has its own RMSNorm and no bias, and the blocks have no
    /// norms; in f32 it is GPT-2 with shorter names.
    Plain,
    /// BERT: an encoder, for classification, spans and masked tokens.
    Bert,
    /// BART: an encoder-decoder.
    Bart,
    /// Layers of long short-term memory.
    Lstm,
    /// Layers of gated recurrent units.
    Gru,
}

impl ModelType {
    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            ModelType::Bitnet => "bitnet",
            ModelType::Llama => "llama",
            ModelType::Mistral => "mistral",
            ModelType::Gpt2 => "gpt2",
            ModelType::Plain => "plain",
            ModelType::Bert => "bert",
            ModelType::Bart => "bart",
            ModelType::Lstm => "lstm",
            ModelType::Gru => "gru",
        }
    }

    /// Llama's blocks.
    pub(super) fn is_gated(self) -> bool {
        matches!(self, ModelType::Bitnet | ModelType::Llama | ModelType::Mistral)
    }

    /// Layers that hand a state on, without attention.
    pub(super) fn is_recurrent(self) -> bool {
        matches!(self, ModelType::Lstm | ModelType::Gru)
    }

    /// GPT-2's blocks, with learned positions.
    pub(super) fn is_plain(self) -> bool {
        matches!(self, ModelType::Gpt2 | ModelType::Plain)
    }
}

/// The activation function of the feed-forward layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)` on the gate (gated forms).
    #[serde(alias = "swish")]
    Silu,
    /// `max(x, 0)^2` on the gate (gated forms).
    Relu2,
    /// GELU, tanh form ([`ModelType::Gpt2`], [`ModelType::Plain`], [`ModelType::Bert`]).
    #[serde(alias = "gelu_new")]
    GeluPytorchTanh,
    /// GELU with the normal distribution itself ([`ModelType::Bert`]).
    Gelu,
    /// `max(x, 0)` ([`ModelType::Bert`]).
    Relu,
    /// `tanh(x)` ([`ModelType::Lstm`] and [`ModelType::Gru`]).
    Tanh,
}

/// Sizes of the decoder of an encoder-decoder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecoderSizes {
    /// Blocks.
    pub layers: usize,
    /// Query, key and value heads; they divide the model's width.
    pub heads: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
}

/// Sizes and forms of a model. [`ModelConfig::to_json`] makes the `config.json` of a Hugging Face folder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The form of the network.
    pub model_type: ModelType,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; they divide `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Elements of a head; `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Longest sequence of the training.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f32,
    /// Added to the variance in LayerNorms.
    pub layer_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Change of the rotary frequencies for longer contexts.
    pub rope_scaling: Option<RopeScaling>,
    /// Activation function.
    pub hidden_act: Activation,
    /// Whether the projections of attention have biases ([`ModelType::Llama`]).
    pub attention_bias: bool,
    /// Whether the feed-forward layers have biases ([`ModelType::Llama`]).
    pub mlp_bias: bool,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Blocks that share their linear layers.
    pub parameter_sharing: Sharing,
    /// Standard deviation of initial weights.
    pub initializer_range: f32,
    /// Positions a query sees, itself included; `None`: all before it.
    pub sliding_window: Option<usize>,
    /// Id that starts a text.
    pub bos_token_id: Option<u32>,
    /// Ids that end a text.
    pub eos_token_id: Vec<u32>,
    /// The decoder ([`ModelType::Bart`]); the sizes above are then the encoder's.
    pub decoder: Option<DecoderSizes>,
    /// Id that a decoder's text begins with ([`ModelType::Bart`]).
    pub decoder_start_token_id: Option<u32>,
    /// What the model predicts.
    pub head: Head,
    /// Names of a classification's labels.
    pub labels: Vec<String>,
    /// Segments that tokens may belong to ([`ModelType::Bert`]).
    pub type_vocab_size: usize,
    /// Share of activations dropped in training: behind embeddings and linear layers ([`ModelType::Bert`], [`ModelType::Bart`],
    /// [`ModelType::Gpt2`]), around recurrent layers.
    pub hidden_dropout: f32,
    /// Share of attention's probabilities dropped in training (all forms with attention but [`ModelType::Plain`]).
    pub attention_dropout: f32,
    /// Form of the linear layers' weights; embeddings, head and norms are always f32.
    pub precision: Precision,
    /// Arithmetic of the linear layers' backward products.
    pub gradient_precision: GradPrecision,
    /// Arithmetic of the head in training.
    pub head_precision: HeadPrecision,
    /// Quantized matrices, by name, that are not rounded as `precision` says: what a run decided for each.
    pub weight_forms: BTreeMap<String, WeightForm>,
}

/// How one quantized matrix is rounded.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightForm {
    /// Its form.
    pub precision: Precision,
    /// Whether its output scale is the one of least squared error ([`crate::quant::OutputScale`]).
    pub least_squares: bool,
    /// Factor on that scale.
    pub factor: f32,
}

impl ModelConfig {
    /// Elements of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Longest sequence the model takes: that of its training, or with [`RopeScaling::Dynamic`] `factor` times as much.
    pub fn context_length(&self) -> usize {
        match self.rope_scaling {
            Some(RopeScaling::Dynamic { factor }) => (self.max_position_embeddings as f64 * f64::from(factor)) as usize,
            _ => self.max_position_embeddings,
        }
    }

    /// Heads and reach of the attention layers.
    pub(super) fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim(),
            window: self.sliding_window,
            dropout: self.attention_dropout,
        }
    }

    /// Error: a model that does not write text from left to right.
    pub fn check_language_model(&self) -> Result<()> {
        if self.head == Head::LanguageModel {
            return Ok(());
        }
        let found = format!("{:?} of model_type {}", self.head, self.model_type.name());
        Err(Error::invalid("model", "one with a head for the next token", found))
    }

    /// Checks every field. Errors name the field, what it may be, and what it is.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, self.hidden_size),
            ("head_dim", self.head_dim.unwrap_or(1), MAX_WIDTH),
            ("num_key_value_heads", self.num_key_value_heads, self.num_attention_heads),
            ("vocab_size", self.vocab_size, MAX_VOCABULARY),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
            ("sliding_window", self.sliding_window.unwrap_or(1), MAX_POSITIONS),
            ("type_vocab_size", self.type_vocab_size, MAX_LABELS),
            ("number of labels", self.labels.len(), MAX_LABELS),
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
        if self.head_dim.is_none() {
            divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)?;
        }
        if let Some(decoder) = self.decoder {
            for (name, value, most) in [
                ("decoder_layers", decoder.layers, MAX_LAYERS),
                ("decoder_ffn_dim", decoder.intermediate_size, MAX_WIDTH),
                ("decoder_attention_heads", decoder.heads, self.hidden_size),
            ] {
                if value == 0 || value > most {
                    return Err(Error::invalid(name, format!("1 to {most}"), value));
                }
            }
            divides("decoder_attention_heads", decoder.heads, "d_model", self.hidden_size)?;
        }
        divides("num_key_value_heads", self.num_key_value_heads, "num_attention_heads", self.num_attention_heads)?;
        self.validate_form()?;
        let layers = self.num_hidden_layers.max(self.decoder.map_or(0, |decoder| decoder.layers));
        self.parameter_sharing.validate(layers)?;
        let same = |decoder: DecoderSizes| {
            (decoder.layers, decoder.intermediate_size) == (self.num_hidden_layers, self.intermediate_size)
        };
        if self.parameter_sharing.joins_stacks() && !self.decoder.is_some_and(same) {
            let expected = "an encoder and a decoder of the same sizes for encoder-decoder";
            return Err(Error::invalid("parameter_sharing", expected, format!("{:?}", self.decoder)));
        }
        for (name, value, least, most) in [
            ("rms_norm_eps", self.rms_norm_eps, 1e-12, 1.0),
            ("layer_norm_eps", self.layer_norm_eps, 1e-12, 1.0),
            ("rope_theta", self.rope_theta, 1.0, 1e12),
            ("initializer_range", self.initializer_range, 0.0, 100.0),
            ("hidden_dropout", self.hidden_dropout, 0.0, 0.999),
            ("attention_dropout", self.attention_dropout, 0.0, 0.999),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::invalid(name, format!("{least:e} to {most:e}"), value));
            }
        }
        let ends = self.eos_token_id.iter().map(|&id| ("eos_token_id", id));
        let start = self.decoder_start_token_id.map(|id| ("decoder_start_token_id", id));
        for (name, id) in self.bos_token_id.map(|id| ("bos_token_id", id)).into_iter().chain(start).chain(ends) {
            if id as usize >= self.vocab_size {
                return Err(Error::invalid(name, format!("below vocab_size = {}", self.vocab_size), id));
            }
        }
        let parameters = self.approximate_parameters();
        if parameters > MAX_PARAMETERS {
            return Err(Error::invalid("model size", format!("at most {MAX_PARAMETERS} parameters"), parameters));
        }
        Ok(())
    }

    /// What the form allows and what it does not have.
    fn validate_form(&self) -> Result<()> {
        let refuse = |name: &str, expected: &str, found: &dyn std::fmt::Display| {
            Err(Error::invalid(name, format!("{expected} (model_type {})", self.model_type.name()), found))
        };
        let (plain, llama) = (!self.model_type.is_gated(), self.model_type == ModelType::Llama);
        let attention_width = self.head_dim() * self.num_attention_heads;
        if attention_width > MAX_WIDTH {
            return refuse("head_dim", &format!("at most {MAX_WIDTH} elements in all heads"), &attention_width);
        }
        if plain && self.num_key_value_heads != self.num_attention_heads {
            return refuse("num_key_value_heads", "as many as num_attention_heads", &self.num_key_value_heads);
        }
        let (activations, expected): (&[Activation], _) = match self.model_type {
            ModelType::Bitnet | ModelType::Llama | ModelType::Mistral => {
                (&[Activation::Silu, Activation::Relu2], "silu or relu2")
            }
            ModelType::Gpt2 | ModelType::Plain => (&[Activation::GeluPytorchTanh], "gelu_new"),
            ModelType::Bert | ModelType::Bart => {
                (&[Activation::Gelu, Activation::GeluPytorchTanh, Activation::Relu], "gelu, gelu_new or relu")
            }
            ModelType::Lstm | ModelType::Gru => (&[Activation::Tanh], "tanh"),
        };
        if !activations.contains(&self.hidden_act) {
            return refuse("hidden_act", expected, &format!("{:?}", self.hidden_act));
        }
        let (bert, recurrent) = (self.model_type == ModelType::Bert, self.model_type.is_recurrent());
        let bart = self.model_type == ModelType::Bart;
        let (fits, expected) = match self.model_type {
            ModelType::Bert => (!matches!(self.head, Head::LanguageModel | Head::Seq2Seq), "a head of encoders"),
            ModelType::Bart => (self.head == Head::Seq2Seq, "Seq2Seq"),
            _ => (self.head == Head::LanguageModel, "LanguageModel"),
        };
        if !fits {
            return refuse("head", expected, &format!("{:?}", self.head));
        }
        if bart != self.decoder.is_some() {
            return refuse("decoder", if bart { "one" } else { "none" }, &if bart { "none" } else { "one" });
        }
        if bart && !self.tie_word_embeddings {
            // transformers then has three tables more, for encoder, decoder and head.
            return refuse("tie_word_embeddings", "true", &false);
        }
        if (bert || bart || recurrent) && self.sliding_window.is_some() {
            return refuse("sliding_window", "none", &"one");
        }
        if bert && self.head_precision != HeadPrecision::F32 {
            return refuse("head_precision", "f32", &"int8");
        }
        if !bert && self.type_vocab_size != 1 {
            return refuse("type_vocab_size", "1", &self.type_vocab_size);
        }
        let gpt2 = self.model_type == ModelType::Gpt2;
        if !bert && !bart && !recurrent && !gpt2 && self.hidden_dropout != 0.0 {
            return refuse("hidden_dropout", "0", &self.hidden_dropout);
        }
        if (recurrent || self.model_type == ModelType::Plain) && self.attention_dropout != 0.0 {
            return refuse("attention_dropout", "0", &self.attention_dropout);
        }
        if (plain || self.model_type == ModelType::Bitnet) && attention_width != self.hidden_size {
            return refuse("head_dim", "hidden_size / num_attention_heads", &self.head_dim());
        }
        if plain && self.rope_scaling.is_some() {
            return refuse("rope_scaling", "none", &"one");
        }
        if !llama && (self.attention_bias || self.mlp_bias) {
            return refuse(if self.mlp_bias { "mlp_bias" } else { "attention_bias" }, "false", &true);
        }
        if !plain && !self.head_dim().is_multiple_of(2) {
            return refuse("head_dim", "an even number (rotary pairs)", &self.head_dim());
        }
        self.validate_rope_scaling()
    }

    fn validate_rope_scaling(&self) -> Result<()> {
        let factor = |name: &str, value: f32, least: f32| match (least..=1e6).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("rope_scaling.{name}"), format!("{least} to 1000000"), value)),
        };
        match self.rope_scaling {
            None => Ok(()),
            Some(RopeScaling::Linear { factor: by }) => factor("factor", by, 1.0),
            Some(RopeScaling::Dynamic { factor: by }) => {
                factor("factor", by, 1.0)?;
                if self.head_dim() < 4 {
                    return Err(Error::invalid("head_dim", "at least 4 for dynamic rope_scaling", self.head_dim()));
                }
                if self.context_length() > MAX_POSITIONS {
                    let expected = format!("a context of at most {MAX_POSITIONS} tokens");
                    return Err(Error::invalid("rope_scaling.factor", expected, self.context_length()));
                }
                Ok(())
            }
            Some(RopeScaling::Llama3 {
                factor: by,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }) => {
                factor("factor", by, 1.0)?;
                factor("low_freq_factor", low, 0.0)?;
                factor("high_freq_factor", high, 0.0)?;
                if high <= low {
                    return Err(Error::invalid("rope_scaling.high_freq_factor", format!("above {low}"), high));
                }
                if !(1..=MAX_POSITIONS).contains(&original) {
                    let name = "rope_scaling.original_max_position_embeddings";
                    return Err(Error::invalid(name, format!("1 to {MAX_POSITIONS}"), original));
                }
                Ok(())
            }
        }
    }

    /// Parameters of the matrices and tables (norms and biases left out), without overflow.
    pub(crate) fn approximate_parameters(&self) -> u128 {
        let (hidden, ffn) = (self.hidden_size as u128, self.intermediate_size as u128);
        if self.model_type.is_recurrent() {
            let tables = if self.tie_word_embeddings { 1 } else { 2 };
            return self.num_hidden_layers as u128 * 8 * hidden * hidden + tables * self.vocab_size as u128 * hidden;
        }
        let head_dim = self.head_dim() as u128;
        let (heads, kv_heads) = (self.num_attention_heads as u128, self.num_key_value_heads as u128);
        let feed_forward = if self.model_type.is_gated() { 3 * hidden * ffn } else { 2 * hidden * ffn };
        let block = 2 * hidden * head_dim * (heads + kv_heads) + feed_forward;
        let decoder = self.decoder.map_or(0, |decoder| {
            decoder.layers as u128 * (8 * hidden * hidden + 2 * hidden * decoder.intermediate_size as u128)
        });
        let tables = if self.tie_word_embeddings { 1 } else { 2 } * self.vocab_size as u128
            + if self.model_type.is_gated() { 0 } else { self.max_position_embeddings as u128 };
        self.num_hidden_layers as u128 * block + decoder + tables * hidden
    }
}

#[cfg(test)]
mod tests {
    use super::super::preset;
    use super::*;

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
