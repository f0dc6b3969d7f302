//! BERT (Devlin et al. 2019): attention in both directions, norms behind the residual additions, and a head for each task.
//! Parameters are named as in Hugging Face files. The linear layers of the blocks have the model's precision; pooler and
//! heads, a thousandth of the weights, are f32.
#![forbid(unsafe_code)]

use super::config::ModelConfig;
use super::head::Head;
use super::layers::{Declaration, Layers};
use super::sharing::BlockPart;
use crate::nn::ops::Elementwise;
use crate::nn::{BufferId, ParamId};

/// Declares the encoder of `config` with its head.
pub(super) fn build(config: &ModelConfig) -> Declaration {
    let mut layers = Layers::new(config);
    let table = layers.table("bert.embeddings.word_embeddings.weight", config.vocab_size);
    let positions = layers.table("bert.embeddings.position_embeddings.weight", config.max_position_embeddings);
    let types = layers.table("bert.embeddings.token_type_embeddings.weight", config.type_vocab_size);
    let (words, segments) = (layers.plan.embedding(table), layers.plan.token_type_embedding(types));
    let mut x = layers.plan.add(words, segments);
    x = layers.plan.position_embedding(x, positions);
    x = layers.layer_norm(x, "bert.embeddings.LayerNorm");
    x = layers.plan.dropout(x, config.hidden_dropout);
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("bert.encoder.layer.{layer}.{part}");
        layers.enter(BlockPart::Attention, layer);
        let inputs = layers.quantized(x);
        let [q, k, v] = ["query", "key", "value"]
            .map(|part| layers.hidden_linear(inputs, &name(&format!("attention.self.{part}"))));
        let attended = layers.plan.attention_to_all(q, k, v, config.attention_shape());
        let attended = layers.quantized(attended);
        let projected = layers.hidden_linear(attended, &name("attention.output.dense"));
        x = layers.add_and_norm(x, projected, &name("attention.output.LayerNorm"));
        layers.enter(BlockPart::FeedForward, layer);
        let inputs = layers.quantized(x);
        let inner = layers.linear(inputs, &name("intermediate.dense"), config.intermediate_size, true);
        let activated = layers.activated(layers.elementwise(), inner, None);
        let outer = layers.hidden_linear(activated, &name("output.dense"));
        x = layers.add_and_norm(x, outer, &name("output.LayerNorm"));
    }
    layers.leave_blocks();
    layers.bert_head(x, table);
    layers.finish()
}

impl Layers<'_> {
    /// The norm of a residual addition.
    pub(super) fn add_and_norm(&mut self, x: BufferId, added: BufferId, norm: &str) -> BufferId {
        let added = self.plan.dropout(added, self.config.hidden_dropout);
        let sum = self.plan.add(x, added);
        self.layer_norm(sum, norm)
    }

    /// A linear layer with bias back to the width of the residual stream.
    pub(super) fn hidden_linear(&mut self, x: BufferId, name: &str) -> BufferId {
        self.linear(x, name, self.config.hidden_size, true)
    }

    fn bert_head(&mut self, x: BufferId, table: ParamId) {
        let config = self.config;
        match config.head {
            Head::None => {
                let pooled = self.pooled(x);
                self.plan.output(&[x, pooled]);
            }
            Head::HiddenStates => self.plan.output(&[x]),
            Head::SequenceClassification => {
                let pooled = self.pooled(x);
                let scores = self.classifier(pooled);
                self.plan.classes_head(scores);
            }
            Head::Regression => {
                let pooled = self.pooled(x);
                let scores = self.classifier(pooled);
                self.plan.numbers_head(scores);
            }
            Head::TokenClassification => {
                let scores = self.classifier(x);
                self.plan.classes_head(scores);
            }
            Head::SpanExtraction => {
                let scores = self.head_linear(x, "qa_outputs", 2);
                self.plan.spans_head(scores);
            }
            Head::MaskedLanguageModel | Head::LanguageModel | Head::Seq2Seq => {
                let dense = self.head_linear(x, "cls.predictions.transform.dense", config.hidden_size);
                let activated = self.plan.activation(self.elementwise(), dense, None);
                let normed = self.layer_norm(activated, "cls.predictions.transform.LayerNorm");
                // transformers gives the head's own table a bias of its own, beside one that it then does not read.
                let name =
                    if config.tie_word_embeddings { "cls.predictions.bias" } else { "cls.predictions.decoder.bias" };
                let bias = self.head_bias(name, config.vocab_size);
                let table = self.head("cls.predictions.decoder.weight", table);
                self.plan.masked_language_model_head(normed, table, bias);
            }
        }
    }

    /// tanh of a linear layer on each sequence's first token.
    fn pooled(&mut self, x: BufferId) -> BufferId {
        let first = self.plan.first_token(x);
        let dense = self.head_linear(first, "bert.pooler.dense", self.config.hidden_size);
        self.plan.activation(Elementwise::Tanh, dense, None)
    }

    fn classifier(&mut self, x: BufferId) -> BufferId {
        let x = self.plan.dropout(x, self.config.hidden_dropout);
        self.head_linear(x, "classifier", self.config.labels.len())
    }
}
