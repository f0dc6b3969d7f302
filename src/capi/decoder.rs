//! `hq_decoder`: a model's memory of the tokens it has read, for generating token by token.

use super::arguments::{at_least_one, expect_len, input, output, room_for, size};
use super::boundary::{Failure, Opaque, free_handle, guard, handle_mut, handle_ref, new_handle, place};
use super::context::{context_of, hq_context};
use super::model::{hq_model, model_of};
use super::status::hq_status;
use crate::models::{Head, Model, ModelConfig};
use crate::nn::{Batch, Executor, KeyValueCache, Mode};

/// Tokens of a sequence that are read at a time: bounds the memory of activations.
const READ_TOKENS: usize = 256;
/// Most sequences side by side.
const MAX_SEQUENCES: usize = 4096;

/// Keys and values of the tokens that a model has read. One thread at a time may use it together with its model.
pub struct hq_decoder {
    _opaque: [u8; 0],
}

pub(super) struct DecoderValue {
    executor: Executor,
    cache: KeyValueCache,
    config: ModelConfig,
    chunk: usize,
    /// Of an encoder-decoder: what the encoder reads.
    source: Vec<u32>,
    source_lengths: Vec<u32>,
}

impl DecoderValue {
    /// What is remembered, for a model of this configuration.
    pub(super) fn cache_for(&mut self, config: &ModelConfig) -> Result<&mut KeyValueCache, Failure> {
        if *config != self.config {
            return Err(Failure::invalid("model", "the model that the decoder was made for", "another"));
        }
        Ok(&mut self.cache)
    }
}

impl Opaque for hq_decoder {
    type Value = DecoderValue;
    const NAME: &'static str = "hq_decoder";
}

/// Makes a decoder for `sequences` (1 to 4,096) texts side by side of up to `capacity` tokens each (at most the model's
/// context). HQ_SHAPE: more than fits into memory.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_decoder_new(
    model: *const hq_model,
    sequences: usize,
    capacity: usize,
    out: *mut *mut hq_decoder,
) -> hq_status {
    guard("hq_decoder_new", || {
        // SAFETY: as the caller vouches.
        let (value, out) = unsafe { (model_of(model)?, place(out, "out")?) };
        let Model { config, plan, .. } = &value.model;
        if !matches!(config.head, Head::LanguageModel | Head::Seq2Seq) {
            let found = format!("{:?} of model_type {}", config.head, config.model_type.name());
            return Err(Failure::invalid("model", "one with a head for the next token", found));
        }
        for (name, given, most) in
            [("sequences", sequences, MAX_SEQUENCES), ("capacity", capacity, config.max_position_embeddings)]
        {
            if given == 0 || given > most {
                return Err(Failure::invalid(name, format!("1 to {most}"), given));
            }
        }
        let width: usize = plan.cache_widths().iter().sum();
        room_for::<f32>(size(&[sequences, capacity, width, 2], "sequences x capacity")?, "sequences x capacity")?;
        let chunk = capacity.min(READ_TOKENS);
        out.write(new_handle(DecoderValue {
            executor: Executor::new(plan, Mode::Generate, sequences * chunk),
            cache: value.model.key_value_cache(sequences, capacity),
            config: config.clone(),
            chunk,
            source: Vec::new(),
            source_lengths: Vec::new(),
        }));
        Ok(())
    })
}

/// Reads `tokens` (`sequences x length` ids, `length` of each text after those read before) and gives the logits of each
/// text's last token: `logits`, `sequences x vocabulary`; `logits_len` must be their number. HQ_SHAPE: more tokens than the
/// decoder's capacity; HQ_INVALID_VALUE: an id that the model does not have, a model of another configuration, an
/// encoder-decoder without a source.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_decoder_read(
    decoder: *mut hq_decoder,
    model: *mut hq_model,
    context: *const hq_context,
    tokens: *const u32,
    length: usize,
    logits: *mut f32,
    logits_len: usize,
) -> hq_status {
    guard("hq_decoder_read", || {
        at_least_one(length, "length")?;
        // SAFETY: as the caller vouches.
        let (decoder, value) = unsafe { (handle_mut(decoder, "decoder")?, model_of(model)?) };
        let Model { plan, store, config } = &mut value.model;
        decoder.cache_for(config)?;
        let DecoderValue { executor, cache, chunk, source, source_lengths, .. } = decoder;
        if config.decoder.is_some() && source.is_empty() {
            return Err(Failure::invalid("decoder", "a source, by hq_decoder_set_source", "none"));
        }
        let (sequences, vocabulary) = (cache.sequences(), config.vocab_size);
        let len = size(&[sequences, length], "sequences x length")?;
        let room = cache.capacity() - cache.len();
        if length > room {
            return Err(Failure::shape("length", format!("at most {room}, the room left"), length));
        }
        expect_len(logits_len, size(&[sequences, vocabulary], "logits")?, "logits_len")?;
        // SAFETY: as the caller vouches.
        let (context, tokens) = unsafe { (context_of(context)?, input(tokens, len, "tokens")?) };
        // SAFETY: as the caller vouches.
        let logits = unsafe { output(logits, logits_len, "logits") }?;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Failure::invalid("tokens", format!("below the vocabulary's size {vocabulary}"), token));
        }
        let mut found = Vec::new();
        for first in (0..length).step_by(*chunk) {
            let part = (*chunk).min(length - first);
            let columns = tokens.chunks_exact(length).flat_map(|row| &row[first..first + part]);
            let columns: Vec<u32> = columns.copied().collect();
            let (tokens, lengths) = (&columns, &*source_lengths);
            let batch = Batch { tokens, lengths, source, sequences, length: part, ..Batch::default() };
            found = executor.generate(plan, context, store, batch, cache)?;
        }
        logits.copy_from_slice(&found);
        Ok(())
    })
}

/// Sets what the encoder of an encoder-decoder reads for each text, `sequences x length` ids (`source_count`), and forgets the
/// texts so far. `lengths` (NULL: all count) are the ids that count of each text. HQ_SHAPE: not as many for each text;
/// HQ_INVALID_VALUE: a model without an encoder, or of another configuration, an id that the model does not have, more ids than
/// its context.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_decoder_set_source(
    decoder: *mut hq_decoder,
    model: *const hq_model,
    source: *const u32,
    source_count: usize,
    lengths: *const u32,
) -> hq_status {
    guard("hq_decoder_set_source", || {
        // SAFETY: as the caller vouches.
        let (decoder, value) = unsafe { (handle_mut(decoder, "decoder")?, model_of(model)?) };
        let Model { plan, config, .. } = &value.model;
        let sequences = decoder.cache_for(config)?.sequences();
        if config.decoder.is_none() {
            return Err(Failure::invalid("model", "an encoder-decoder", config.model_type.name()));
        }
        let (length, most) = (source_count / sequences, config.context_length());
        if !source_count.is_multiple_of(sequences) || length == 0 || length > most {
            return Err(Failure::shape(
                "source_count",
                format!("1 to {most} for each of {sequences} texts"),
                source_count,
            ));
        }
        let count = if lengths.is_null() { 0 } else { sequences };
        // SAFETY: as the caller vouches.
        let (source, lengths) = unsafe { (input(source, source_count, "source")?, input(lengths, count, "lengths")?) };
        if let Some(token) = source.iter().find(|&&token| token as usize >= config.vocab_size) {
            return Err(Failure::invalid(
                "source",
                format!("below the vocabulary's size {}", config.vocab_size),
                token,
            ));
        }
        if let Some(count) = lengths.iter().find(|&&count| count == 0 || count as usize > length) {
            return Err(Failure::invalid("lengths", format!("1 to {length}"), count));
        }
        decoder.cache.clear();
        decoder.executor = Executor::new(plan, Mode::Generate, source_count.max(sequences * decoder.chunk));
        (decoder.source, decoder.source_lengths) = (source.to_vec(), lengths.to_vec());
        Ok(())
    })
}

/// Tokens of each text read so far.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_decoder_length(decoder: *const hq_decoder, length: *mut usize) -> hq_status {
    guard("hq_decoder_length", || {
        // SAFETY: as the caller vouches.
        let (decoder, length) = unsafe { (handle_ref(decoder, "decoder")?, place(length, "length")?) };
        length.write(decoder.cache.len());
        Ok(())
    })
}

/// Forgets all tokens from position `length` on; 0 forgets everything. A length beyond what was read changes nothing.
/// HQ_INVALID_VALUE: of a recurrent model (LSTM, GRU) all can be forgotten, a part cannot.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_decoder_truncate(decoder: *mut hq_decoder, length: usize) -> hq_status {
    guard("hq_decoder_truncate", || {
        // SAFETY: as the caller vouches.
        unsafe { handle_mut(decoder, "decoder") }?.cache.truncate(length)?;
        Ok(())
    })
}

/// Frees a decoder; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_decoder_free(decoder: *mut hq_decoder) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(decoder) };
}
