//! The language model head with its loss.
#![forbid(unsafe_code)]

mod int8;

use serde::{Deserialize, Serialize};

use super::cross_entropy::{counted_targets, cross_entropy};
use super::linear::add_column_sums;
use crate::Result;
use crate::dispatch::Context;
use crate::kernels::DenseMatrix;
use crate::nn::{BufferId, BufferKind, Mode, Operation, ParamId, Pass, Plan, PlanBuilder, Scratch};
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
/// Vocabulary entries of a parallel block of one token's logits.
const BLOCK_ENTRIES: usize = 1024;

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
        self.push(LanguageModelHead { x, table, bias, every_token, vocabulary, precision, dx });
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
        match (mode, self.precision) {
            (Mode::Generate, _) => Vec::new(),
            (Mode::Train, HeadPrecision::Int8) => vec![int8::scratch(width, vocabulary, chunk)],
            _ => vec![Scratch { floats: vec![chunk * vocabulary, chunk], ..Scratch::default() }],
        }
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        if pass.mode == Mode::Generate {
            pass.logits = if self.every_token { self.all_logits(pass) } else { self.last_logits(pass) };
            return Ok(());
        }
        let rows = pass.buffers.rows(self.x);
        let counted = counted_targets(pass.batch.targets, rows, self.vocabulary, "the vocabulary's size")?;
        let total = if pass.mode == Mode::Train && self.precision == HeadPrecision::Int8 {
            self.train_in_int8(pass, counted)
        } else {
            self.run_in_f32(pass, counted)
        };
        pass.loss = total / counted as f64;
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

    /// The sum of the losses, and in training the gradients.
    fn run_in_f32(&self, pass: &mut Pass<'_>, counted: usize) -> f64 {
        let targets = pass.batch.targets;
        let (width, vocabulary) = (pass.buffers.width(self.x), self.vocabulary);
        let chunk = self.chunk_tokens(targets.len());
        let gradient_scale = pass.gradient_scale / counted as f32;
        let (kernels, train) = (pass.context.kernels(), pass.mode == Mode::Train);
        let mut logits = pass.workspace.take_float(chunk * vocabulary);
        let mut losses = pass.workspace.take_float(chunk);
        let mut dx = pass.buffers.take_float(self.dx);
        let bias = self.bias.map(|bias| pass.store.weight(bias).to_vec());
        let mut d_bias = vec![0.0; if train { bias.as_ref().map_or(0, Vec::len) } else { 0 }];
        let x = pass.buffers.float(self.x);
        let (table, d_table, form) = pass.store.backward_view(self.table);
        let values: AlignedBuffer<f32>;
        let table = match dequantized(pass.context, form, vocabulary * width) {
            Some(dense) => {
                values = dense;
                &values[..]
            }
            None => table,
        };
        let mut total = 0f64;
        let chunks = x.chunks(chunk * width).zip(dx.chunks_mut(chunk * width)).zip(targets.chunks(chunk));
        for ((x, dx), targets) in chunks {
            let tokens = targets.len();
            let (logits, losses) = (&mut logits[..tokens * vocabulary], &mut losses[..tokens]);
            let x = DenseMatrix::new(x, width);
            let shape = (tokens, vocabulary, width);
            pass.context.matmul(shape, x, DenseMatrix::transposed(table, width), false, logits);
            let rows = losses.chunks_mut(BLOCK_TOKENS).zip(targets.chunks(BLOCK_TOKENS));
            let blocks = logits.chunks_mut(BLOCK_TOKENS * vocabulary).zip(rows);
            pass.context.for_each(blocks, |(logits, (losses, targets))| {
                add_to_rows(logits, bias.as_deref());
                cross_entropy(kernels, logits, vocabulary, targets, losses, train.then_some(gradient_scale));
            });
            total += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            if train {
                let (rows, columns) =
                    (DenseMatrix::new(logits, vocabulary), DenseMatrix::transposed(logits, vocabulary));
                let table = DenseMatrix::new(table, width);
                pass.context.matmul((tokens, width, vocabulary), rows, table, false, &mut dx[..tokens * width]);
                pass.context.matmul((vocabulary, width, tokens), columns, x, true, d_table);
                add_column_sums(pass.context, logits, vocabulary, &mut d_bias);
            }
        }
        if let Some(bias) = self.bias {
            pass.store.gradient_mut(bias).iter_mut().zip(&d_bias).for_each(|(sum, part)| *sum += part);
        }
        pass.buffers.put_float(self.dx, dx);
        pass.workspace.put_float(logits);
        pass.workspace.put_float(losses);
        total
    }

    /// Logits of all tokens, `[tokens, vocabulary]`.
    fn all_logits(&self, pass: &Pass<'_>) -> Vec<f32> {
        let (rows, width, vocabulary) = (pass.buffers.rows(self.x), pass.buffers.width(self.x), self.vocabulary);
        let dense = dequantized(pass.context, pass.store.quantized(self.table), vocabulary * width);
        let table = DenseMatrix::transposed(dense.as_deref().unwrap_or(pass.store.weight(self.table)), width);
        let mut logits = vec![0.0; rows * vocabulary];
        let x = DenseMatrix::new(pass.buffers.float(self.x), width);
        pass.context.matmul((rows, vocabulary, width), x, table, false, &mut logits);
        add_to_rows(&mut logits, self.bias.map(|bias| pass.store.weight(bias)));
        logits
    }

    /// Logits of each sequence's last token, `[sequences, vocabulary]`.
    fn last_logits(&self, pass: &Pass<'_>) -> Vec<f32> {
        let (x, width) = (pass.buffers.float(self.x), pass.buffers.width(self.x));
        let table = pass.store.weight(self.table);
        let mut logits = vec![0.0; pass.batch.sequences * self.vocabulary];
        if let Some(QuantizedWeight::Q8(matrix)) = pass.store.quantized(self.table) {
            for (x, logits) in x.chunks(pass.batch.length * width).zip(logits.chunks_mut(self.vocabulary)) {
                matrix.matvec(pass.context, &x[x.len() - width..], logits);
            }
            return logits;
        }
        for (x, logits) in x.chunks(pass.batch.length * width).zip(logits.chunks_mut(self.vocabulary)) {
            let last = DenseMatrix::transposed(&x[x.len() - width..], width);
            let blocks = logits.chunks_mut(BLOCK_ENTRIES).zip(table.chunks(BLOCK_ENTRIES * width));
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
