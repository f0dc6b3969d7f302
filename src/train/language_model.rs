//! Text and a decoder language model.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::cluster::WindowEmbedding;
use crate::data::{Split, TokenBatch, TokenDataset, Tokenizer};
use crate::dispatch::Context;
use crate::eval::language_model;
use crate::models::Model;
use crate::nn::{Executor, GradientErrors, HeadPrecision, Mode, ParamStore, StepRandomness};
use crate::tensor::RandomStream;
use crate::{Error, Result};

use super::objective::{Evaluation, Features, Objective};

/// Random streams of the places of training windows (see [`RandomStream::new`]).
const OFFSET_PURPOSE: u32 = 61;

/// Windows whose tokens are held at a time while all are embedded.
const EMBEDDED_AT_ONCE: usize = 1024;

/// Next-token prediction on windows of a text.
///
/// Example `i` is the stretch of `seq_length` tokens from `i * seq_length` on; each time it is drawn, its window begins at
/// a random token of that stretch, so that every window of the text can occur.
#[derive(Debug)]
pub struct LanguageModelObjective {
    model: Model,
    tokenizer: Tokenizer,
    dataset: TokenDataset,
    data_digest: String,
    stretches: Vec<usize>,
    last_offset: usize,
    seq_length: usize,
    eval_windows: usize,
    checkpoint_every: usize,
    gradient_error_limit: f32,
    executor: Option<Executor>,
    /// For losses alone.
    evaluator: Option<Executor>,
    batch: TokenBatch,
    /// Where the batch begins in the tokens.
    offsets: Vec<usize>,
}

impl LanguageModelObjective {
    /// Trains `model` on windows of `seq_length` tokens; an evaluation reads `eval_windows` windows. `data_digest` tells
    /// this text from others.
    ///
    /// Errors: a text shorter than a window, a window longer than the model's context, more token ids than the model has.
    pub fn new(
        model: Model,
        tokenizer: Tokenizer,
        dataset: TokenDataset,
        data_digest: String,
        seq_length: usize,
        eval_windows: usize,
    ) -> Result<Self> {
        tokenizer.check_vocabulary(model.config.vocab_size)?;
        let context = model.config.context_length();
        if seq_length > context {
            return Err(Error::invalid(
                "seq_length (--seq)",
                format!("at most the model's context {context}"),
                seq_length,
            ));
        }
        dataset.check_length(seq_length)?;
        let stretches = dataset.partition(seq_length)?;
        let last_offset = dataset.tokens(Split::Training) - seq_length - 1;
        Ok(LanguageModelObjective {
            model,
            tokenizer,
            dataset,
            data_digest,
            stretches,
            last_offset,
            seq_length,
            eval_windows,
            checkpoint_every: 0,
            gradient_error_limit: f32::INFINITY,
            executor: None,
            evaluator: None,
            batch: TokenBatch::default(),
            offsets: Vec::new(),
        })
    }

    /// Keeps, between the passes of a step, only the inputs of every `blocks` blocks of the model; 0 keeps everything. See
    /// [`Executor::with_checkpoints`].
    pub fn with_checkpoints(mut self, blocks: usize) -> Self {
        self.checkpoint_every = blocks;
        self
    }

    /// Layers whose gradient in int8 would be off by more than `limit` of it have the product computed in f32. See
    /// [`Executor::limit_gradient_errors`].
    pub fn with_gradient_error_limit(mut self, limit: f32) -> Self {
        self.gradient_error_limit = limit;
        self
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Model and tokenizer, to generate with.
    pub fn generator(&mut self) -> (&mut Model, &Tokenizer) {
        (&mut self.model, &self.tokenizer)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens.
    pub fn dataset(&self) -> &TokenDataset {
        &self.dataset
    }

    /// Makes the executor of training steps on batches of `examples` examples, unless there is one.
    pub fn prepare(&mut self, examples: usize) -> &mut Executor {
        let LanguageModelObjective { executor, model, checkpoint_every, seq_length, gradient_error_limit, .. } = self;
        executor.get_or_insert_with(|| {
            let mut executor = Executor::with_checkpoints(&model.plan, *checkpoint_every, examples * *seq_length);
            executor.limit_gradient_errors(*gradient_error_limit);
            executor
        })
    }

    /// Reads the windows of the examples `indices` that a step sees.
    fn read(&mut self, indices: &[usize], weights: &[f32], randomness: StepRandomness) {
        let mut stream = RandomStream::new(randomness.seed, OFFSET_PURPOSE, randomness.step, 0);
        let mut window = |&example: &usize| {
            let shift = stream.below(self.seq_length as u64) as usize;
            (self.stretches[example] + shift).min(self.last_offset)
        };
        self.offsets.clear();
        self.offsets.extend(indices.iter().map(&mut window));
        self.dataset.read(Split::Training, &self.offsets, self.seq_length, &mut self.batch);
        self.batch.weights.clear();
        self.batch.weights.extend_from_slice(weights);
    }

    /// The executor of training steps, once there was one: for the times of its operations and its memory.
    pub fn executor(&self) -> Option<&Executor> {
        self.executor.as_ref()
    }
}

impl Objective for LanguageModelObjective {
    fn store(&self) -> &ParamStore {
        &self.model.store
    }

    fn store_mut(&mut self) -> &mut ParamStore {
        &mut self.model.store
    }

    fn examples(&self) -> usize {
        self.stretches.len()
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
        self.weighted_loss_and_gradients(context, indices, &[], randomness, gradient_scale)
    }

    fn weighted_loss_and_gradients(
        &mut self,
        context: &Context,
        indices: &[usize],
        weights: &[f32],
        randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64> {
        self.read(indices, weights, randomness);
        self.prepare(indices.len());
        let executor = self.executor.as_mut().expect("made just now");
        let batch = self.batch.view();
        executor.step(&self.model.plan, context, &mut self.model.store, batch, randomness, gradient_scale)
    }

    fn example_losses(&self) -> &[f64] {
        self.executor.as_ref().map_or(&[], Executor::sequence_losses)
    }

    /// Forward only, where that gives the same bits: without dropout, and with the head in f32.
    fn loss(&mut self, context: &Context, indices: &[usize], randomness: StepRandomness) -> Result<f64> {
        let config = &self.model.config;
        let dropout = config.hidden_dropout > 0.0 || config.attention_dropout > 0.0;
        if dropout || config.head_precision != HeadPrecision::F32 {
            return self.loss_and_gradients(context, indices, randomness, 0.0);
        }
        self.read(indices, &[], randomness);
        let (capacity, plan) = (self.batch.tokens.len(), &self.model.plan);
        let evaluator = self.evaluator.get_or_insert_with(|| Executor::new(plan, Mode::Evaluate, capacity));
        evaluator.step(plan, context, &mut self.model.store, self.batch.view(), randomness, 1.0)
    }

    fn take_gradient_errors(&mut self) -> GradientErrors {
        self.executor.as_mut().map(Executor::take_gradient_errors).unwrap_or_default()
    }

    fn evaluate(&mut self, context: &Context) -> Result<Option<Evaluation>> {
        let report = language_model(context, &mut self.model, &self.dataset, self.eval_windows, self.seq_length)?;
        Ok(Some(Evaluation { loss: report.loss, bits_per_byte: Some(report.bits_per_byte) }))
    }

    fn features(&self, context: &Context) -> Result<Option<Features>> {
        let embedding = WindowEmbedding::default();
        let length = self.seq_length;
        let mut values = Vec::with_capacity(self.stretches.len() * embedding.dim());
        let mut batch = TokenBatch::default();
        for stretches in self.stretches.chunks(EMBEDDED_AT_ONCE) {
            self.dataset.read(Split::Training, stretches, length, &mut batch);
            let starts: Vec<usize> = (0..stretches.len()).map(|row| row * length).collect();
            values.extend(embedding.embed_windows(context, batch.view().tokens, &starts, length)?);
        }
        Ok(Some(Features { values, dim: embedding.dim() }))
    }

    fn save_model(&self, folder: &Path) -> Result<()> {
        self.model.save(folder)?;
        self.tokenizer.save(folder)
    }

    fn identity(&self) -> String {
        let config = self.model.config.to_json();
        format!("data {}\nvocabulary {}\nmodel {config}", self.data_digest, self.tokenizer.vocabulary())
    }
}
