//! The language model head with its loss.
#![forbid(unsafe_code)]

mod int8;

use serde::{Deserialize, Serialize};

use crate::kernels::DenseMatrix;
use crate::nn::{BufferId, BufferKind, Mode, Operation, ParamId, Pass, PlanBuilder};
use crate::quant::QuantizedWeight;
use crate::tensor::AlignedBuffer;
use crate::{Error, Result};

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

/// Logits `x * table^T`, and the mean cross entropy of the next token in nats.
///
/// Chunk after chunk of tokens, so that logits of all tokens never exist at once. In training the forward pass also
/// computes both gradients while a chunk's logits are at hand, and keeps only the one of `x`.
#[derive(Debug)]
pub struct LanguageModelHead {
    x: BufferId,
    table: ParamId,
    vocabulary: usize,
    precision: HeadPrecision,
    dx: BufferId,
}

impl PlanBuilder {
    /// The head: `table` `[vocabulary, width]` in f32, usually the embedding's; `precision` of its products in training.
    /// Ends a plan.
    pub fn language_model_head(&mut self, x: BufferId, table: ParamId, precision: HeadPrecision) {
        let width = self.buffer_spec(x).width;
        let shape = &self.parameter_spec(table).shape;
        assert_eq!(shape[1], width, "language_model_head: width of the table");
        let vocabulary = shape[0];
        let dx = self.buffer(BufferKind::Float, width);
        self.push(LanguageModelHead { x, table, vocabulary, precision, dx });
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
        vec![self.table]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        if pass.mode == Mode::Generate {
            pass.logits = self.last_logits(pass);
            return Ok(());
        }
        let targets = pass.batch.targets;
        if let Some(target) = targets.iter().find(|&&target| target as usize >= self.vocabulary) {
            return Err(Error::invalid("target", format!("below the vocabulary's size {}", self.vocabulary), target));
        }
        let total = if pass.mode == Mode::Train && self.precision == HeadPrecision::Int8 {
            self.train_in_int8(pass)
        } else {
            self.run_in_f32(pass)
        };
        pass.loss = total / targets.len() as f64;
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

    /// The sum of the losses, and in training both gradients.
    fn run_in_f32(&self, pass: &mut Pass<'_>) -> f64 {
        let targets = pass.batch.targets;
        let (width, vocabulary) = (pass.buffers.width(self.x), self.vocabulary);
        let chunk = self.chunk_tokens(targets.len());
        let gradient_scale = pass.gradient_scale / targets.len() as f32;
        let (kernels, train) = (pass.context.kernels(), pass.mode == Mode::Train);
        let mut logits = pass.workspace.take_float(chunk * vocabulary);
        let mut losses = pass.workspace.take_float(chunk);
        let mut dx = pass.buffers.take_float(self.dx);
        let x = pass.buffers.float(self.x);
        let (table, d_table, form) = pass.store.backward_view(self.table);
        let mut values: AlignedBuffer<f32>;
        let table = match form {
            Some(QuantizedWeight::Q8(matrix)) => {
                values = AlignedBuffer::zeroed(vocabulary * width);
                matrix.dequantize(pass.context, &mut values);
                &values[..]
            }
            _ => table,
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
                if train {
                    kernels.cross_entropy_rows(logits, vocabulary, targets, losses, gradient_scale);
                } else {
                    kernels.cross_entropy_losses_rows(logits, vocabulary, targets, losses);
                }
            });
            total += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            if train {
                let (rows, columns) =
                    (DenseMatrix::new(logits, vocabulary), DenseMatrix::transposed(logits, vocabulary));
                let table = DenseMatrix::new(table, width);
                pass.context.matmul((tokens, width, vocabulary), rows, table, false, &mut dx[..tokens * width]);
                pass.context.matmul((vocabulary, width, tokens), columns, x, true, d_table);
            }
        }
        pass.buffers.put_float(self.dx, dx);
        pass.workspace.put_float(logits);
        pass.workspace.put_float(losses);
        total
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
