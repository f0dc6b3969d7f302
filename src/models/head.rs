//! What a model predicts: its head and its labels.
#![forbid(unsafe_code)]

use super::config::ModelConfig;
use super::model::Model;
use crate::Result;

/// What stands behind the last layer. The loss is a mean over what the targets of a batch ([`crate::nn::Batch`]) name; the
/// outputs are those of [`crate::nn::Executor::predict`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Head {
    /// Nothing: the hidden states `[tokens, hidden_size]` are the output, behind them the pooled first token of each
    /// sequence, `[sequences, hidden_size]`. There is no loss.
    None,
    /// Nothing, and no pooled tokens: `[tokens, hidden_size]`. There is no loss.
    HiddenStates,
    /// The next token of a decoder language model.
    LanguageModel,
    /// The next token of the target that an encoder-decoder writes for a source ([`crate::nn::Batch::source`]): a target for
    /// each token, or [`crate::nn::IGNORED`]; outputs are the logits of each sequence's last token.
    Seq2Seq,
    /// The tokens at masked positions: a target for each token, [`crate::nn::IGNORED`] elsewhere; outputs
    /// `[tokens, vocab_size]`.
    MaskedLanguageModel,
    /// A label for each sequence, in nats; outputs `[sequences, labels]`.
    SequenceClassification,
    /// Numbers for each sequence ([`crate::nn::Batch::values`]), squared error; outputs `[sequences, labels]`.
    Regression,
    /// A label for each token, or [`crate::nn::IGNORED`]; outputs `[tokens, labels]`.
    TokenClassification,
    /// First and last token of a span: two targets for each sequence; outputs `[tokens, 2]`.
    SpanExtraction,
}

impl Head {
    /// The end of the class name in Hugging Face files.
    pub(super) fn class(self) -> &'static str {
        match self {
            Head::None | Head::HiddenStates => "Model",
            Head::LanguageModel => "ForCausalLM",
            Head::Seq2Seq => "ForConditionalGeneration",
            Head::MaskedLanguageModel => "ForMaskedLM",
            Head::SequenceClassification | Head::Regression => "ForSequenceClassification",
            Head::TokenClassification => "ForTokenClassification",
            Head::SpanExtraction => "ForQuestionAnswering",
        }
    }

    /// The head of a class; a classification may be a regression. Of pre-training's two heads it is the first, for masked
    /// tokens.
    pub(super) fn of_class(class: &str) -> Option<Head> {
        if class == "ForPreTraining" {
            return Some(Head::MaskedLanguageModel);
        }
        let heads = [Head::None, Head::MaskedLanguageModel, Head::SequenceClassification, Head::TokenClassification];
        heads.into_iter().chain([Head::SpanExtraction]).find(|head| head.class() == class)
    }

    /// Targets of a batch: what [`crate::nn::Batch::targets`] must hold.
    pub fn target_count(self, sequences: usize, length: usize) -> usize {
        match self {
            Head::None | Head::HiddenStates | Head::Regression => 0,
            Head::SequenceClassification => sequences,
            Head::SpanExtraction => 2 * sequences,
            Head::LanguageModel | Head::Seq2Seq | Head::MaskedLanguageModel | Head::TokenClassification => {
                sequences * length
            }
        }
    }

    /// Whether the outputs have names.
    pub fn has_labels(self) -> bool {
        matches!(self, Head::SequenceClassification | Head::Regression | Head::TokenClassification)
    }
}

impl ModelConfig {
    /// Outputs of [`crate::nn::Executor::predict`] for `sequences x length` tokens.
    pub fn output_count(&self, sequences: usize, length: usize) -> usize {
        let (tokens, labels) = (sequences * length, self.labels.len());
        match self.head {
            Head::None => (tokens + sequences) * self.hidden_size,
            Head::HiddenStates => tokens * self.hidden_size,
            Head::LanguageModel | Head::Seq2Seq => sequences * self.vocab_size,
            Head::MaskedLanguageModel => tokens * self.vocab_size,
            Head::SequenceClassification | Head::Regression => sequences * labels,
            Head::TokenClassification => tokens * labels,
            Head::SpanExtraction => 2 * tokens,
        }
    }
}

/// Names for `count` labels, as transformers gives them.
pub fn default_labels(count: usize) -> Vec<String> {
    (0..count).map(|label| format!("LABEL_{label}")).collect()
}

impl Model {
    /// The same encoder with another head, whose own weights are drawn from `seed`: what fine-tuning for a task starts from.
    /// `labels` are the names of the outputs of heads that have some. [`crate::nn::ParamStore::quantize`] must follow before the next
    /// pass. Errors: a head that this form of model does not have, a classification without labels.
    pub fn with_head(&self, head: Head, labels: Vec<String>, seed: u64) -> Result<Model> {
        let labels = if head.has_labels() { labels } else { default_labels(2) };
        let mut config = self.config.clone();
        (config.head, config.labels) = (head, labels);
        let mut model = Model::new(config, seed)?;
        for id in model.store.ids() {
            let spec = model.store.spec(id).clone();
            if let Some(own) = self.store.find(&spec.name).filter(|&own| self.store.spec(own).shape == spec.shape) {
                model.store.weight_mut(id).copy_from_slice(&self.store.weight_values(own));
            }
        }
        Ok(model)
    }
}
