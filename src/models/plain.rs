//! GPT-2's form (Radford et al. 2019): learned positions, fused queries, keys and values, GELU.
//!
//! [`ModelType::Gpt2`] has LayerNorms in the blocks and biases in the linear layers, quantized or not, and the names of
//! Hugging Face files. In f32 [`ModelType::Plain`] is the same with short names. Quantized, each of its linear layers is
//! a BitLinear (Ma et al., "The Era of 1-bit LLMs", 2024): its own RMSNorm, int8 activations, quantized weights, no bias;
//! the blocks then have no norms of their own.
#![forbid(unsafe_code)]

use super::config::{ModelConfig, ModelType};
use super::layers::{Declaration, Layers};
use super::sharing::BlockPart;
use crate::nn::ops::Elementwise;
use crate::nn::{BufferId, BufferKind, Init, ParamId, Precision};

/// What the tensors of a form are called.
struct Names {
    tokens: &'static str,
    positions: &'static str,
    /// Before the number of a block.
    blocks: &'static str,
    attention_norm: &'static str,
    qkv: &'static str,
    attention_out: &'static str,
    feed_forward_norm: &'static str,
    feed_forward_in: &'static str,
    feed_forward_out: &'static str,
    norm: &'static str,
    head: &'static str,
}

const PLAIN: Names = Names {
    tokens: "tok.weight",
    positions: "pos.weight",
    blocks: "blocks",
    attention_norm: "ln1",
    qkv: "qkv",
    attention_out: "proj",
    feed_forward_norm: "ln2",
    feed_forward_in: "fc1",
    feed_forward_out: "fc2",
    norm: "norm",
    head: "head.weight",
};

const GPT2: Names = Names {
    tokens: "transformer.wte.weight",
    positions: "transformer.wpe.weight",
    blocks: "transformer.h",
    attention_norm: "ln_1",
    qkv: "attn.c_attn",
    attention_out: "attn.c_proj",
    feed_forward_norm: "ln_2",
    feed_forward_in: "mlp.c_fc",
    feed_forward_out: "mlp.c_proj",
    norm: "transformer.ln_f",
    head: "lm_head.weight",
};

/// Declares the form of `config`.
pub(super) fn build(config: &ModelConfig) -> Declaration {
    let names = if config.model_type == ModelType::Gpt2 { GPT2 } else { PLAIN };
    let mut layers = Layers::new(config);
    let (hidden, ffn, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
    let table = layers.table(names.tokens, config.vocab_size);
    let positions = layers.table(names.positions, config.max_position_embeddings);
    let mut x = layers.plan.embedding(table);
    x = layers.plan.position_embedding(x, positions);
    x = layers.plan.dropout(x, config.hidden_dropout);
    // The projections back to the residual stream start smaller (GPT-2): its variance then does not grow with depth.
    let std = config.initializer_range;
    let residual_std = std / (2.0 * config.num_hidden_layers as f32).sqrt();
    for block in 0..config.num_hidden_layers {
        let name = |part: &str| format!("{}.{block}.{part}", names.blocks);
        layers.enter(BlockPart::Attention, block);
        let normed = layers.block_norm(x, &name(names.attention_norm));
        let qkv = layers.plain_linear(normed, &name(names.qkv), 3 * hidden, std);
        let attended = layers.plan.attention_fused(qkv, config.attention_shape());
        let projected = layers.plain_linear(attended, &name(names.attention_out), hidden, residual_std);
        let projected = layers.plan.dropout(projected, config.hidden_dropout);
        x = layers.plan.add(x, projected);
        layers.enter(BlockPart::FeedForward, block);
        let normed = layers.block_norm(x, &name(names.feed_forward_norm));
        let inner = layers.plain_linear(normed, &name(names.feed_forward_in), ffn, std);
        let outer = layers.plain_linear_after_gelu(inner, &name(names.feed_forward_out), hidden, residual_std);
        let outer = layers.plan.dropout(outer, config.hidden_dropout);
        x = layers.plan.add(x, outer);
    }
    layers.leave_blocks();
    let normed = if layers.norms_inside() {
        layers.rms_norm(x, &format!("{}.weight", names.norm), eps, BufferKind::Float)
    } else {
        layers.layer_norm(x, names.norm)
    };
    let head = layers.head(names.head, table);
    layers.plan.language_model_head(normed, head, config.head_precision);
    layers.finish()
}

impl Layers<'_> {
    /// Whether the linear layers have their own norms instead of biases.
    fn norms_inside(&self) -> bool {
        self.config.model_type == ModelType::Plain && self.precision() != Precision::F32
    }

    /// A block's LayerNorm, where the linear layers do not bring their own norm.
    fn block_norm(&mut self, x: BufferId, name: &str) -> BufferId {
        if self.norms_inside() { x } else { self.layer_norm(x, name) }
    }

    /// A BitLinear, or a linear layer with bias.
    fn plain_linear(&mut self, x: BufferId, name: &str, outputs: usize, std: f32) -> BufferId {
        self.plain_linear_of(x, name, outputs, std, |layers, norm| match norm {
            Some((gain, eps)) => layers.plan.rms_norm(x, gain, eps, BufferKind::Quantized),
            None => layers.quantized(x),
        })
    }

    /// The same on the GELU of `x`.
    fn plain_linear_after_gelu(&mut self, x: BufferId, name: &str, outputs: usize, std: f32) -> BufferId {
        self.plain_linear_of(x, name, outputs, std, |layers, norm| match norm {
            Some(_) => layers.plan.activation_quantize(Elementwise::Gelu, x, None, norm),
            None => layers.activated(Elementwise::Gelu, x, None),
        })
    }

    /// A BitLinear, for whose input `input` gets the norm's gain and epsilon, or a linear layer with bias. `x`: as wide as
    /// the input.
    fn plain_linear_of(
        &mut self,
        x: BufferId,
        name: &str,
        outputs: usize,
        std: f32,
        input: impl FnOnce(&mut Self, Option<(ParamId, f32)>) -> BufferId,
    ) -> BufferId {
        let inputs = self.plan.buffer_spec(x).width;
        let weight = self.matrix(&format!("{name}.weight"), outputs, inputs, Init::Normal { std });
        let (norm, bias) = if self.norms_inside() {
            (Some((self.gain(&format!("{name}.norm.weight"), x), self.config.rms_norm_eps)), None)
        } else {
            (None, Some(self.bias(&format!("{name}.bias"), outputs)))
        };
        let x = input(self, norm);
        self.plan.linear(x, weight, bias, self.config.gradient_precision)
    }
}
