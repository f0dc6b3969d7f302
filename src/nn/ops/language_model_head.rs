//! The language model head with its loss.
#![forbid(unsafe_code)]

mod floats;
mod int8;

use serde::{Deserialize, Serialize};

use super::cross_entropy::counted_targets;
use crate::Result;
use crate::dispatch::Context;
use crate::kernels::DenseMatrix;
use crate::nn::{
    BufferId, BufferKind, KeptPrecision, Mode, Operation, ParamId, Pass, Plan, PlanBuilder, Products, Scratch,
};
use crate::quant::QuantizedWeight;
use crate::tensor::AlignedBuffer;

/// Arithmetic of the head's three products in training; evaluation and generation use f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadPrecision {
    /// Dense f32 products.
    #[default]
    F32,
    /// Integer products on int8 activations, table and gradients: a large vocabulary's head several times faster.
    Int8,
}

/// Logits held at a time: 32 MiB.
const CHUNK_LOGITS: usize = 1 << 23;
/// Bounds on the tokens of a chunk.
const CHUNK_TOKENS: (usize, usize) = (256, 2048);
/// Tokens of a parallel block of the cross entropy.
const BLOCK_TOKENS: usize = 16;
/// Vocabulary entries of one product: their panels stay in the caches.
const BLOCK_ENTRIES: usize = 2048;
/// Vocabulary entries of a parallel block of one token's logits.
const BLOCK_LOGITS: usize = 1024;
/// Random streams of the rounding of the table's gradient, where it is kept in bf16.
const KEPT_GRADIENT_PURPOSE: u32 = 60;

/// Logits `x * table^T + bias`, and the mean cross entropy of the targets that count in nats.
///
/// Chunk after chunk of tokens, so that logits of all tokens never exist at once. In training the forward pass also
/// computes both gradients while a chunk's logits are at hand, and keeps only the one of `x`.
#[derive(Debug)]
pub struct LanguageModelHead {
    x: BufferId,
    table: ParamId,
    bias: Option<ParamId>,
    /// Whether every token's logits are given out, not the last one's only.
    every_token: bool,
    vocabulary: usize,
    precision: HeadPrecision,
    /// Elements of the gradients in one piece beside the table's.
    idle_gradients: usize,
    dx: BufferId,
}

impl PlanBuilder {
    /// The head: `table` `[vocabulary, width]` in f32, usually the embedding's; `precision` of its products in training.
    /// Ends a plan.
    pub fn language_model_head(&mut self, x: BufferId, table: ParamId, precision: HeadPrecision) {
        self.push_language_model_head(x, table, None, false, precision);
    }

    /// The head of a masked language model, in f32: gives out the logits of all tokens, `[tokens, vocabulary]`. Positions
    /// whose target is [`crate::nn::IGNORED`] have no loss. Ends a plan.
    pub fn masked_language_model_head(&mut self, x: BufferId, table: ParamId, bias: ParamId) {
        self.push_language_model_head(x, table, Some(bias), true, HeadPrecision::F32);
    }

    fn push_language_model_head(
        &mut self,
        x: BufferId,
        table: ParamId,
        bias: Option<ParamId>,
        every_token: bool,
        precision: HeadPrecision,
    ) {
        let width = self.buffer_spec(x).width;
        let shape = &self.parameter_spec(table).shape;
        assert_eq!(shape[1], width, "language_model_head: width of the table");
        let vocabulary = shape[0];
        if let Some(bias) = bias {
            assert_eq!(self.parameter_spec(bias).len(), vocabulary, "language_model_head: a bias for every entry");
            assert_eq!(precision, HeadPrecision::F32, "language_model_head: precision of a head with a bias");
        }
        let dx = self.buffer_beside(x, BufferKind::Float, width);
        let idle_gradients = self.elements_around(table).into_iter().max().unwrap_or(0);
        self.push(LanguageModelHead { x, table, bias, every_token, vocabulary, precision, idle_gradients, dx });
    }
}

impl Operation for LanguageModelHead {
    fn name(&self) -> &'static str {
        "language_model_head"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.dx]
    }

    fn saved(&self) -> Vec<BufferId> {
        vec![self.dx]
    }

    fn parameters(&self) -> Vec<ParamId> {
        [Some(self.table), self.bias].into_iter().flatten().collect()
    }

    fn scratch(&self, plan: &Plan, mode: Mode, rows: usize) -> Vec<Scratch> {
        let (width, vocabulary, chunk) = (plan.buffer(self.x).width, self.vocabulary, self.chunk_tokens(rows));
        let of_block = |used: bool| if used { BLOCK_ENTRIES.min(vocabulary) * width } else { 0 };
        let [weights, gradients] = plan.in_fewer_bits();
        match (mode, self.precision) {
            (Mode::Generate, _) => Vec::new(),
            (Mode::Train, HeadPrecision::Int8) => {
                let idle = if gradients || !plan.begins_at_zero() { 0 } else { self.idle_gradients };
                vec![int8::scratch(width, vocabulary, chunk, of_block(gradients), idle)]
            }
            _ => {
                let floats = vec![chunk * vocabulary, chunk, of_block(weights || (gradients && mode == Mode::Train))];
                let products = [(chunk, vocabulary, width), (chunk, width, vocabulary), (vocabulary, width, chunk)];
                let dense_products = products[..if mode == Mode::Train { 3 } else { 1 }].to_vec();
                vec![Scratch { floats, dense_products, ..Scratch::default() }]
            }
        }
    }

    fn fewest_bits(&self, id: ParamId) -> KeptPrecision {
        if id == self.table { KeptPrecision::Bf16 } else { KeptPrecision::F32 }
    }

    /// All three forward: gradients are computed while a chunk's logits are at hand.
    fn products(&self, plan: &Plan, rows: usize, _length: usize) -> [Products; 2] {
        let all = 3.0 * rows as f64 * plan.buffer(self.x).width as f64 * self.vocabulary as f64;
        let none = Products::default();
        match self.precision {
            HeadPrecision::Int8 => [Products { int8: all, ..none }, none],
            HeadPrecision::F32 => [Products { f32: all, ..none }, none],
        }
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        if pass.mode == Mode::Generate {
            pass.logits = if self.every_token { self.all_logits(pass) } else { self.last_logits(pass) };
            return Ok(());
        }
        let rows = pass.buffers.rows(self.x);
        let counted = counted_targets(pass.batch.targets, rows, self.vocabulary, "the vocabulary's size")?;
        pass.sequence_losses.resize(pass.batch.sequences, 0.0);
        let total = if pass.mode == Mode::Train && self.precision == HeadPrecision::Int8 {
            self.train_in_int8(pass, counted)
        } else {
            self.run_in_f32(pass, counted)
        };
        pass.loss = total / counted as f64;
        let tokens = pass.batch.length as f64;
        pass.sequence_losses.iter_mut().for_each(|loss| *loss /= tokens);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut gradient = pass.buffers.take_gradient(self.x);
        let dx = pass.buffers.float(self.dx);
        gradient[..dx.len()].copy_from_slice(dx);
        pass.buffers.put_gradient(pass.context, self.x, gradient);
        Ok(())
    }
}

impl LanguageModelHead {
    /// Tokens of a chunk: a bounded number of logits.
    fn chunk_tokens(&self, tokens: usize) -> usize {
        (CHUNK_LOGITS / self.vocabulary).clamp(CHUNK_TOKENS.0, CHUNK_TOKENS.1).min(tokens)
    }

    /// Logits of all tokens, `[tokens, vocabulary]`.
    fn all_logits(&self, pass: &Pass<'_>) -> Vec<f32> {
        let (rows, width, vocabulary) = (pass.buffers.rows(self.x), pass.buffers.width(self.x), self.vocabulary);
        let dense = dequantized(pass.context, pass.store.quantized(self.table), vocabulary * width);
        let kept = pass.store.weight_values(self.table);
        let table = DenseMatrix::transposed(dense.as_deref().unwrap_or(&kept), width);
        let mut logits = vec![0.0; rows * vocabulary];
        let x = DenseMatrix::new(pass.buffers.float(self.x), width);
        pass.context.matmul((rows, vocabulary, width), x, table, false, &mut logits);
        add_to_rows(&mut logits, self.bias.map(|bias| pass.store.weight(bias)));
        logits
    }

    /// Logits of each sequence's last token, `[sequences, vocabulary]`.
    fn last_logits(&self, pass: &Pass<'_>) -> Vec<f32> {
        let (x, width) = (pass.buffers.float(self.x), pass.buffers.width(self.x));
        let table = pass.store.weight_values(self.table);
        let mut logits = vec![0.0; pass.batch.sequences * self.vocabulary];
        if let Some(QuantizedWeight::Q8(matrix)) = pass.store.quantized(self.table) {
            for (x, logits) in x.chunks(pass.batch.length * width).zip(logits.chunks_mut(self.vocabulary)) {
                matrix.matvec(pass.context, &x[x.len() - width..], logits);
            }
            return logits;
        }
        for (x, logits) in x.chunks(pass.batch.length * width).zip(logits.chunks_mut(self.vocabulary)) {
            let last = DenseMatrix::transposed(&x[x.len() - width..], width);
            let blocks = logits.chunks_mut(BLOCK_LOGITS).zip(table.chunks(BLOCK_LOGITS * width));
            pass.context.for_each(blocks, |(logits, table)| {
                let shape = (logits.len(), 1, width);
                crate::kernels::dense_matmul(shape, DenseMatrix::new(table, width), last, false, logits, 1);
            });
        }
        logits
    }
}

/// The values of a table that is kept in Q8_0.
fn dequantized(context: &Context, form: Option<&QuantizedWeight>, len: usize) -> Option<AlignedBuffer<f32>> {
    let Some(QuantizedWeight::Q8(matrix)) = form else { return None };
    let mut values = AlignedBuffer::zeroed(len);
    matrix.dequantize(context, &mut values);
    Some(values)
}

/// Adds a bias, if there is one, to each row.
fn add_to_rows(rows: &mut [f32], bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
}
