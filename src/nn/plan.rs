//! Plans: operations over buffers, and the builder that models write them with.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::executor::{Mode, Pass};
use super::numbers::KeptPrecision;
use super::param_store::{Init, ParamId, ParamKind, ParamSpec, ParamStore, Precision};
use crate::Result;

/// Names an activation buffer of one plan.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BufferId(pub(super) usize);

/// What a buffer holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BufferKind {
    /// f32 `[tokens, width]`.
    Float,
    /// int8 `[tokens, width]` with a scale and a sum per token ([`crate::quant::QuantizedRows`]). Its gradient is f32.
    Quantized,
}

/// What a buffer has a row for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rows {
    /// Each token of the batch.
    Tokens,
    /// Each sequence of the batch.
    Sequences,
    /// Each token of the batch's source, which the encoder of an encoder-decoder reads.
    Source,
}

/// A declared buffer: rows of `width` elements.
#[derive(Clone, Copy, Debug)]
pub struct BufferSpec {
    /// What it has a row for.
    pub rows: Rows,
    /// Element type.
    pub kind: BufferKind,
    /// Elements in a row.
    pub width: usize,
}

/// Scratch memory that an operation holds at a time, in the order in which it is taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scratch {
    /// Lengths of float buffers.
    pub floats: Vec<usize>,
    /// Rows and widths of int8 buffers.
    pub quantized: Vec<(usize, usize)>,
    /// Shapes `(m, n, k)` of products of int8 matrices, whose panels the threads keep.
    pub int8_products: Vec<(usize, usize, usize)>,
    /// The same of products in bf16.
    pub bf16_products: Vec<(usize, usize, usize)>,
    /// Shapes of dense f32 products, for which threads pack their operands.
    pub dense_products: Vec<(usize, usize, usize)>,
}

/// Multiply-adds of the matrix products of a pass, by their arithmetic: what bounds its time from below.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Products {
    /// On int8, of packed weights too.
    pub int8: f64,
    /// On bf16.
    pub bf16: f64,
    /// On f32.
    pub f32: f64,
}

/// One step of a plan, forward and backward side by side.
///
/// Contract: a buffer is written by one operation only. `backward` reads gradients of [`Operation::outputs`] and
/// *overwrites* the gradients of [`Operation::inputs`] handed out by [`super::Buffers::take_gradient`]; the executor adds them up
/// where a buffer has several readers. Gradients of parameters are *added to* the store.
pub trait Operation: std::fmt::Debug + Send + Sync {
    /// A short name for errors and profiles (`linear`).
    fn name(&self) -> &'static str;
    /// Buffers read by `forward`; gradients flow to them.
    fn inputs(&self) -> Vec<BufferId>;
    /// Buffers written by `forward`.
    fn outputs(&self) -> Vec<BufferId>;
    /// Inputs and outputs whose forward values `backward` reads; none unless it says so.
    fn saved(&self) -> Vec<BufferId> {
        Vec::new()
    }
    /// Parameters read; none unless it says so.
    fn parameters(&self) -> Vec<ParamId> {
        Vec::new()
    }
    /// Width of the keys (and of the values) this operation appends to the cache in generation: attention only.
    fn cache_width(&self) -> Option<usize> {
        None
    }
    /// Elements of the state of a sequence that this operation hands on from batch to batch: recurrent layers only.
    fn state_width(&self) -> Option<usize> {
        None
    }
    /// Whether the outputs are computed once more for the backward pass instead of being kept: where that takes little
    /// time beside the memory.
    fn is_cheap(&self) -> bool {
        false
    }
    /// The fewest bits that this operation takes a parameter's weights in ([`Plan::keep_parameters`]), and its gradient in if
    /// they are no fewer than bf16's: f32 unless it says so.
    fn fewest_bits(&self, _id: ParamId) -> KeptPrecision {
        KeptPrecision::F32
    }
    /// What the passes in `mode` take from the workspace for batches of up to `rows` rows: each entry is held at a time.
    fn scratch(&self, _plan: &Plan, _mode: Mode, _rows: usize) -> Vec<Scratch> {
        Vec::new()
    }
    /// The products of the passes forward and backward over sequences of `length` tokens, `rows` in all. None unless it says
    /// so; element-wise work is not counted.
    fn products(&self, _plan: &Plan, _rows: usize, _length: usize) -> [Products; 2] {
        Default::default()
    }
    /// Computes the outputs.
    fn forward(&self, pass: &mut Pass<'_>) -> Result<()>;
    /// Computes the gradients of inputs and parameters.
    fn backward(&self, pass: &mut Pass<'_>) -> Result<()>;
}

/// A model's operations in order, over numbered buffers and parameters. Immutable once built.
#[derive(Debug)]
pub struct Plan {
    pub(super) operations: Vec<Box<dyn Operation>>,
    pub(super) buffers: Vec<BufferSpec>,
    /// Operations of each block of the model, in order.
    pub(super) blocks: Vec<Range<usize>>,
    /// Whether weights, and gradients, are kept in fewer bits than f32 where all operations take that.
    in_fewer_bits: [bool; 2],
    sums_batches: bool,
}

impl Plan {
    /// The operations in forward order.
    pub fn operations(&self) -> &[Box<dyn Operation>] {
        &self.operations
    }

    /// Widths of the attention layers' keys, in plan order: what a [`super::KeyValueCache`] is made for.
    pub fn cache_widths(&self) -> Vec<usize> {
        self.operations.iter().filter_map(|operation| operation.cache_width()).collect()
    }

    /// Elements of the states of a sequence, recurrent layer after layer: see [`super::KeyValueCache::with_states`].
    pub fn state_widths(&self) -> Vec<usize> {
        self.operations.iter().filter_map(|operation| operation.state_width()).collect()
    }

    /// Keeps latent weights and gradients so from here on, as far as all operations take it: matrices of quantized layers, and
    /// token tables in bf16 at best; gradients in f32 or bf16. They are rounded stochastically, by `seed`, whenever they
    /// change. Executors made before must not be used any more.
    pub fn keep_parameters(
        &mut self,
        store: &mut ParamStore,
        weights: KeptPrecision,
        gradients: KeptPrecision,
        seed: u64,
    ) {
        self.in_fewer_bits = [weights, gradients].map(|kept| kept != KeptPrecision::F32);
        let fewest = |id: ParamId| {
            let users = self.operations.iter().filter(|operation| operation.parameters().contains(&id));
            users.map(|operation| operation.fewest_bits(id)).min().unwrap_or_default()
        };
        store.keep(seed, |id| [weights.min(fewest(id)), gradients.min(KeptPrecision::Bf16).min(fewest(id))]);
    }

    /// Whether a parameter that an operation takes in fewer bits has its weights, and its gradient, so.
    pub(super) fn in_fewer_bits(&self) -> [bool; 2] {
        self.in_fewer_bits
    }

    /// Several batches are summed into the gradients before they become zero again: executors made from here on take memory
    /// of their own for what else lies in gradients that nothing has been added to yet.
    pub fn sum_batches(&mut self) {
        self.sums_batches = true;
    }

    /// Whether the gradients in f32 are zero when a forward pass begins.
    pub(super) fn begins_at_zero(&self) -> bool {
        !self.sums_batches
    }

    /// Whether the model has an encoder for a source of its own.
    pub(super) fn reads_source(&self) -> bool {
        self.buffers.iter().any(|buffer| buffer.rows == Rows::Source)
    }

    /// Whether an operation works for the source alone: what it gives stays the same while a text is written.
    pub(super) fn is_of_encoder(&self, operation: &dyn Operation) -> bool {
        let outputs = operation.outputs();
        !outputs.is_empty() && outputs.iter().all(|&id| self.buffer(id).rows == Rows::Source)
    }

    /// A buffer's declaration.
    pub fn buffer(&self, id: BufferId) -> BufferSpec {
        self.buffers[id.0]
    }
}

/// Writes a plan top to bottom, as the model's paper reads. Each operation adds its own method in its own file.
#[derive(Debug, Default)]
pub struct PlanBuilder {
    operations: Vec<Box<dyn Operation>>,
    buffers: Vec<BufferSpec>,
    parameters: Vec<ParamSpec>,
    cache_layers: usize,
    states: usize,
    blocks: Vec<Range<usize>>,
    block_start: Option<usize>,
}

impl PlanBuilder {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a parameter.
    pub fn parameter(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        kind: ParamKind,
        precision: Precision,
        init: Init,
    ) -> ParamId {
        self.parameters.push(ParamSpec { name: name.into(), shape: shape.to_vec(), kind, precision, init });
        ParamId(self.parameters.len() - 1)
    }

    /// The declaration of a parameter, for shape checks while building.
    pub fn parameter_spec(&self, id: ParamId) -> &ParamSpec {
        &self.parameters[id.0]
    }

    /// Elements of the parameters declared before one, and of those declared after it so far.
    pub(super) fn elements_around(&self, id: ParamId) -> [usize; 2] {
        [&self.parameters[..id.0], &self.parameters[id.0 + 1..]].map(|part| part.iter().map(ParamSpec::len).sum())
    }

    /// Declares a buffer with a row for each token.
    pub fn buffer(&mut self, kind: BufferKind, width: usize) -> BufferId {
        self.buffer_of(Rows::Tokens, kind, width)
    }

    /// Declares a buffer.
    pub fn buffer_of(&mut self, rows: Rows, kind: BufferKind, width: usize) -> BufferId {
        self.buffers.push(BufferSpec { rows, kind, width });
        BufferId(self.buffers.len() - 1)
    }

    /// Declares a buffer with as many rows as `x`.
    pub fn buffer_beside(&mut self, x: BufferId, kind: BufferKind, width: usize) -> BufferId {
        self.buffer_of(self.buffer_spec(x).rows, kind, width)
    }

    /// A buffer's declaration.
    pub fn buffer_spec(&self, id: BufferId) -> BufferSpec {
        self.buffers[id.0]
    }

    /// The layer of the key-value cache for the next attention operation.
    pub(super) fn next_cache_layer(&mut self) -> usize {
        self.cache_layers += 1;
        self.cache_layers - 1
    }

    /// The place of the state of the next recurrent operation.
    pub(super) fn next_state(&mut self) -> usize {
        self.states += 1;
        self.states - 1
    }

    /// What follows is a block of the model, a unit of gradient checkpointing, up to the next or to
    /// [`PlanBuilder::end_block`].
    pub fn begin_block(&mut self) {
        self.end_block();
        self.block_start = Some(self.operations.len());
    }

    /// What follows belongs to no block.
    pub fn end_block(&mut self) {
        let end = self.operations.len();
        self.blocks.extend(self.block_start.take().map(|start| start..end).filter(|block| !block.is_empty()));
    }

    /// Appends an operation.
    pub fn push(&mut self, operation: impl Operation + 'static) {
        self.operations.push(Box::new(operation));
    }

    /// The plan and the parameters it was declared with.
    pub fn finish(mut self) -> (Plan, Vec<ParamSpec>) {
        self.end_block();
        let Self { operations, buffers, blocks, parameters, .. } = self;
        (Plan { operations, buffers, blocks, in_fewer_bits: [false; 2], sums_batches: false }, parameters)
    }
}
