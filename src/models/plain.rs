//! The plain form: GPT-2 class blocks as in nanoGPT-like code, with learned positions, a fused `qkv` and GELU.
//!
//! Quantized, each linear layer is a BitLinear (Ma et al., "The Era of 1-bit LLMs", 2024): its own RMSNorm, int8
//! activations, quantized weights, no bias; the blocks then have no norms of their own. In f32 the blocks have LayerNorms
//! and the linear layers biases.
#![forbid(unsafe_code)]

use super::ModelConfig;
use super::layers::Layers;
use crate::nn::ops::AttentionShape;
use crate::nn::{BufferId, BufferKind, Init, PlanBuilder, Precision};

/// Epsilon of LayerNorms.
const LAYER_NORM_EPS: f32 = 1e-5;

/// Declares the plain form of `config`.
pub(super) fn build(config: &ModelConfig) -> PlanBuilder {
    let mut layers = Layers::new(config);
    let (hidden, ffn, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
    let table = layers.table("tok.weight", config.vocab_size);
    let positions = layers.table("pos.weight", config.max_position_embeddings);
    let mut x = layers.plan.embedding(table);
    x = layers.plan.position_embedding(x, positions);
    let shape = AttentionShape {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim(),
        window: config.sliding_window,
    };
    // The projections back to the residual stream start smaller (GPT-2): its variance then does not grow with depth.
    let std = config.initializer_range;
    let residual_std = std / (2.0 * config.num_hidden_layers as f32).sqrt();
    for block in 0..config.num_hidden_layers {
        let name = |part: &str| format!("blocks.{block}.{part}");
        let normed = layers.block_norm(x, &name("ln1"));
        let qkv = layers.plain_linear(normed, &name("qkv"), 3 * hidden, std);
        let attended = layers.plan.attention_fused(qkv, shape);
        let projected = layers.plain_linear(attended, &name("proj"), hidden, residual_std);
        x = layers.plan.add(x, projected);
        let normed = layers.block_norm(x, &name("ln2"));
        let inner = layers.plain_linear(normed, &name("fc1"), ffn, std);
        let activated = layers.plan.gelu(inner);
        let outer = layers.plain_linear(activated, &name("fc2"), hidden, residual_std);
        x = layers.plan.add(x, outer);
    }
    let normed = if config.precision == Precision::F32 {
        layers.layer_norm(x, "norm")
    } else {
        layers.rms_norm(x, "norm.weight", eps, BufferKind::Float)
    };
    let head = if config.tie_word_embeddings { table } else { layers.table("head.weight", config.vocab_size) };
    layers.plan.language_model_head(normed, head);
    layers.plan
}

impl Layers<'_> {
    /// A block's LayerNorm; quantized layers bring their own norm.
    fn block_norm(&mut self, x: BufferId, name: &str) -> BufferId {
        if self.config.precision == Precision::F32 { self.layer_norm(x, name) } else { x }
    }

    fn layer_norm(&mut self, x: BufferId, name: &str) -> BufferId {
        let gain = self.gain(&format!("{name}.weight"), x);
        let bias = self.bias(&format!("{name}.bias"), self.plan.buffer_spec(x).width);
        self.plan.layer_norm(x, gain, bias, LAYER_NORM_EPS)
    }

    /// A BitLinear, or in f32 a linear layer with bias.
    fn plain_linear(&mut self, x: BufferId, name: &str, outputs: usize, std: f32) -> BufferId {
        let weight =
            self.matrix(&format!("{name}.weight"), outputs, self.plan.buffer_spec(x).width, Init::Normal { std });
        if self.config.precision == Precision::F32 {
            let bias = self.bias(&format!("{name}.bias"), outputs);
            return self.plan.linear(x, weight, Some(bias), self.config.gradient_precision);
        }
        let eps = self.config.rms_norm_eps;
        let x = self.rms_norm(x, &format!("{name}.norm.weight"), eps, BufferKind::Quantized);
        self.plan.linear(x, weight, None, self.config.gradient_precision)
    }
}
