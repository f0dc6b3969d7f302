//! What BERT adds to GGUF metadata.
//!
//! llama.cpp gives hidden states, one token or all of them pooled, or the scores of a classification of sequences. It takes
//! every token as one of the first segment.
#![forbid(unsafe_code)]

use super::metadata::Keys;
use crate::Result;
use crate::formats::{GgufArray, GgufValue};
use crate::models::{Activation, Head, ModelConfig, default_labels};

/// llama.cpp's numbers for what is made of the hidden states: nothing, ... the last one: a classification.
const POOLING_NONE: u64 = 0;
const POOLING_RANK: u64 = 4;

/// Our own keys: the form of GELU, and that a classification's scores are numbers.
const ACTIVATION_KEY: &str = "hybridq.hidden_act";
const REGRESSION_KEY: &str = "hybridq.regression";
/// Segments, which llama.cpp counts among the tokenizer's entries.
const SEGMENTS_KEY: &str = "tokenizer.ggml.token_type_count";

/// The metadata of an encoder that has no obstacle.
pub(super) fn encoder_entries(config: &ModelConfig) -> Vec<(String, GgufValue)> {
    let classifies = config.head.has_labels();
    let pooling = if classifies { POOLING_RANK } else { POOLING_NONE };
    let mut entries = vec![
        ("bert.attention.causal".to_string(), GgufValue::Bool(false)),
        ("bert.pooling_type".into(), GgufValue::U32(pooling as u32)),
        (SEGMENTS_KEY.into(), GgufValue::U32(config.type_vocab_size as u32)),
    ];
    if classifies {
        let labels = GgufValue::Array(GgufArray::String(config.labels.clone()));
        entries.push(("bert.classifier.output_labels".into(), labels));
        entries.push((REGRESSION_KEY.into(), GgufValue::Bool(config.head == Head::Regression)));
    }
    if config.hidden_act == Activation::GeluPytorchTanh {
        entries.push((ACTIVATION_KEY.into(), GgufValue::String("gelu_new".into())));
    }
    entries
}

/// The head and the sizes of a file's encoder. Errors: a value that is not computed here, a missing table of segments.
pub(super) fn encoder_keys(keys: &mut Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let file = keys.file;
    let causal = keys.get("attention.causal", "true or false", GgufValue::as_bool)?;
    if causal != Some(false) {
        return Err(file.error(None, format!("bert.attention.causal: expected false, found {causal:?}")));
    }
    // How hidden states are pooled is for those who read them.
    let pooling = keys.get("pooling_type", "0 to 4", |value| value.as_u64().filter(|kind| *kind <= POOLING_RANK))?;
    let strings = |value: &GgufValue| match value.as_array() {
        Some(GgufArray::String(names)) => Some(names.clone()),
        _ => None,
    };
    let labels = keys.get("classifier.output_labels", "names", strings)?;
    let scores = file.find("cls.output.weight").map(|tensor| tensor.shape[0]);
    config.head = match (scores, file.find("cls.weight")) {
        (None, None) => Head::HiddenStates,
        (None, Some(_)) => Head::None,
        (Some(count), _) => {
            if pooling != Some(POOLING_RANK) {
                return Err(file.error(None, format!("bert.pooling_type: expected 4 (rank), found {pooling:?}")));
            }
            config.labels = labels.unwrap_or_else(|| default_labels(count.min(1 << 16)));
            let regression = file.metadata().get(REGRESSION_KEY).and_then(GgufValue::as_bool);
            if regression.unwrap_or(count == 1) { Head::Regression } else { Head::SequenceClassification }
        }
    };
    let segments = file.find("token_types.weight");
    config.type_vocab_size =
        segments.ok_or_else(|| file.error(None, "tensor \"token_types.weight\": missing"))?.shape[0];
    let activation = file.metadata().get(ACTIVATION_KEY).and_then(GgufValue::as_str);
    config.hidden_act = if activation == Some("gelu_new") { Activation::GeluPytorchTanh } else { Activation::Gelu };
    (config.hidden_dropout, config.attention_dropout, config.tie_word_embeddings) = (0.1, 0.1, true);
    Ok(())
}
