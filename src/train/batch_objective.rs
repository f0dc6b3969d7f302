//! A decoder language model on batches that the caller supplies.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::data::{Split, Tokenizer};
use crate::dispatch::Context;
use crate::models::Model;
use crate::nn::{Batch, Executor, Mode, ParamStore, StepRandomness};
use crate::{Error, Result};

use super::config::TrainConfig;
use super::objective::{Evaluation, Objective};
use super::text_run::{make_model, open_tokenizer};
use super::trainer::Trainer;

/// Examples of one batch of an evaluation.
const EVALUATED_AT_ONCE: usize = 16;

/// Where batches of tokens come from. An example is `length` tokens and the token to predict at each of them.
pub trait BatchSource {
    /// Number of training examples, at least 1.
    fn examples(&self) -> usize;

    /// Number of held-out examples; 0: none.
    fn held_out(&self) -> usize {
        0
    }

    /// Writes the `examples` of a split: `tokens` and `targets`, `examples x length` ids. The same example has the same
    /// ids every time.
    fn read(&mut self, split: Split, examples: &[usize], tokens: &mut [u32], targets: &mut [u32]) -> Result<()>;

    /// A text that tells this data from others: a checkpoint of another identity is refused.
    fn identity(&self) -> String;
}

/// Next-token prediction on the batches of a [`BatchSource`].
#[derive(Debug)]
pub struct BatchObjective<S> {
    model: Model,
    tokenizer: Tokenizer,
    source: S,
    seq_length: usize,
    checkpoint_every: usize,
    executor: Option<Executor>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
}

impl<S: BatchSource> BatchObjective<S> {
    /// Trains `model` on examples of `seq_length` tokens. Error: an example longer than the model's context.
    pub fn new(model: Model, tokenizer: Tokenizer, source: S, seq_length: usize) -> Result<Self> {
        let context = model.config.max_position_embeddings;
        if seq_length > context {
            let expected = format!("at most the model's context {context}");
            return Err(Error::invalid("seq_length (--seq)", expected, seq_length));
        }
        let (tokens, targets) = (Vec::new(), Vec::new());
        let (checkpoint_every, executor) = (0, None);
        Ok(BatchObjective { model, tokenizer, source, seq_length, checkpoint_every, executor, tokens, targets })
    }

    /// Keeps, between the passes of a step, only the inputs of every `blocks` blocks of the model; 0 keeps everything. See
    /// [`Executor::with_checkpoints`].
    pub fn with_checkpoints(mut self, blocks: usize) -> Self {
        self.checkpoint_every = blocks;
        self
    }

    /// Model and tokenizer, to generate with.
    pub fn generator(&mut self) -> (&mut Model, &Tokenizer) {
        (&mut self.model, &self.tokenizer)
    }

    fn read(&mut self, split: Split, examples: &[usize]) -> Result<()> {
        let len = examples.len() * self.seq_length;
        self.tokens.resize(len, 0);
        self.targets.resize(len, 0);
        self.source.read(split, examples, &mut self.tokens, &mut self.targets)
    }
}

impl<S: BatchSource> Trainer<BatchObjective<S>> {
    /// A trainer of the model that `config` names (`model`, `init`, `tokenizer`) on the batches of `source`.
    pub fn on_batches(context: &Context, config: TrainConfig, source: S) -> Result<Self> {
        config.validate()?;
        let tokenizer = open_tokenizer(&config)?;
        let model = make_model(&config, &tokenizer)?;
        let objective = BatchObjective::new(model, tokenizer, source, config.seq_length)?
            .with_checkpoints(config.gradient_checkpointing);
        Trainer::new(context.clone(), config, objective)
    }
}

impl<S: BatchSource> Objective for BatchObjective<S> {
    fn store(&self) -> &ParamStore {
        &self.model.store
    }

    fn store_mut(&mut self) -> &mut ParamStore {
        &mut self.model.store
    }

    fn examples(&self) -> usize {
        self.source.examples()
    }

    fn tokens_per_example(&self) -> usize {
        self.seq_length
    }

    fn loss_and_gradients(
        &mut self,
        context: &Context,
        indices: &[usize],
        randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64> {
        self.read(Split::Training, indices)?;
        let Model { plan, store, .. } = &mut self.model;
        let capacity = indices.len() * self.seq_length;
        let blocks = self.checkpoint_every;
        let executor = self.executor.get_or_insert_with(|| Executor::with_checkpoints(plan, blocks, capacity));
        let (sequences, length) = (indices.len(), self.seq_length);
        let batch = Batch { tokens: &self.tokens, targets: &self.targets, sequences, length };
        executor.step(plan, context, store, batch, randomness, gradient_scale)
    }

    fn evaluate(&mut self, context: &Context) -> Result<Option<Evaluation>> {
        let (held_out, length) = (self.source.held_out(), self.seq_length);
        if held_out == 0 {
            return Ok(None);
        }
        let group = held_out.min(EVALUATED_AT_ONCE);
        let mut executor = Executor::new(&self.model.plan, Mode::Evaluate, group * length);
        let mut total = 0.0;
        for first in (0..held_out).step_by(group) {
            let examples: Vec<usize> = (first..(first + group).min(held_out)).collect();
            self.read(Split::Validation, &examples)?;
            let sequences = examples.len();
            let batch = Batch { tokens: &self.tokens, targets: &self.targets, sequences, length };
            let Model { plan, store, .. } = &mut self.model;
            total += executor.step(plan, context, store, batch, StepRandomness::default(), 1.0)? * sequences as f64;
        }
        Ok(Some(Evaluation { loss: total / held_out as f64, bits_per_byte: None }))
    }

    fn save_model(&self, folder: &Path) -> Result<()> {
        self.model.save(folder)?;
        self.tokenizer.save(folder)
    }

    fn identity(&self) -> String {
        let config = self.model.config.to_json();
        let vocabulary = self.tokenizer.vocabulary();
        format!("batches {}\nvocabulary {vocabulary}\nmodel {config}", self.source.identity())
    }
}
