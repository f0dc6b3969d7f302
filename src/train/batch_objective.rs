//! A model on batches that the caller supplies.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::data::{Split, TokenBatch, Tokenizer};
use crate::dispatch::Context;
use crate::models::Model;
use crate::nn::{Executor, Mode, ParamStore, StepRandomness};
use crate::{Error, Result};

use super::config::TrainConfig;
use super::objective::{Evaluation, Objective};
use super::text_run::{make_model, open_tokenizer};
use super::trainer::Trainer;

/// Examples of one batch of an evaluation.
const EVALUATED_AT_ONCE: usize = 16;

/// Where batches come from. For a decoder language model an example is `length` tokens and the token to predict at each of
/// them; other models' heads say what they predict ([`crate::models::Head`]).
pub trait BatchSource {
    /// Number of training examples, at least 1.
    fn examples(&self) -> usize;

    /// Number of held-out examples; 0: none.
    fn held_out(&self) -> usize {
        0
    }

    /// Called once, with the model that will be trained. Error: batches that do not suit it.
    fn begin(&mut self, _model: &Model) -> Result<()> {
        Ok(())
    }

    /// Writes the `examples` of a split into a batch that holds `examples x length` zeros as tokens and as targets. Targets
    /// may be of another number and other parts filled, as the head needs. The same example is the same every time.
    fn read(&mut self, split: Split, examples: &[usize], batch: &mut TokenBatch) -> Result<()>;

    /// A text that tells this data from others: a checkpoint of another identity is refused.
    fn identity(&self) -> String;
}

/// A model's own loss on the batches of a [`BatchSource`].
#[derive(Debug)]
pub struct BatchObjective<S> {
    model: Model,
    tokenizer: Tokenizer,
    source: S,
    seq_length: usize,
    checkpoint_every: usize,
    executor: Option<Executor>,
    batch: TokenBatch,
}

impl<S: BatchSource> BatchObjective<S> {
    /// Trains `model` on examples of `seq_length` tokens. Error: an example longer than the model's context.
    pub fn new(model: Model, tokenizer: Tokenizer, mut source: S, seq_length: usize) -> Result<Self> {
        let context = model.config.max_position_embeddings;
        if seq_length > context {
            let expected = format!("at most the model's context {context}");
            return Err(Error::invalid("seq_length (--seq)", expected, seq_length));
        }
        source.begin(&model)?;
        let (checkpoint_every, executor, batch) = (0, None, TokenBatch::default());
        Ok(BatchObjective { model, tokenizer, source, seq_length, checkpoint_every, executor, batch })
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
        self.batch.reset(examples.len(), self.seq_length);
        self.source.read(split, examples, &mut self.batch)
    }
}

impl<S: BatchSource> Trainer<BatchObjective<S>> {
    /// A trainer of the model that `config` names (`model`, `init`, `tokenizer`) on the batches of `source`.
    pub fn on_batches(context: &Context, config: TrainConfig, source: S) -> Result<Self> {
        config.validate()?;
        let tokenizer = open_tokenizer(&config)?;
        let model = make_model(context, &config, &tokenizer)?;
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
        let capacity = self.batch.tokens.len().max(self.batch.source.len());
        let blocks = self.checkpoint_every;
        let executor = self.executor.get_or_insert_with(|| Executor::with_checkpoints(plan, blocks, capacity));
        executor.step(plan, context, store, self.batch.view(), randomness, gradient_scale)
    }

    fn evaluate(&mut self, context: &Context) -> Result<Option<Evaluation>> {
        let held_out = self.source.held_out();
        if held_out == 0 {
            return Ok(None);
        }
        let group = held_out.min(EVALUATED_AT_ONCE);
        let mut executor: Option<Executor> = None;
        let mut total = 0.0;
        for first in (0..held_out).step_by(group) {
            let examples: Vec<usize> = (first..(first + group).min(held_out)).collect();
            self.read(Split::Validation, &examples)?;
            let sequences = examples.len();
            let Model { plan, store, .. } = &mut self.model;
            let capacity = self.batch.tokens.len().max(self.batch.source.len());
            let executor = executor.get_or_insert_with(|| Executor::new(plan, Mode::Evaluate, capacity));
            let randomness = StepRandomness::default();
            total += executor.step(plan, context, store, self.batch.view(), randomness, 1.0)? * sequences as f64;
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
