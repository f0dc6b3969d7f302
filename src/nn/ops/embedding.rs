//! Token embeddings.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use crate::dispatch::StochasticRounding;
use crate::nn::{BufferId, BufferKind, KeptPrecision, Operation, ParamId, Pass, PlanBuilder, Rows};
use crate::quant::{Coding, QuantizedWeight};
use crate::{Error, Result};

/// Tokens of a parallel block of the forward pass.
const BLOCK_TOKENS: usize = 64;
/// Blocks of table rows of the backward pass.
const GRADIENT_BLOCKS: usize = 256;
/// Random streams of the rounding of gradients kept in bf16 (see [`crate::tensor::RandomStream::new`]).
const KEPT_GRADIENT_PURPOSE: u32 = 59;
/// Draws of an operation in such a stream: no row is longer.
const DRAWS: usize = 1 << 32;

/// Which ids of the batch are looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ids {
    Tokens,
    TokenTypes,
    Source,
}

/// `y[t] = table[token[t]]`.
#[derive(Debug)]
pub struct Embedding {
    ids: Ids,
    table: ParamId,
    entries: usize,
    y: BufferId,
}

impl PlanBuilder {
    /// Looks the batch's token ids up in `table` `[entries, width]`.
    pub fn embedding(&mut self, table: ParamId) -> BufferId {
        self.embedding_of(Ids::Tokens, table)
    }

    /// Looks the batch's token types up in `table` `[types, width]`.
    pub fn token_type_embedding(&mut self, table: ParamId) -> BufferId {
        self.embedding_of(Ids::TokenTypes, table)
    }

    /// Looks the ids of the batch's source up in `table` `[entries, width]`.
    pub fn source_embedding(&mut self, table: ParamId) -> BufferId {
        self.embedding_of(Ids::Source, table)
    }

    fn embedding_of(&mut self, ids: Ids, table: ParamId) -> BufferId {
        let shape = &self.parameter_spec(table).shape;
        let (entries, width) = (shape[0], shape[1]);
        let y = self.buffer_of(if ids == Ids::Source { Rows::Source } else { Rows::Tokens }, BufferKind::Float, width);
        self.push(Embedding { ids, table, entries, y });
        y
    }
}

impl Embedding {
    fn looked_up<'a>(&self, pass: &Pass<'a>) -> Cow<'a, [u32]> {
        match self.ids {
            Ids::Tokens => Cow::Borrowed(pass.batch.tokens),
            Ids::Source => Cow::Borrowed(pass.batch.source),
            Ids::TokenTypes if pass.batch.token_types.is_empty() => Cow::Owned(vec![0; pass.batch.tokens.len()]),
            Ids::TokenTypes => Cow::Borrowed(pass.batch.token_types),
        }
    }
}

impl Operation for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn inputs(&self) -> Vec<BufferId> {
        Vec::new()
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.table]
    }

    fn fewest_bits(&self, id: ParamId) -> KeptPrecision {
        if id == self.table { KeptPrecision::Bf16 } else { KeptPrecision::F32 }
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let tokens = &self.looked_up(pass)[..];
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.entries) {
            let (name, of) = match self.ids {
                Ids::Tokens => ("token", "the vocabulary's size"),
                Ids::Source => ("source token", "the vocabulary's size"),
                Ids::TokenTypes => ("token type", "type_vocab_size"),
            };
            return Err(Error::invalid(name, format!("below {of} {}", self.entries), token));
        }
        let mut y = pass.buffers.take_float(self.y);
        let (len, width) = (pass.buffers.len(self.y), pass.buffers.width(self.y));
        let (table, kernels) = (pass.store.stored_weight(self.table), pass.context.kernels());
        if let Some(QuantizedWeight::Q8(table)) = pass.store.quantized(self.table) {
            let rows = y[..len].chunks_mut(width).zip(tokens);
            pass.context.for_each(rows, |(y, &token)| table.row(token as usize, y));
            pass.buffers.put_float(self.y, y);
            return Ok(());
        }
        let blocks = y[..len].chunks_mut(BLOCK_TOKENS * width).zip(tokens.chunks(BLOCK_TOKENS));
        pass.context.for_each(blocks, |(y, tokens)| {
            for (y, &token) in y.chunks_exact_mut(width).zip(tokens) {
                let first = token as usize * width;
                table.part(first..first + width).decode_row(kernels, y);
            }
        });
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    /// Each block of table rows walks all tokens in order and adds those that are its own: the order of additions is
    /// the same at every thread count.
    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (dy, tokens) = (pass.buffers.gradient(self.y), &self.looked_up(pass)[..]);
        let (width, kernels) = (pass.buffers.width(self.y), pass.context.kernels());
        let rows = self.entries.div_ceil(GRADIENT_BLOCKS);
        let (randomness, operation) = (pass.randomness, pass.operation as usize);
        let (_, gradient, _) = pass.store.stored_for_backward(self.table);
        pass.context.for_each(gradient.chunks(rows * width).enumerate(), |(block, mut gradient)| {
            let first = block * rows;
            for (token, (&entry, dy)) in tokens.iter().zip(dy.chunks_exact(width)).enumerate() {
                let row = (entry as usize).wrapping_sub(first);
                if row < rows {
                    let rounding =
                        StochasticRounding::new(randomness.seed, KEPT_GRADIENT_PURPOSE, randomness.step, token as u32);
                    let coding = Coding { is_signed: true, first: operation * DRAWS, rounding };
                    gradient.part(row * width..(row + 1) * width).update(kernels, coding, |sum| {
                        sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                    });
                }
            }
        });
        Ok(())
    }
}
