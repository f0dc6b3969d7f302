//! `hq_decoder`: a model's memory of the tokens it has read, for generating token by token.

use super::arguments::{at_least_one, expect_len, input, output, room_for, size};
use super::boundary::{Failure, Opaque, free_handle, guard, handle_mut, handle_ref, new_handle, place};
use super::context::{context_of, hq_context};
use super::model::hq_model;
use super::status::hq_status;
use crate::models::{Model, ModelConfig};
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
        let (value, out) = unsafe { (handle_ref(model, "model")?, place(out, "out")?) };
        let Model { config, plan, .. } = &value.model;
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
        }));
        Ok(())
    })
}

/// Reads `tokens` (`sequences x length` ids, `length` of each text after those read before) and gives the logits of each
/// text's last token: `logits`, `sequences x vocabulary`; `logits_len` must be their number. HQ_SHAPE: more tokens than the
/// decoder's capacity; HQ_INVALID_VALUE: an id that the model does not have, or a model of another configuration.
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
        let (decoder, value) = unsafe { (handle_mut(decoder, "decoder")?, handle_mut(model, "model")?) };
        let DecoderValue { executor, cache, config, chunk } = decoder;
        let Model { plan, store, config: of_model } = &mut value.model;
        if of_model != config {
            return Err(Failure::invalid("model", "the model that the decoder was made for", "another"));
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
            let batch = Batch { tokens: &columns, targets: &[], sequences, length: part, ..Batch::default() };
            found = executor.generate(plan, context, store, batch, cache)?;
        }
        logits.copy_from_slice(&found);
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
