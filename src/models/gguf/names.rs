//! Names of tensors, and the order of rows in rotated projections.
#![forbid(unsafe_code)]

use crate::models::{ModelConfig, ModelType};

/// How names of the layers of a classification begin.
pub(super) const CLASSIFIER: &str = "cls.";

/// What is outside the blocks: Hugging Face's name and llama.cpp's.
const OUTSIDE: [(&str, &str); 13] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("transformer.wte", "token_embd"),
    ("transformer.wpe", "position_embd"),
    ("transformer.ln_f", "output_norm"),
    ("lm_head", "output"),
    ("rope_freqs", "rope_freqs"),
    ("bert.embeddings.word_embeddings", "token_embd"),
    ("bert.embeddings.position_embeddings", "position_embd"),
    ("bert.embeddings.token_type_embeddings", "token_types"),
    ("bert.embeddings.LayerNorm", "token_embd_norm"),
    ("bert.pooler.dense", "cls"),
    ("classifier", "cls.output"),
];

/// What is inside them.
const INSIDE: [(&str, &str); 25] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.attn_sub_norm", "attn_sub_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.ffn_sub_norm", "ffn_sub_norm"),
    ("ln_1", "attn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
];

/// llama.cpp's name of the parameter that Hugging Face calls `name`; `None` if it has none.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    let (part, ending) = name.rsplit_once('.')?;
    let renamed =
        |table: &[(&str, &str)], part: &str| table.iter().find(|row| row.0 == part).map(|row| row.1.to_string());
    let block = ["model.layers.", "transformer.h.", "bert.encoder.layer."];
    let block = block.iter().find_map(|prefix| part.strip_prefix(prefix));
    let renamed = match block.and_then(|rest| rest.split_once('.')) {
        Some((number, inner)) => format!("blk.{number}.{}", renamed(&INSIDE, inner)?),
        None => renamed(&OUTSIDE, part)?,
    };
    Some(format!("{renamed}.{ending}"))
}

/// The heads of a projection whose rows llama.cpp's Llama wants in another order: it rotates neighbouring elements, where
/// Hugging Face files pair element `i` with `i + head_dim / 2`.
pub(super) fn rotated_heads(config: &ModelConfig, name: &str) -> Option<usize> {
    if !matches!(config.model_type, ModelType::Llama | ModelType::Mistral) {
        return None;
    }
    if name.contains(".self_attn.q_proj.") {
        return Some(config.num_attention_heads);
    }
    name.contains(".self_attn.k_proj.").then_some(config.num_key_value_heads)
}

/// Rows of `cols` elements, of `heads` heads, in llama.cpp's order.
pub(super) fn interleaved<T: Copy>(rows: &[T], heads: usize, cols: usize) -> Vec<T> {
    let half = rows.len() / cols / heads / 2;
    moved(rows, cols, |row| {
        let (head, place) = (row / (2 * half), row % (2 * half));
        head * 2 * half + place % 2 * half + place / 2
    })
}

/// The inverse of [`interleaved`].
pub(super) fn half_split<T: Copy>(rows: &[T], heads: usize, cols: usize) -> Vec<T> {
    let half = rows.len() / cols / heads / 2;
    moved(rows, cols, |row| {
        let (head, place) = (row / (2 * half), row % (2 * half));
        head * 2 * half + place % half * 2 + place / half
    })
}

/// Row `r` of the result is row `source(r)`.
fn moved<T: Copy>(rows: &[T], cols: usize, source: impl Fn(usize) -> usize) -> Vec<T> {
    (0..rows.len() / cols).flat_map(|row| rows[source(row) * cols..][..cols].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_cpps() {
        let name = |name: &str| gguf_name(name).unwrap();
        assert_eq!(name("model.layers.12.self_attn.q_proj.weight"), "blk.12.attn_q.weight");
        assert_eq!(name("transformer.h.0.mlp.c_proj.bias"), "blk.0.ffn_down.bias");
        assert_eq!(name("lm_head.weight"), "output.weight");
        assert_eq!(name("bert.encoder.layer.3.attention.output.LayerNorm.bias"), "blk.3.attn_output_norm.bias");
        assert_eq!(name("classifier.weight"), "cls.output.weight");
        assert_eq!(gguf_name("cls.predictions.bias"), None);
        assert_eq!(gguf_name("blocks.0.qkv.weight"), None);
    }

    #[test]
    fn heads_are_reordered_and_back() {
        // Two heads of four rows of one element.
        let rows = [0, 1, 2, 3, 10, 11, 12, 13];
        assert_eq!(interleaved(&rows, 2, 1), [0, 2, 1, 3, 10, 12, 11, 13]);
        let wide: Vec<u32> = (0..2 * 6 * 3).collect();
        assert_eq!(half_split(&interleaved(&wide, 2, 3), 2, 3), wide);
    }
}
