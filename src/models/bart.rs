//! BART (Lewis et al. 2020): an encoder of the source and a decoder of the target with attention to what the encoder gives;
//! norms behind the residual additions, as in BERT. Parameters are named as in Hugging Face files.
#![forbid(unsafe_code)]

use super::config::ModelConfig;
use super::layers::{Declaration, Layers};
use super::sharing::BlockPart;
use crate::nn::BufferId;
use crate::nn::ops::AttentionShape;

/// Rows of the position tables before that of position 0.
const SKIPPED_POSITIONS: usize = 2;

/// Declares the encoder-decoder of `config`.
pub(super) fn build(config: &ModelConfig) -> Declaration {
    let decoder = config.decoder.expect("a checked configuration has a decoder");
    let mut layers = Layers::new(config);
    let table = layers.table("model.shared.weight", config.vocab_size);
    let source = layers.plan.source_embedding(table);
    let mut encoded = layers.embedded(source, "model.encoder");
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("model.encoder.layers.{layer}.{part}");
        layers.enter(BlockPart::Attention, layer);
        let shape = config.attention_shape();
        encoded = layers.attention_block(Attends::Everywhere(encoded), encoded, &name("self_attn"), shape);
        layers.enter(BlockPart::FeedForward, layer);
        encoded = layers.feed_forward_block(encoded, config.intermediate_size, &name(""));
    }
    layers.leave_blocks();
    let target = layers.plan.embedding(table);
    let mut x = layers.embedded(target, "model.decoder");
    let head_dim = config.hidden_size / decoder.heads;
    let shape = AttentionShape {
        heads: decoder.heads,
        kv_heads: decoder.heads,
        head_dim,
        window: None,
        dropout: config.attention_dropout,
    };
    for layer in 0..decoder.layers {
        let name = |part: &str| format!("model.decoder.layers.{layer}.{part}");
        layers.enter(BlockPart::Attention, layer);
        x = layers.attention_block(Attends::Back, x, &name("self_attn"), shape);
        x = layers.attention_block(Attends::Everywhere(encoded), x, &name("encoder_attn"), shape);
        layers.enter(BlockPart::FeedForward, layer);
        x = layers.feed_forward_block(x, decoder.intermediate_size, &name(""));
    }
    layers.leave_blocks();
    let head = layers.head("lm_head.weight", table);
    layers.plan.language_model_head(x, head, config.head_precision);
    layers.finish()
}

/// What a block's queries meet.
#[derive(Clone, Copy)]
enum Attends {
    /// The positions up to their own.
    Back,
    /// All rows of a buffer that count.
    Everywhere(BufferId),
}

impl Layers<'_> {
    /// Embeddings with their positions, normed.
    fn embedded(&mut self, x: BufferId, stack: &str) -> BufferId {
        let positions = self.config.max_position_embeddings + SKIPPED_POSITIONS;
        let table = self.table(&format!("{stack}.embed_positions.weight"), positions);
        let x = self.plan.position_embedding_behind(x, table, SKIPPED_POSITIONS);
        let x = self.layer_norm(x, &format!("{stack}.layernorm_embedding"));
        self.plan.dropout(x, self.config.hidden_dropout)
    }

    fn attention_block(&mut self, attends: Attends, x: BufferId, name: &str, shape: AttentionShape) -> BufferId {
        let own = self.quantized(x);
        let met = match attends {
            Attends::Everywhere(met) if met != x => self.quantized(met),
            _ => own,
        };
        let q = self.hidden_linear(own, &format!("{name}.q_proj"));
        let [k, v] = ["k_proj", "v_proj"].map(|part| self.hidden_linear(met, &format!("{name}.{part}")));
        let attended = match attends {
            Attends::Back => self.plan.attention(q, k, v, shape),
            Attends::Everywhere(_) => self.plan.attention_to_all(q, k, v, shape),
        };
        let attended = self.quantized(attended);
        let projected = self.hidden_linear(attended, &format!("{name}.out_proj"));
        self.add_and_norm(x, projected, &format!("{name}_layer_norm"))
    }

    /// `name` is that of the block with a dot behind it.
    fn feed_forward_block(&mut self, x: BufferId, width: usize, name: &str) -> BufferId {
        let inputs = self.quantized(x);
        let inner = self.linear(inputs, &format!("{name}fc1"), width, true);
        let activated = self.activated(self.elementwise(), inner, None);
        let outer = self.hidden_linear(activated, &format!("{name}fc2"));
        self.add_and_norm(x, outer, &format!("{name}final_layer_norm"))
    }
}
