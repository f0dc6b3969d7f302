//! Language modelling: how well a model predicts the next token of the validation text.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::data::{Split, TokenBatch, TokenDataset};
use crate::dispatch::Context;
use crate::models::Model;
use crate::nn::{Executor, Mode, StepRandomness};
use crate::{Error, Result};

/// Windows are evaluated in batches of about this many tokens (at least one window, at most 16).
const BATCH_TOKENS: usize = 1024;
const BATCH_WINDOWS: usize = 16;

/// The result of [`language_model`].
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct LanguageModelReport {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Loss in bits per byte of text: comparable between tokenizers.
    pub bits_per_byte: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Bytes of text they stand for.
    pub bytes: u64,
}

fn windows_at_once(windows: usize, length: usize) -> usize {
    (BATCH_TOKENS / length).clamp(1, BATCH_WINDOWS).min(windows)
}

/// Bytes that [`language_model`] holds while it runs, beside the model and the data.
pub fn language_model_bytes(model: &Model, windows: usize, length: usize) -> usize {
    // Memory that is never written is none.
    Executor::new(&model.plan, Mode::Evaluate, windows_at_once(windows, length) * length).planned_bytes()
}

/// Loss over `windows` evenly spaced windows of `length` tokens of the validation split, every position predicted
/// ([`TokenDataset::evaluation_offsets`]). The result does not depend on the number of threads.
///
/// Errors: a dataset with more ids than the model, a validation split shorter than a window, a window longer than the
/// model's context.
pub fn language_model(
    context: &Context,
    model: &mut Model,
    dataset: &TokenDataset,
    windows: usize,
    length: usize,
) -> Result<LanguageModelReport> {
    let config = &model.config;
    config.check_language_model()?;
    if dataset.vocabulary() > config.vocab_size {
        return Err(Error::invalid("tokenizer", format!("at most {} ids", config.vocab_size), dataset.vocabulary()));
    }
    if length > config.context_length() {
        let expected = format!("at most the model's {}", config.context_length());
        return Err(Error::invalid("sequence length", expected, length));
    }
    let offsets = dataset.evaluation_offsets(windows, length)?;
    let group = windows_at_once(windows, length);
    let mut executor = Executor::new(&model.plan, Mode::Evaluate, group * length);
    let mut batch = TokenBatch::default();
    let mut nats = 0.0;
    for offsets in offsets.chunks(group) {
        dataset.read(Split::Validation, offsets, length, &mut batch);
        let randomness = StepRandomness::default();
        let loss = executor.step(&model.plan, context, &mut model.store, batch.view(), randomness, 1.0)?;
        nats += loss * (offsets.len() * length) as f64;
    }
    let tokens = (windows * length) as u64;
    let bytes: u64 = offsets.iter().map(|&offset| dataset.target_bytes(offset, length)).sum();
    let loss = nats / tokens as f64;
    let bits_per_byte = nats / std::f64::consts::LN_2 / bytes as f64;
    Ok(LanguageModelReport { loss, perplexity: libm::exp(loss), bits_per_byte, tokens, bytes })
}
