//! The keys of a JSON object, taken out one by one.
#![forbid(unsafe_code)]

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Keys that say nothing about the computation of logits here.
#[rustfmt::skip]
const IGNORED: &[&str] = &[
    "architectures", "torch_dtype", "dtype", "transformers_version", "use_cache", "pad_token_id", "pretraining_tp",
    "_name_or_path", "auto_map", "unk_token_id", "sep_token_id", "decoder_start_token_id", "task_specific_params",
    "output_attentions", "output_hidden_states", "output_past", "return_dict", "use_return_dict", "_attn_implementation",
    "_attn_implementation_autoset", "attn_implementation", "tokenizer_class", "prefix", "problem_type", "id2label",
    "label2id", "num_labels", "is_decoder", "gradient_checkpointing", "model_max_length", "mlp_only_layers",
    "chunk_size_feed_forward", "generation_config", "unsloth_version", "unsloth_fixed", "ignore_keys_at_rope_validation",
    "base_model_tp_plan", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "n_ctx", "_num_labels",
    // Dropout that the form does not have.
    "attention_dropout", "hidden_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "dropout",
];

/// An object whose keys are taken out one by one; errors name file and key.
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(text: &str, path: &'a Path) -> Result<Self> {
        let value = serde_json::from_str(text).map_err(|error| Error::format(path, None, error.to_string()))?;
        let Value::Object(map) = value else {
            return Err(Error::format(path, None, "expected a JSON object"));
        };
        Ok(Fields { path, map })
    }

    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::format(self.path, None, message.to_string().escape_debug().to_string())
    }

    /// The value of `key`, if it is there and not null.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        match self.map.remove(key).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => {
                serde_json::from_value(value).map(Some).map_err(|error| self.error(format!("{key}: {error}")))
            }
        }
    }

    pub(super) fn required<T: DeserializeOwned>(&mut self, key: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| self.error(format!("{key}: missing")))
    }

    pub(super) fn or<T: DeserializeOwned>(&mut self, key: &str, default: T) -> Result<T> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// `key` is not there, or has the only value that is computed.
    pub(super) fn fixed(&mut self, key: &str, expected: Value) -> Result<()> {
        match self.map.remove(key).filter(|found| *found != expected && !found.is_null()) {
            None => Ok(()),
            Some(found) => Err(self.error(format!("{key}: expected {expected}, found {found}"))),
        }
    }

    pub(super) fn ignore(&mut self, keys: &[&str]) {
        self.map.retain(|key, _| !keys.contains(&key.as_str()));
    }

    pub(super) fn object(&mut self, key: &str) -> Result<Option<Fields<'a>>> {
        Ok(self.optional(key)?.map(|map| Fields { path: self.path, map }))
    }

    pub(super) fn finish(mut self, within: &str) -> Result<()> {
        self.map.retain(|key, _| !IGNORED.contains(&key.as_str()));
        match self.map.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.error(format!("{within}{key}: unknown key"))),
        }
    }
}
