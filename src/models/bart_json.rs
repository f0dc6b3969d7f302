//! BART's keys of `config.json`.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::config::{Activation, DecoderSizes, ModelConfig};
use super::config_json::{Shared, short};
use super::json_fields::Fields;
use crate::Result;

/// Keys about training that there is none of here, and about generation, where the options of a call decide.
#[rustfmt::skip]
const IGNORED: &[&str] = &[
    "activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "classifier_dropout", "classif_dropout",
    "forced_bos_token_id", "forced_eos_token_id", "num_hidden_layers", "num_beams", "no_repeat_ngram_size", "early_stopping",
    "length_penalty", "max_length", "min_length", "output_past", "init_std", "initializer_range",
];

pub(super) fn bart(fields: &mut Fields<'_>, shared: Shared) -> Result<ModelConfig> {
    for key in
        ["scale_embedding", "normalize_before", "add_final_layer_norm", "add_bias_logits", "static_position_embeddings"]
    {
        fields.fixed(key, json!(false))?;
    }
    fields.fixed("normalize_embedding", json!(true))?;
    let init_std = fields.or("init_std", 0.02)?;
    fields.ignore(IGNORED);
    let heads = fields.or("encoder_attention_heads", 16)?;
    let hidden_act = fields.or("activation_function", Activation::Gelu)?;
    Ok(ModelConfig {
        hidden_size: fields.or("d_model", 1024)?,
        intermediate_size: fields.or("encoder_ffn_dim", 4096)?,
        num_hidden_layers: fields.or("encoder_layers", 12)?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        max_position_embeddings: fields.or("max_position_embeddings", 1024)?,
        decoder: Some(DecoderSizes {
            layers: fields.or("decoder_layers", 12)?,
            heads: fields.or("decoder_attention_heads", 16)?,
            intermediate_size: fields.or("decoder_ffn_dim", 4096)?,
        }),
        decoder_start_token_id: fields.optional("decoder_start_token_id")?,
        hidden_dropout: fields.or("dropout", 0.1)?,
        attention_dropout: fields.or("attention_dropout", 0.0)?,
        initializer_range: init_std,
        ..shared.config(hidden_act)
    })
}

impl ModelConfig {
    pub(super) fn bart_keys(&self) -> Value {
        let decoder = self.decoder.expect("a checked configuration has a decoder");
        json!({
            "architectures": ["BartForConditionalGeneration"],
            "is_encoder_decoder": true,
            "d_model": self.hidden_size,
            "encoder_layers": self.num_hidden_layers,
            "encoder_ffn_dim": self.intermediate_size,
            "encoder_attention_heads": self.num_attention_heads,
            "decoder_layers": decoder.layers,
            "decoder_ffn_dim": decoder.intermediate_size,
            "decoder_attention_heads": decoder.heads,
            "decoder_start_token_id": self.decoder_start_token_id,
            "max_position_embeddings": self.max_position_embeddings,
            "activation_function": self.hidden_act,
            "init_std": short(self.initializer_range),
            "dropout": short(self.hidden_dropout),
            "attention_dropout": short(self.attention_dropout),
            "activation_dropout": 0.0,
        })
    }
}
