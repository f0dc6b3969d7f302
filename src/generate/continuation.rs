//! Continuing a prompt, token by token.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use super::sampler::{Sampler, SamplerOptions};
use super::stop_filter::StopFilter;
use crate::data::Tokenizer;
use crate::dispatch::Context;
use crate::models::Model;
use crate::nn::{Batch, Executor, KeyValueCache, Mode};
use crate::{Error, Result};

/// A prompt is read in batches of at most this many tokens, which bounds the memory of activations.
const READ_TOKENS: usize = 256;

/// What to generate.
#[derive(Clone, PartialEq, Debug)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// Most tokens to generate.
    pub tokens: usize,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions { sampler: SamplerOptions::default(), tokens: 256, stop: Vec::new() }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// As many tokens as asked for.
    Length,
    /// The model's end-of-text token.
    EndOfText,
    /// A stop string.
    StopString,
    /// The callback asked for it.
    Interrupted,
}

/// A generated text.
#[derive(Clone, PartialEq, Debug)]
pub struct Continuation {
    /// The text after the prompt, as the callback saw it.
    pub text: String,
    /// The tokens drawn, with those of a stop string or end-of-text token.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt that were read (BOS, for an empty one).
    pub prompt_tokens: usize,
    /// Tokens of the prompt left out at its beginning because the model's context is shorter.
    pub dropped_tokens: usize,
    /// Why it ended.
    pub reason: StopReason,
}

/// Continues `prompt`; an empty one starts from BOS. `piece` is called with each piece of text as soon as it is certain:
/// whole characters, nothing of a stop string; the pieces together are [`Continuation::text`].
///
/// When the text outgrows the model's context, the last half of the context is read again and the text goes on after it.
/// The same model, prompt and options give the same tokens at any number of threads.
///
/// Errors: an option out of its range, a model of another kind, a tokenizer with more ids than the model, an empty prompt without BOS, logits that
/// are not finite.
pub fn generate(
    context: &Context,
    model: &mut Model,
    tokenizer: &Tokenizer,
    prompt: &str,
    options: &GenerateOptions,
    mut piece: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<Continuation> {
    model.config.check_language_model()?;
    tokenizer.check_vocabulary(model.config.vocab_size)?;
    let mut sampler = Sampler::new(options.sampler)?;
    let mut filter = StopFilter::new(&options.stop)?;
    let mut decoder = tokenizer.decoder(prompt.is_empty());
    let prompt_ids = read_prompt(tokenizer, model, prompt)?;
    let mut reader = Reader::new(model, prompt_ids.len(), options.tokens);
    let dropped_tokens = prompt_ids.len().saturating_sub(reader.cache.capacity());
    let mut tokens = prompt_ids;
    let prompt_len = tokens.len();
    let mut text = String::new();
    let mut reason = StopReason::Length;
    let mut unread = dropped_tokens; // the tokens from here on are not in the cache yet
    while tokens.len() - prompt_len < options.tokens {
        let mut logits = reader.read(context, model, &tokens, unread)?;
        unread = tokens.len();
        // A model may have more rows than its tokenizer has ids: they stand for no text.
        let known = logits.len().min(tokenizer.vocabulary());
        let id = sampler.sample(&mut logits[..known], &tokens)?;
        tokens.push(id);
        if Some(id) == tokenizer.eos() || model.config.eos_token_id.contains(&id) {
            reason = StopReason::EndOfText;
            break;
        }
        let (certain, stopped) = filter.push(&decoder.push(id));
        text.push_str(&certain);
        if !certain.is_empty() && piece(&certain).is_break() {
            reason = StopReason::Interrupted;
            break;
        }
        if stopped {
            reason = StopReason::StopString;
            break;
        }
    }
    if matches!(reason, StopReason::Length | StopReason::EndOfText) {
        let (mut rest, stopped) = filter.push(&decoder.finish());
        if stopped {
            reason = StopReason::StopString;
        } else {
            rest.push_str(&filter.finish());
        }
        text.push_str(&rest);
        if !rest.is_empty() && piece(&rest).is_break() {
            reason = StopReason::Interrupted;
        }
    }
    let tokens = tokens.split_off(prompt_len);
    Ok(Continuation { text, tokens, prompt_tokens: prompt_len - dropped_tokens, dropped_tokens, reason })
}

fn read_prompt(tokenizer: &Tokenizer, model: &Model, prompt: &str) -> Result<Vec<u32>> {
    let ids = tokenizer.encode_prompt(prompt)?;
    if !ids.is_empty() {
        return Ok(ids);
    }
    let bos = model.config.bos_token_id.or(tokenizer.bos());
    let missing = || Error::invalid("prompt", "some text (model and tokenizer have no BOS token)", "an empty prompt");
    bos.map(|bos| vec![bos]).ok_or_else(missing)
}

/// Feeds tokens to the model and keeps its cache inside the context.
struct Reader {
    executor: Executor,
    cache: KeyValueCache,
    batch: usize,
}

impl Reader {
    fn new(model: &Model, prompt: usize, tokens: usize) -> Self {
        let capacity = prompt.saturating_add(tokens).min(model.config.context_length()).max(1);
        let batch = capacity.min(READ_TOKENS);
        let executor = Executor::new(&model.plan, Mode::Generate, batch);
        Reader { executor, cache: model.key_value_cache(1, capacity), batch }
    }

    /// Reads `tokens[unread..]` after those in the cache; gives the logits of the last one.
    fn read(&mut self, context: &Context, model: &mut Model, tokens: &[u32], mut unread: usize) -> Result<Vec<f32>> {
        let capacity = self.cache.capacity();
        if self.cache.len() + (tokens.len() - unread) > capacity {
            self.cache.clear();
            unread = tokens.len() - (capacity / 2).max(1);
        }
        let mut logits = Vec::new();
        for tokens in tokens[unread..].chunks(self.batch) {
            let batch = Batch { tokens, targets: &[], sequences: 1, length: tokens.len(), ..Batch::default() };
            logits = self.executor.generate(&model.plan, context, &mut model.store, batch, &mut self.cache)?;
        }
        Ok(logits)
    }
}
