//! Recurrent language models: LSTM and GRU layers between an embedding and a head, which may be the embedding's table.
//! Input and state products have the model's precision.
#![forbid(unsafe_code)]

use super::config::{ModelConfig, ModelType};
use super::layers::{Declaration, Layers};
use super::sharing::BlockPart;
use crate::nn::Init;
use crate::nn::ops::Cell;

/// Declares the recurrent form of `config`. `layers.N.weight_ih`, `weight_hh`, `bias_ih` and `bias_hh` are PyTorch's
/// `weight_ih_lN` and so on.
pub(super) fn build(config: &ModelConfig) -> Declaration {
    let cell = if config.model_type == ModelType::Lstm { Cell::Lstm } else { Cell::Gru };
    let (width, gates) = (config.hidden_size, cell.gates() * config.hidden_size);
    let mut layers = Layers::new(config);
    let table = layers.table("embedding.weight", config.vocab_size);
    let mut x = layers.plan.embedding(table);
    for layer in 0..config.num_hidden_layers {
        // A layer is shared whole, as the attention of a transformer's block is.
        layers.enter(BlockPart::Attention, layer);
        let name = |part: &str| format!("layers.{layer}.{part}");
        x = layers.plan.dropout(x, config.hidden_dropout);
        let inputs = layers.quantized(x);
        let init = Init::Normal { std: config.initializer_range };
        let of_input = layers.matrix(&name("weight_ih"), gates, width, init);
        let of_state = layers.matrix(&name("weight_hh"), gates, width, init);
        let [in_bias, state_bias] = ["bias_ih", "bias_hh"].map(|part| layers.bias(&name(part), gates));
        let sums = layers.plan.linear(inputs, of_input, Some(in_bias), config.gradient_precision);
        x = layers.plan.recurrent(cell, sums, of_state, state_bias);
    }
    layers.leave_blocks();
    x = layers.plan.dropout(x, config.hidden_dropout);
    let head = layers.head("head.weight", table);
    layers.plan.language_model_head(x, head, config.head_precision);
    layers.finish()
}
