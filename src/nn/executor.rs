//! Walks a plan forward and back over buffers whose memory is planned once.
//!
//! Every buffer is written by one operation, so its life is an interval of the walk (two, where its values are computed
//! once more for the backward pass); buffers whose lives do not meet share a slot. Gradients live from their last reader's
//! backward step to their producer's.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::key_value_cache::KeyValueCache;
use super::param_store::ParamStore;
use super::plan::Plan;
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
    /// Forward only, without targets: gives the logits of each sequence's last token.
    Generate,
}

/// Token ids of a batch: `sequences` rows of `length` tokens.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `sequences * length` ids, sequence after sequence.
    pub tokens: &'a [u32],
    /// The id to predict at each position; empty in [`Mode::Generate`].
    pub targets: &'a [u32],
    /// Number of sequences.
    pub sequences: usize,
    /// Tokens of each sequence.
    pub length: usize,
}

/// The seed and step that stochastic rounding and dropout draw from.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepRandomness {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run (and micro-batch: steps are multiplied by the accumulation count).
    pub step: u32,
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
    /// Mean loss in nats per target, set by the head.
    pub loss: f64,
    /// Logits of each sequence's last token `[sequences, vocabulary]`, set by the head in [`Mode::Generate`].
    pub logits: Vec<f32>,
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
    seconds: Vec<[Duration; 2]>,
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
        Executor {
            turns,
            buffers,
            workspace: Workspace::default(),
            mode,
            capacity,
            seconds: vec![[Duration::ZERO; 2]; plan.operations.len()],
        }
    }

    /// Bytes of activations and gradients of activations this executor holds, and of scratch memory used so far.
    pub fn planned_bytes(&self) -> usize {
        self.buffers.bytes() + self.workspace.bytes()
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
        if batch.targets.len() != batch.tokens.len() {
            return Err(Error::shape("step", "targets", batch.tokens.len(), batch.targets.len()));
        }
        let pass = self.run(plan, context, store, batch, randomness, gradient_scale, None)?;
        Ok(pass.0)
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
        let pass = self.run(plan, context, store, batch, StepRandomness::default(), 1.0, Some(cache))?;
        Ok(pass.1)
    }

    #[allow(clippy::too_many_arguments)]
    fn run(
        &mut self,
        plan: &Plan,
        context: &Context,
        store: &mut ParamStore,
        batch: Batch<'_>,
        randomness: StepRandomness,
        gradient_scale: f32,
        cache: Option<&mut KeyValueCache>,
    ) -> Result<(f64, Vec<f32>)> {
        let tokens = batch.sequences * batch.length;
        if batch.tokens.len() != tokens || tokens > self.capacity || tokens == 0 {
            let expected = format!("{} x {} tokens, 1 to {}", batch.sequences, batch.length, self.capacity);
            return Err(Error::shape("step", "tokens", expected, batch.tokens.len()));
        }
        let Executor { buffers, workspace, mode, turns, seconds, .. } = self;
        context.install(|| {
            buffers.begin(tokens);
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
                loss: 0.0,
                logits: Vec::new(),
            };
            for &Turn { action, operation: index } in turns.iter() {
                let (start, operation) = (Instant::now(), &plan.operations[index]);
                pass.operation = index as u32;
                if action == Action::Recompute {
                    operation.outputs().into_iter().for_each(|id| pass.buffers.recompute(id));
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
            Ok((pass.loss, pass.logits))
        })
    }
}
