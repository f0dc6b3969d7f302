//! Model sizes by name.
#![forbid(unsafe_code)]

use super::config::{Activation, DecoderSizes, MAX_POSITIONS, ModelConfig, ModelType};
use super::head::{Head, default_labels};
use crate::nn::{GradPrecision, HeadPrecision, Precision};
use crate::{Error, Result};

/// Names that [`preset`] knows.
pub const PRESETS: [&str; 12] = [
    "tiny",
    "small",
    "base",
    "small-plain",
    "gpt2-small-plain",
    "gpt2",
    "small-llama",
    "small-mistral",
    "bert",
    "bart",
    "lstm",
    "gru",
];

/// The configuration called `name`: ternary, with a byte-level vocabulary (`gpt2-small-plain` and `gpt2`: GPT-2's).
///
/// | name | form | layers x width (feed-forward), heads | context |
/// |---|---|---|---|
/// | `tiny` | BitNet 2B4T | 4 x 256 (768), 4 | 256 |
/// | `small` | BitNet 2B4T | 6 x 512 (1536), 8 | 512 |
/// | `base` | BitNet 2B4T | 12 x 768 (2304), 12 | 1024 |
/// | `small-plain` | plain | 6 x 384 (1536), 6 | 256 |
/// | `gpt2-small-plain` | plain | 12 x 768 (3072), 12 | 1024 |
/// | `gpt2` | GPT-2 | 12 x 768 (3072), 12 | 1024 |
/// | `small-llama` | Llama | 6 x 512 (1536), 8 | 512 |
/// | `small-mistral` | Mistral, window 256 | 6 x 512 (1536), 8 | 1024 |
/// | `bert` | BERT, f32, vocabulary 30,522, masked tokens | 12 x 768 (3072), 12 | 512 |
/// | `bart` | BART, f32, vocabulary 50,265 | 6 + 6 x 768 (3072), 12 | 1024 |
/// | `lstm`, `gru` | LSTM, GRU | 12 x 768 | any |
pub fn preset(name: &str) -> Result<ModelConfig> {
    let gated = |layers, hidden_size, intermediate_size, positions| ModelConfig {
        model_type: ModelType::Bitnet,
        hidden_size,
        intermediate_size,
        num_hidden_layers: layers,
        num_attention_heads: hidden_size / 64,
        num_key_value_heads: hidden_size / 64,
        head_dim: None,
        vocab_size: 256,
        max_position_embeddings: positions,
        rms_norm_eps: 1e-6,
        layer_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        hidden_act: Activation::Silu,
        attention_bias: false,
        mlp_bias: false,
        tie_word_embeddings: true,
        parameter_sharing: Default::default(),
        initializer_range: 0.02,
        sliding_window: None,
        bos_token_id: None,
        eos_token_id: Vec::new(),
        decoder: None,
        decoder_start_token_id: None,
        head: Head::LanguageModel,
        labels: default_labels(2),
        type_vocab_size: 1,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        precision: Precision::Ternary,
        gradient_precision: GradPrecision::F32,
        head_precision: HeadPrecision::F32,
        weight_forms: Default::default(),
    };
    let plain = |layers, hidden_size, intermediate_size, positions| ModelConfig {
        model_type: ModelType::Plain,
        hidden_act: Activation::GeluPytorchTanh,
        ..gated(layers, hidden_size, intermediate_size, positions)
    };
    let recurrent = |model_type| ModelConfig {
        model_type,
        hidden_act: Activation::Tanh,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        ..gated(12, 768, 768, MAX_POSITIONS)
    };
    match name {
        "tiny" => Ok(gated(4, 256, 768, 256)),
        "small" => Ok(gated(6, 512, 1536, 512)),
        "base" => Ok(gated(12, 768, 2304, 1024)),
        "small-plain" => Ok(plain(6, 384, 1536, 256)),
        "gpt2" => {
            let config = plain(12, 768, 3072, 1024);
            Ok(ModelConfig { model_type: ModelType::Gpt2, vocab_size: 50_257, ..config })
        }
        "small-llama" => Ok(ModelConfig { model_type: ModelType::Llama, ..gated(6, 512, 1536, 512) }),
        "small-mistral" => {
            let config = gated(6, 512, 1536, 1024);
            Ok(ModelConfig { model_type: ModelType::Mistral, sliding_window: Some(256), ..config })
        }
        "bert" => Ok(ModelConfig {
            model_type: ModelType::Bert,
            hidden_act: Activation::Gelu,
            vocab_size: 30_522,
            layer_norm_eps: 1e-12,
            head: Head::MaskedLanguageModel,
            type_vocab_size: 2,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
            precision: Precision::F32,
            ..gated(12, 768, 3072, 512)
        }),
        "bart" => Ok(ModelConfig {
            model_type: ModelType::Bart,
            hidden_act: Activation::Gelu,
            vocab_size: 50_265,
            decoder: Some(DecoderSizes { layers: 6, heads: 12, intermediate_size: 3072 }),
            decoder_start_token_id: Some(2),
            bos_token_id: Some(0),
            eos_token_id: vec![2],
            head: Head::Seq2Seq,
            hidden_dropout: 0.1,
            precision: Precision::F32,
            ..gated(6, 768, 3072, 1024)
        }),
        "lstm" => Ok(recurrent(ModelType::Lstm)),
        "gru" => Ok(recurrent(ModelType::Gru)),
        "gpt2-small-plain" => Ok(ModelConfig { vocab_size: 50_257, ..plain(12, 768, 3072, 1024) }),
        _ => Err(Error::invalid("model", format!("one of {}", PRESETS.join(", ")), name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for name in PRESETS {
            preset(name).unwrap().validate().unwrap();
        }
        assert!(preset("huge").unwrap_err().to_string().contains("tiny, small"));
    }
}
