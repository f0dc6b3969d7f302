//! Walks a plan forward and back over buffers whose memory is planned once.
//!
//! Every buffer is written by one operation, so its life is an interval of the walk (two, where its values are computed
//! once more for the backward pass); buffers whose lives do not meet share a slot. Gradients live from their last reader's
//! backward step to their producer's.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::key_value_cache::KeyValueCache;
use super::param_store::{ParamId, ParamStore};
use super::plan::{BufferId, Plan};
use super::schedule::{Action, Turn, schedule};
use super::workspace::Workspace;
use crate::dispatch::Context;
use crate::{Error, Result};

/// What a walk is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Forward and backward: values that backward reads are kept.
    Train,
    /// Forward only, with targets: gives the loss.
    Evaluate,
    /// Forward only, without targets: gives the outputs.
    Generate,
}

/// A target that counts for nothing: a position without a word to predict, padding.
pub const IGNORED: u32 = u32::MAX;

/// Token ids of a batch: `sequences` rows of `length` tokens. A decoder language model reads the first four fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// `sequences * length` ids, sequence after sequence.
    pub tokens: &'a [u32],
    /// What the model's head is to predict, ids or [`IGNORED`]: one for each token, or as the head says; empty in
    /// [`Mode::Generate`].
    pub targets: &'a [u32],
    /// Number of sequences.
    pub sequences: usize,
    /// Tokens of each sequence.
    pub length: usize,
    /// The numbers that a regression head is to predict, `[sequences, outputs]`.
    pub values: &'a [f32],
    /// Segment of each token (BERT: 0 or 1); empty: all 0.
    pub token_types: &'a [u32],
    /// Tokens that count of each sequence an encoder reads; what lies behind them is padding. Empty: all of them.
    pub lengths: &'a [u32],
    /// What the encoder of an encoder-decoder reads: as many ids for each sequence. `tokens` is then the decoder's.
    pub source: &'a [u32],
    /// How often each sequence counts in the loss of a language model and its gradients, above 0; empty: once.
    pub weights: &'a [f32],
}

impl Batch<'_> {
    /// Error: parts that do not fit each other, the model, or a memory of `capacity` tokens.
    fn check(&self, plan: &Plan, capacity: usize) -> Result<()> {
        let tokens = self.sequences.saturating_mul(self.length);
        if self.tokens.len() != tokens || tokens > capacity || tokens == 0 {
            let expected = format!("{} x {} tokens, 1 to {capacity}", self.sequences, self.length);
            return Err(Error::shape("step", "tokens", expected, self.tokens.len()));
        }
        if ![0, tokens].contains(&self.token_types.len()) {
            return Err(Error::shape("step", "token_types", tokens, self.token_types.len()));
        }
        if ![0, self.sequences].contains(&self.weights.len()) {
            return Err(Error::shape("step", "weights", self.sequences, self.weights.len()));
        }
        if ![0, self.sequences].contains(&self.lengths.len()) {
            return Err(Error::shape("step", "lengths", self.sequences, self.lengths.len()));
        }
        let source = self.source.len();
        let is_read = plan.reads_source();
        if is_read == self.source.is_empty() || !source.is_multiple_of(self.sequences) || source > capacity {
            let expected =
                if is_read { format!("as many for each of {} sequences", self.sequences) } else { "none".into() };
            return Err(Error::shape("step", "source tokens", format!("{expected}, at most {capacity}"), source));
        }
        let most = if is_read { source / self.sequences } else { self.length };
        match self.lengths.iter().find(|&&length| length == 0 || length as usize > most) {
            Some(length) => Err(Error::invalid("length of a sequence", format!("1 to {most}"), length)),
            None => Ok(()),
        }
    }
}

/// The probabilities of one attention layer, which its queries give its keys.
#[derive(Clone, PartialEq, Debug)]
pub struct AttentionWeights {
    /// `[sequences, heads, queries, keys]`.
    pub values: Vec<f32>,
    /// Query heads.
    pub heads: usize,
    /// Queries of a sequence.
    pub queries: usize,
    /// Keys of a sequence.
    pub keys: usize,
}

/// The seed and step that stochastic rounding and dropout draw from.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepRandomness {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run (and micro-batch: steps are multiplied by the accumulation count).
    pub step: u32,
}

/// How far int8 gradients are from what they were rounded from: what is allowed, and what was found.
#[derive(Clone, PartialEq, Debug)]
pub struct GradientErrors {
    /// Largest relative error a layer's gradient may have in int8; a product beyond it is computed in f32. Infinite: not
    /// even looked at.
    pub limit: f32,
    /// Largest error found.
    pub largest: f32,
    /// Weights of the products computed in f32.
    pub in_f32: Vec<ParamId>,
}

impl Default for GradientErrors {
    fn default() -> Self {
        GradientErrors { limit: f32::INFINITY, largest: 0.0, in_f32: Vec::new() }
    }
}

impl GradientErrors {
    /// Notes the error of a gradient that a product with `weight` takes; whether it is allowed.
    pub(super) fn allow(&mut self, error: f32, weight: ParamId) -> bool {
        self.largest = self.largest.max(error);
        let allowed = error <= self.limit;
        if !allowed && !self.in_f32.contains(&weight) {
            self.in_f32.push(weight);
        }
        allowed
    }
}

/// What an operation sees of the walk. The fields are public so that they can be borrowed side by side.
#[derive(Debug)]
pub struct Pass<'a> {
    /// Threads and kernels.
    pub context: &'a Context,
    /// Parameters.
    pub store: &'a mut ParamStore,
    /// Activations and their gradients.
    pub buffers: &'a mut Buffers,
    /// Scratch memory.
    pub workspace: &'a mut Workspace,
    /// The input.
    pub batch: Batch<'a>,
    /// What the walk is for.
    pub mode: Mode,
    /// Position of the operation in the plan: the `tensor` of its random streams.
    pub operation: u32,
    /// Random streams of this step.
    pub randomness: StepRandomness,
    /// Factor on the gradient of the mean loss (1 / number of accumulated batches).
    pub gradient_scale: f32,
    /// Keys and values of the tokens before this batch, in [`Mode::Generate`].
    pub cache: Option<&'a mut KeyValueCache>,
    /// What int8 gradients may be off.
    pub gradient_errors: &'a mut GradientErrors,
    /// Mean loss in nats per target, set by the head.
    pub loss: f64,
    /// Mean loss of each sequence's tokens, set by a language model's head.
    pub sequence_losses: &'a mut Vec<f64>,
    /// The model's outputs, set by the head in [`Mode::Generate`]: of a language model the logits of each sequence's last
    /// token, `[sequences, vocabulary]`.
    pub logits: Vec<f32>,
    /// Where attention layers put their weights, if they are asked for them.
    pub attention: Option<Vec<AttentionWeights>>,
}

impl Pass<'_> {
    /// Position in the text of each sequence's first token of this batch: 0 unless generating.
    pub fn first_position(&self) -> usize {
        self.cache.as_ref().map_or(0, |cache| cache.len())
    }
}

/// Runs a plan: owns the activation memory for up to `capacity` tokens.
#[derive(Debug)]
pub struct Executor {
    buffers: Buffers,
    workspace: Workspace,
    mode: Mode,
    capacity: usize,
    turns: Vec<Turn>,
    /// What each operation writes.
    outputs: Vec<Vec<BufferId>>,
    /// Shapes of the products that operations list as scratch: in int8, in bf16, in f32.
    products: [Vec<(usize, usize, usize)>; 3],
    gradient_errors: GradientErrors,
    /// The source, with its lengths, that the encoder's buffers are of.
    encoded: [Vec<u32>; 2],
    seconds: Vec<[Duration; 2]>,
    sequence_losses: Vec<f64>,
}

impl Executor {
    /// Plans and reserves the memory for batches of up to `capacity` tokens.
    pub fn new(plan: &Plan, mode: Mode, capacity: usize) -> Self {
        Self::build(plan, mode, 0, capacity)
    }

    /// An executor for [`Mode::Train`] that keeps, between the passes, only the inputs of every `blocks` blocks of the
    /// model, and computes the rest of a group once more before its backward pass: less memory, the same bits. 0 keeps
    /// everything, as [`Executor::new`] does.
    pub fn with_checkpoints(plan: &Plan, blocks: usize, capacity: usize) -> Self {
        Self::build(plan, Mode::Train, blocks, capacity)
    }

    fn build(plan: &Plan, mode: Mode, checkpoint_every: usize, capacity: usize) -> Self {
        let turns = schedule(plan, mode, checkpoint_every);
        let buffers = Buffers::new(plan, mode, &turns, capacity);
        let mut workspace = Workspace::default();
        let mut products = [const { Vec::new() }; 3];
        for scratch in turns.iter().flat_map(|turn| plan.operations[turn.operation].scratch(plan, mode, capacity)) {
            workspace.reserve(&scratch);
            let listed = [scratch.int8_products, scratch.bf16_products, scratch.dense_products];
            products.iter_mut().zip(listed).for_each(|(all, listed)| all.extend(listed));
        }
        for shapes in &mut products {
            shapes.sort_unstable();
            shapes.dedup();
        }
        Executor {
            turns,
            encoded: Default::default(),
            buffers,
            workspace,
            outputs: plan.operations.iter().map(|operation| operation.outputs()).collect(),
            products,
            gradient_errors: GradientErrors::default(),
            mode,
            capacity,
            seconds: vec![[Duration::ZERO; 2]; plan.operations.len()],
            sequence_losses: Vec::new(),
        }
    }

    /// Bytes of activations, of gradients of activations, and of scratch memory.
    pub fn planned_bytes(&self) -> usize {
        self.buffers.bytes() + self.workspace.bytes()
    }

    /// Bytes that a thread of `context` comes to keep for the operands of products: panels of int8 and bf16 matrices, and what
    /// dense products pack.
    pub fn panel_bytes(&self, context: &Context) -> usize {
        let most = |which: usize, bytes: &dyn Fn((usize, usize, usize)) -> usize| {
            self.products[which].iter().map(|&shape| bytes(shape)).max().unwrap_or(0)
        };
        let of_int8 = most(0, &|shape| context.int8_panel_bytes(shape));
        let of_bf16 = most(1, &|shape| context.bf16_panel_bytes(shape));
        of_int8.max(of_bf16) + most(2, &|shape| context.dense_packing_bytes(shape))
    }

    /// Layers whose gradients in int8 would be off by more than `limit` (of their root mean square) have the product
    /// computed in f32, from the next step on.
    pub fn limit_gradient_errors(&mut self, limit: f32) {
        self.gradient_errors.limit = limit;
    }

    /// What was found since this was last asked for.
    pub fn take_gradient_errors(&mut self) -> GradientErrors {
        let limit = self.gradient_errors.limit;
        std::mem::replace(&mut self.gradient_errors, GradientErrors { limit, ..GradientErrors::default() })
    }

    /// Of the last step of a language model: the mean loss of each sequence's tokens, in nats. Empty for other models.
    pub fn sequence_losses(&self) -> &[f64] {
        &self.sequence_losses
    }

    /// Time spent in each operation so far: `[forward (the second included), backward]`, in plan order.
    pub fn times(&self) -> &[[Duration; 2]] {
        &self.seconds
    }

    /// One batch forward and, in [`Mode::Train`], backward: gradients of parameters are added to the store, scaled by
    /// `gradient_scale`. Gives the mean loss in nats per target.
    pub fn step(
        &mut self,
        plan: &Plan,
        context: &Context,
        store: &mut ParamStore,
        batch: Batch<'_>,
        randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64> {
        let request = Request { randomness, gradient_scale, ..Request::default() };
        Ok(self.run(plan, context, store, batch, request)?.loss)
    }

    /// As [`Executor::step`] for a recurrent model, whose state is taken from `cache` and left there; gradients do not reach
    /// back into it (truncated backpropagation through time). Error: a model with attention, a cache that does not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn step_with_state(
        &mut self,
        plan: &Plan,
        context: &Context,
        store: &mut ParamStore,
        batch: Batch<'_>,
        cache: &mut KeyValueCache,
        randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64> {
        if !plan.cache_widths().is_empty() {
            return Err(Error::invalid("model", "a recurrent one, to go on from a state", "one with attention"));
        }
        let request = Request { randomness, gradient_scale, cache: Some(cache), ..Request::default() };
        Ok(self.run(plan, context, store, batch, request)?.loss)
    }

    /// The outputs of an encoder's head for a batch without targets ([`Mode::Generate`]); each head says what they are.
    pub fn predict(
        &mut self,
        plan: &Plan,
        context: &Context,
        store: &mut ParamStore,
        batch: Batch<'_>,
    ) -> Result<Vec<f32>> {
        Ok(self.run(plan, context, store, batch, Request::default())?.logits)
    }

    /// As [`Executor::predict`], with the weights of every attention layer in plan order.
    pub fn predict_with_attention(
        &mut self,
        plan: &Plan,
        context: &Context,
        store: &mut ParamStore,
        batch: Batch<'_>,
    ) -> Result<(Vec<f32>, Vec<AttentionWeights>)> {
        let found = self.run(plan, context, store, batch, Request { attention: true, ..Request::default() })?;
        Ok((found.logits, found.attention))
    }

    /// Reads `batch` after the tokens in `cache`, appends to the cache, and gives the logits of each sequence's last
    /// token, `[sequences, vocabulary]`.
    pub fn generate(
        &mut self,
        plan: &Plan,
        context: &Context,
        store: &mut ParamStore,
        batch: Batch<'_>,
        cache: &mut KeyValueCache,
    ) -> Result<Vec<f32>> {
        Ok(self.run(plan, context, store, batch, Request { cache: Some(cache), ..Request::default() })?.logits)
    }

    fn run(
        &mut self,
        plan: &Plan,
        context: &Context,
        store: &mut ParamStore,
        batch: Batch<'_>,
        request: Request<'_>,
    ) -> Result<Found> {
        batch.check(plan, self.capacity)?;
        let mut request = request;
        if let Some(cache) = &mut request.cache {
            cache.check(batch.sequences, &plan.state_widths())?;
            cache.begin();
        }
        // What the encoder has made of the source of this text is still there.
        let goes_on = request.cache.as_ref().is_some_and(|cache| !cache.is_empty());
        let encoded = goes_on && !batch.source.is_empty() && self.encoded == [batch.source, batch.lengths];
        if !encoded {
            self.encoded = Default::default();
        }
        let Executor { buffers, workspace, mode, turns, seconds, gradient_errors, sequence_losses, outputs, .. } = self;
        sequence_losses.clear();
        let Request { randomness, gradient_scale, cache, attention } = request;
        let found = context.install(|| {
            buffers.begin([batch.tokens.len(), batch.sequences, batch.source.len()]);
            let mut pass = Pass {
                context,
                store,
                buffers,
                workspace,
                batch,
                mode: *mode,
                operation: 0,
                randomness,
                gradient_scale,
                cache,
                gradient_errors,
                loss: 0.0,
                sequence_losses,
                logits: Vec::new(),
                attention: attention.then(Vec::new),
            };
            for &Turn { action, operation: index } in turns.iter() {
                let (start, operation) = (Instant::now(), &plan.operations[index]);
                if encoded && plan.is_of_encoder(operation.as_ref()) {
                    continue;
                }
                pass.operation = index as u32;
                if action == Action::Recompute {
                    outputs[index].iter().for_each(|&id| pass.buffers.recompute(id));
                }
                match action {
                    Action::Forward | Action::Recompute => operation.forward(&mut pass)?,
                    Action::Backward => operation.backward(&mut pass)?,
                }
                seconds[index][usize::from(action == Action::Backward)] += start.elapsed();
            }
            if let Some(cache) = pass.cache {
                cache.advance(batch.length);
            }
            Ok::<_, Error>(Found {
                loss: pass.loss,
                logits: pass.logits,
                attention: pass.attention.unwrap_or_default(),
            })
        })?;
        if !encoded {
            self.encoded = [batch.source, batch.lengths].map(<[u32]>::to_vec);
        }
        Ok(found)
    }
}

/// What a walk is asked for beside its batch.
struct Request<'a> {
    randomness: StepRandomness,
    gradient_scale: f32,
    cache: Option<&'a mut KeyValueCache>,
    attention: bool,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Request { randomness: StepRandomness::default(), gradient_scale: 1.0, cache: None, attention: false }
    }
}

/// What a walk gives.
struct Found {
    loss: f64,
    logits: Vec<f32>,
    attention: Vec<AttentionWeights>,
}
