//! `config.json` of recurrent models. Nobody else's files have them: the keys are those of the transformers that mean the
//! same.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::config::{Activation, MAX_POSITIONS, ModelConfig};
use super::config_json::{Shared, short};
use super::json_fields::Fields;
use crate::Result;

pub(super) fn recurrent(fields: &mut Fields<'_>, shared: Shared) -> Result<ModelConfig> {
    let hidden_size = fields.required("hidden_size")?;
    Ok(ModelConfig {
        hidden_size,
        intermediate_size: hidden_size,
        num_hidden_layers: fields.required("num_hidden_layers")?,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        max_position_embeddings: fields.or("max_position_embeddings", MAX_POSITIONS)?,
        hidden_dropout: fields.or("hidden_dropout_prob", 0.0)?,
        ..shared.config(Activation::Tanh)
    })
}

impl ModelConfig {
    pub(super) fn recurrent_keys(&self) -> Value {
        json!({
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "max_position_embeddings": self.max_position_embeddings,
            "hidden_dropout_prob": short(self.hidden_dropout),
        })
    }
}
