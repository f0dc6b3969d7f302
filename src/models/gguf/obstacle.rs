//! What llama.cpp does not compute. Checked against its sources of 2026 (`src/models/{llama,bitnet,gpt2,bert}.cpp`); the script
//! `tests/peers/check_gguf.py` runs what is allowed.
#![forbid(unsafe_code)]

use crate::models::{Activation, Head, ModelConfig, ModelType};
use crate::nn::Precision;
use crate::nn::ops::RopeScaling;

impl ModelConfig {
    /// Why llama.cpp cannot compute this model, if so.
    pub fn llama_cpp_obstacle(&self) -> Option<String> {
        if self.model_type == ModelType::Bert {
            return self.encoder_obstacle();
        }
        if let Err(error) = self.check_language_model() {
            return Some(error.to_string());
        }
        if self.model_type.is_recurrent() {
            return Some(format!("llama.cpp has no model_type {}", self.model_type.name()));
        }
        let bitnet = self.model_type == ModelType::Bitnet;
        if self.model_type == ModelType::Plain && self.precision != Precision::F32 {
            return Some("llama.cpp has no linear layers with norms of their own (model_type plain)".into());
        }
        if self.hidden_act == Activation::Relu2 {
            return Some(format!("llama.cpp computes SiLU, not ReLU2, for model_type {}", self.model_type.name()));
        }
        if bitnet && !self.tie_word_embeddings {
            return Some(
                "llama.cpp takes the embedding as head for model_type bitnet, this model has one of its own".into(),
            );
        }
        if let Some(window) = self.sliding_window.filter(|&window| window < self.context_length()) {
            return Some(format!("llama.cpp ignores the window of {window} positions (sliding_window)"));
        }
        match self.rope_scaling {
            Some(RopeScaling::Dynamic { .. }) => Some("llama.cpp has no dynamic rope_scaling".into()),
            Some(RopeScaling::Llama3 { .. }) if bitnet => {
                Some("llama.cpp has no llama3 rope_scaling for model_type bitnet".into())
            }
            _ => None,
        }
    }
    fn encoder_obstacle(&self) -> Option<String> {
        if self.hidden_act == Activation::Relu {
            return Some("llama.cpp computes GELU, not ReLU, for model_type bert".into());
        }
        let without = matches!(self.head, Head::TokenClassification | Head::SpanExtraction);
        without.then(|| format!("llama.cpp has no {:?} for model_type bert", self.head))
    }
}
