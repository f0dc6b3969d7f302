//! Keys of `config.json` that encoders have: the head with its labels, and BERT's own.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use super::config::{Activation, ModelConfig, ModelType};
use super::config_json::{Shared, short};
use super::head::{Head, default_labels};
use super::json_fields::Fields;
use crate::Result;

/// Classes of BERT in Hugging Face files begin so.
const BERT: &str = "Bert";

/// The head that `architectures` names, and the labels. Decoders have one head, whatever is written.
pub(super) fn read_head(fields: &mut Fields<'_>, model_type: ModelType) -> Result<(Head, Vec<String>)> {
    if model_type != ModelType::Bert {
        let head = if model_type == ModelType::Bart { Head::Seq2Seq } else { Head::LanguageModel };
        return Ok((head, default_labels(2)));
    }
    let classes: Option<Vec<String>> = fields.optional("architectures")?;
    let class = classes.unwrap_or_default().into_iter().next();
    let head = match class.as_deref() {
        None => Head::MaskedLanguageModel,
        Some(class) => class.strip_prefix(BERT).and_then(Head::of_class).ok_or_else(|| {
            let expected = "BertModel, BertForPreTraining, BertForMaskedLM, BertForSequenceClassification, \
                            BertForTokenClassification or BertForQuestionAnswering";
            fields.error(format!("architectures: expected {expected}, found {class:?}"))
        })?,
    };
    // transformers tells by an argument, files by a missing tensor: the key is ours.
    let pooled = fields.or("add_pooling_layer", true)?;
    let head = if head == Head::None && !pooled { Head::HiddenStates } else { head };
    let labels = read_labels(fields)?;
    let problem: Option<String> = fields.optional("problem_type")?;
    if !head.has_labels() {
        return Ok((head, default_labels(2)));
    }
    let regression = match problem.as_deref() {
        None => labels.len() == 1,
        Some("single_label_classification") => false,
        Some("regression") => true,
        Some(other) => {
            let expected = "single_label_classification or regression";
            return Err(fields.error(format!("problem_type: expected {expected}, found {other:?}")));
        }
    };
    let of_sequences = head == Head::SequenceClassification;
    Ok((if of_sequences && regression { Head::Regression } else { head }, labels))
}

/// `id2label`, else `num_labels`, else two labels.
fn read_labels(fields: &mut Fields<'_>) -> Result<Vec<String>> {
    let count: Option<u16> = fields.optional("num_labels")?;
    let Some(mut names) = fields.optional::<Map<String, Value>>("id2label")? else {
        return Ok(default_labels(count.unwrap_or(2).into()));
    };
    let count = names.len();
    let name = |label: usize| match names.remove(&label.to_string()) {
        Some(Value::String(name)) => Ok(name),
        found => Err(fields.error(format!("id2label.{label}: expected a name, found {found:?}"))),
    };
    (0..count).map(name).collect()
}

pub(super) fn bert(fields: &mut Fields<'_>, shared: Shared) -> Result<ModelConfig> {
    fields.fixed("is_decoder", json!(false))?;
    fields.fixed("position_embedding_type", json!("absolute"))?;
    fields.fixed("pruned_heads", json!({}))?;
    // The classifier's input is dropped as the rest is.
    let _: Option<f32> = fields.optional("classifier_dropout")?;
    let heads = fields.or("num_attention_heads", 12)?;
    let hidden_act = fields.or("hidden_act", Activation::Gelu)?;
    Ok(ModelConfig {
        hidden_size: fields.or("hidden_size", 768)?,
        intermediate_size: fields.or("intermediate_size", 3072)?,
        num_hidden_layers: fields.or("num_hidden_layers", 12)?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        max_position_embeddings: fields.or("max_position_embeddings", 512)?,
        type_vocab_size: fields.or("type_vocab_size", 2)?,
        layer_norm_eps: fields.or("layer_norm_eps", 1e-12)?,
        hidden_dropout: fields.or("hidden_dropout_prob", 0.1)?,
        attention_dropout: fields.or("attention_probs_dropout_prob", 0.1)?,
        ..shared.config(hidden_act)
    })
}

impl ModelConfig {
    pub(super) fn bert_keys(&self) -> Value {
        let mut keys = json!({
            "architectures": [format!("{BERT}{}", self.head.class())],
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "type_vocab_size": self.type_vocab_size,
            "hidden_act": self.hidden_act,
            "layer_norm_eps": short(self.layer_norm_eps),
            "hidden_dropout_prob": short(self.hidden_dropout),
            "attention_probs_dropout_prob": short(self.attention_dropout),
        });
        if self.head == Head::HiddenStates {
            keys["add_pooling_layer"] = json!(false);
        }
        if self.head.has_labels() {
            let names = || self.labels.iter().enumerate();
            let problem = match self.head {
                Head::Regression => json!("regression"),
                Head::SequenceClassification => json!("single_label_classification"),
                _ => Value::Null,
            };
            keys["id2label"] = names().map(|(id, name)| (id.to_string(), json!(name))).collect::<Map<_, _>>().into();
            keys["label2id"] = names().map(|(id, name)| (name.clone(), json!(id))).collect::<Map<_, _>>().into();
            keys["problem_type"] = problem;
        }
        keys
    }
}
