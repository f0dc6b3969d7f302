//! The head's products in f32.
//!
//! A table kept in bf16 is decoded block of entries by block, so that it never exists in f32 as a whole.
#![forbid(unsafe_code)]

use super::{BLOCK_ENTRIES, BLOCK_TOKENS, KEPT_GRADIENT_PURPOSE, LanguageModelHead, add_to_rows, dequantized};
use crate::dispatch::Context;
use crate::kernels::{DenseMatrix, StochasticRounding, dense_matmul};
use crate::nn::ops::cross_entropy::{cross_entropy, sum_by_sequence};
use crate::nn::ops::linear::{add_column_sums, add_gradient};
use crate::nn::{Mode, Pass, Workspace};
use crate::quant::{Stored, StoredMut};
use crate::tensor::AlignedBuffer;

/// Tokens of a parallel block of a product with a part of the table.
const PRODUCT_TOKENS: usize = 64;

impl LanguageModelHead {
    /// The sum of the losses, and in training the gradients.
    pub(super) fn run_in_f32(&self, pass: &mut Pass<'_>, counted: usize) -> f64 {
        let targets = pass.batch.targets;
        let (width, vocabulary) = (pass.buffers.width(self.x), self.vocabulary);
        let chunk = self.chunk_tokens(targets.len());
        let gradient_scale = pass.gradient_scale / counted as f32;
        let (randomness, operation) = (pass.randomness, pass.operation);
        let (kernels, train) = (pass.context.kernels(), pass.mode == Mode::Train);
        let mut logits = pass.workspace.take_float(chunk * vocabulary);
        let mut losses = pass.workspace.take_float(chunk);
        let mut dx = pass.buffers.take_float(self.dx);
        let bias = self.bias.map(|bias| pass.store.weight(bias).to_vec());
        let mut d_bias = vec![0.0; if train { bias.as_ref().map_or(0, Vec::len) } else { 0 }];
        let x = pass.buffers.float(self.x);
        let (table, mut d_table, form) = pass.store.stored_for_backward(self.table);
        let values: AlignedBuffer<f32>;
        let table = match dequantized(pass.context, form, vocabulary * width) {
            Some(dense) => {
                values = dense;
                Stored::F32(&values)
            }
            None => table,
        };
        let mut total = 0f64;
        let chunks = x.chunks(chunk * width).zip(dx.chunks_mut(chunk * width)).zip(targets.chunks(chunk));
        for (index, ((x, dx), targets)) in chunks.enumerate() {
            let tokens = targets.len();
            let (logits, losses) = (&mut logits[..tokens * vocabulary], &mut losses[..tokens]);
            logits_of(pass.context, pass.workspace, x, table, width, logits);
            let rows = losses.chunks_mut(BLOCK_TOKENS).zip(targets.chunks(BLOCK_TOKENS));
            let blocks = logits.chunks_mut(BLOCK_TOKENS * vocabulary).zip(rows);
            pass.context.for_each(blocks, |(logits, (losses, targets))| {
                add_to_rows(logits, bias.as_deref());
                cross_entropy(kernels, logits, vocabulary, targets, losses, train.then_some(gradient_scale));
            });
            let sums = &mut pass.sequence_losses[..];
            sum_by_sequence(pass.batch, index * chunk, vocabulary, logits, losses, sums);
            total += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            if train {
                input_gradient(pass.context, pass.workspace, logits, table, width, &mut dx[..tokens * width]);
                let stream = operation + ((index as u32) << 16);
                let rounding = StochasticRounding::new(randomness.seed, KEPT_GRADIENT_PURPOSE, randomness.step, stream);
                table_gradient(pass.context, pass.workspace, logits, x, &mut d_table, width, rounding);
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
}

/// Calls `work` with block after block of a table kept in bf16, in f32, and its first entry.
fn for_each_block(
    context: &Context,
    workspace: &mut Workspace,
    table: Stored<'_>,
    width: usize,
    mut work: impl FnMut(usize, &[f32]),
) {
    let mut block = workspace.take_float((BLOCK_ENTRIES * width).min(table.len()));
    for start in (0..table.len()).step_by(BLOCK_ENTRIES * width) {
        let part = table.part(start..table.len().min(start + BLOCK_ENTRIES * width));
        let decoded = &mut block[..part.len()];
        part.decode(context, decoded);
        work(start / width, decoded);
    }
    workspace.put_float(block);
}

/// `logits = x * table^T`.
fn logits_of(
    context: &Context,
    workspace: &mut Workspace,
    x: &[f32],
    table: Stored<'_>,
    width: usize,
    logits: &mut [f32],
) {
    let (tokens, vocabulary) = (x.len() / width, table.len() / width);
    if let Stored::F32(table) = table {
        let (x, table) = (DenseMatrix::new(x, width), DenseMatrix::transposed(table, width));
        return context.matmul((tokens, vocabulary, width), x, table, false, logits);
    }
    for_each_block(context, workspace, table, width, |first, block| {
        let tokens = logits.chunks_mut(PRODUCT_TOKENS * vocabulary).zip(x.chunks(PRODUCT_TOKENS * width));
        context.for_each(tokens, |(logits, x)| {
            let shape = (x.len() / width, block.len() / width, width);
            let (x, table) = (DenseMatrix::new(x, width), DenseMatrix::transposed(block, width));
            dense_matmul(shape, x, table, false, &mut logits[first..], vocabulary);
        });
    });
}

/// `dx = logits * table`, of the gradients that the logits have become.
fn input_gradient(
    context: &Context,
    workspace: &mut Workspace,
    logits: &[f32],
    table: Stored<'_>,
    width: usize,
    dx: &mut [f32],
) {
    let (tokens, vocabulary) = (dx.len() / width, table.len() / width);
    if let Stored::F32(table) = table {
        let (logits, table) = (DenseMatrix::new(logits, vocabulary), DenseMatrix::new(table, width));
        return context.matmul((tokens, width, vocabulary), logits, table, false, dx);
    }
    for_each_block(context, workspace, table, width, |first, block| {
        let tokens = dx.chunks_mut(PRODUCT_TOKENS * width).zip(logits.chunks(PRODUCT_TOKENS * vocabulary));
        context.for_each(tokens, |(dx, logits)| {
            let shape = (dx.len() / width, width, block.len() / width);
            let (logits, table) = (DenseMatrix::new(&logits[first..], vocabulary), DenseMatrix::new(block, width));
            dense_matmul(shape, logits, table, first > 0, dx, width);
        });
    });
}

/// `d_table += logits^T * x`.
fn table_gradient(
    context: &Context,
    workspace: &mut Workspace,
    logits: &[f32],
    x: &[f32],
    d_table: &mut StoredMut<'_>,
    width: usize,
    rounding: StochasticRounding,
) {
    let tokens = x.len() / width;
    let vocabulary = logits.len() / tokens;
    let x = DenseMatrix::new(x, width);
    if let StoredMut::F32(d_table) = d_table {
        let columns = DenseMatrix::transposed(logits, vocabulary);
        return context.matmul((vocabulary, width, tokens), columns, x, true, d_table);
    }
    for first in (0..vocabulary).step_by(BLOCK_ENTRIES) {
        let entries = BLOCK_ENTRIES.min(vocabulary - first);
        let columns = DenseMatrix::transposed(&logits[first..], vocabulary);
        let rows = d_table.part(first * width..(first + entries) * width);
        add_gradient(context, workspace, rows, first * width, rounding, |rows, accumulate| {
            context.matmul((entries, width, tokens), columns, x, accumulate, rows);
        });
    }
}
