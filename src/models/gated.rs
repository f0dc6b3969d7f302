//! The gated forms: Llama (Touvron et al. 2023) and BitNet b1.58 2B4T (Ma et al. 2025), which adds a norm before `o_proj`
//! and `down_proj`; Mistral is Llama with a window. Parameters are named as in Hugging Face files.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::config::{Activation, ModelConfig, ModelType};
use super::layers::{Declaration, Layers};
use super::sharing::BlockPart;
use crate::nn::ops::{Elementwise, RotaryTable};
use crate::nn::{BufferId, BufferKind};

/// Declares the gated form of `config`.
pub(super) fn build(config: &ModelConfig) -> Declaration {
    let mut layers = Layers::new(config);
    let (hidden, ffn, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim());
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let (eps, q_width, kv_width) = (config.rms_norm_eps, heads * head_dim, kv_heads * head_dim);
    let angles = RotaryTable::new(config.max_position_embeddings, head_dim, config.rope_theta, config.rope_scaling);
    let angles = Arc::new(angles);
    let table = layers.table("model.embed_tokens.weight", config.vocab_size);
    let mut x = layers.plan.embedding(table);
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        layers.enter(BlockPart::Attention, layer);
        let bias = config.attention_bias;
        let normed = layers.rms_norm(x, &name("input_layernorm.weight"), eps, layers.linear_input());
        let q = layers.linear(normed, &name("self_attn.q_proj"), q_width, bias);
        let k = layers.linear(normed, &name("self_attn.k_proj"), kv_width, bias);
        let v = layers.linear(normed, &name("self_attn.v_proj"), kv_width, bias);
        let (q, k) = (layers.plan.rope(q, &angles), layers.plan.rope(k, &angles));
        let attended = layers.plan.attention(q, k, v, config.attention_shape());
        let attended = layers.sub_norm(attended, &name("self_attn.attn_sub_norm.weight"));
        let projected = layers.linear(attended, &name("self_attn.o_proj"), hidden, bias);
        x = layers.plan.add(x, projected);

        layers.enter(BlockPart::FeedForward, layer);
        let bias = config.mlp_bias;
        let normed = layers.rms_norm(x, &name("post_attention_layernorm.weight"), eps, layers.linear_input());
        let gate = layers.linear(normed, &name("mlp.gate_proj"), ffn, bias);
        let up = layers.linear(normed, &name("mlp.up_proj"), ffn, bias);
        let inner = layers.gated(gate, up, &name("mlp.ffn_sub_norm.weight"));
        let outer = layers.linear(inner, &name("mlp.down_proj"), hidden, bias);
        x = layers.plan.add(x, outer);
    }
    layers.leave_blocks();
    let normed = layers.rms_norm(x, "model.norm.weight", eps, BufferKind::Float);
    let head = layers.head("lm_head.weight", table);
    layers.plan.language_model_head(normed, head, config.head_precision);
    layers.finish()
}

impl Layers<'_> {
    /// The gate and BitNet's norm behind it, as the input of the next linear layer.
    fn gated(&mut self, gate: BufferId, up: BufferId, norm: &str) -> BufferId {
        let function =
            if self.config.hidden_act == Activation::Relu2 { Elementwise::Relu2Gate } else { Elementwise::SiluGate };
        if self.config.model_type != ModelType::Bitnet {
            return self.activated(function, gate, Some(up));
        }
        if self.linear_input() == BufferKind::Quantized {
            let norm = (self.gain(norm, gate), self.config.rms_norm_eps);
            return self.plan.activation_quantize(function, gate, Some(up), Some(norm));
        }
        let inner = self.plan.activation(function, gate, Some(up));
        self.sub_norm(inner, norm)
    }

    /// BitNet's norm before a projection back to the residual stream. Llama has none.
    fn sub_norm(&mut self, x: BufferId, name: &str) -> BufferId {
        match self.config.model_type {
            ModelType::Bitnet => self.rms_norm(x, name, self.config.rms_norm_eps, self.linear_input()),
            _ => self.quantized(x),
        }
    }
}
