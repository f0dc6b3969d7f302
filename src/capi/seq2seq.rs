//! Texts of encoder-decoders.

use super::arguments::{Growable, input, optional_options, output};
use super::boundary::{Failure, guard, optional_place, place};
use super::context::{context_of, hq_context};
use super::model::{hq_model, model_of};
use super::status::hq_status;
use crate::generate::{BeamOptions, translate};

/// How a target is searched. Set `struct_size` to `sizeof(hq_beam_options)`; zero the rest for greedy decoding.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_beam_options {
    /// `sizeof(hq_beam_options)`.
    pub struct_size: u32,
    /// Texts followed at once; 0 or 1: greedy.
    pub beams: u32,
    /// Most tokens written; 0: 128.
    pub tokens: u32,
    /// A text's score is its log probability over its length to this power: above 0 favours longer texts.
    pub length_penalty: f32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_beam_options {
    const FIRST_SIZE: usize = size_of::<hq_beam_options>();
}

/// Writes the target of `source` (`source_count` ids) with an encoder-decoder, greedily or by beam search: `tokens`, which has
/// room for `capacity` (at least `options.tokens`), gets the ids, `*count` their number; the last is an end-of-text token if
/// the model came to one. `options` (NULL: greedy, 128 tokens) and `log_probability`, the natural logarithm of the text's
/// probability, may be NULL. The same model, source and options give the same ids at any number of threads.
/// HQ_INVALID_VALUE: a model that is no encoder-decoder, an option out of range, an id that the model does not have.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_translate(
    model: *mut hq_model,
    context: *const hq_context,
    source: *const u32,
    source_count: usize,
    options: *const hq_beam_options,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    log_probability: *mut f64,
) -> hq_status {
    guard("hq_model_translate", || {
        // SAFETY: as the caller vouches.
        let (model, context) = unsafe { (&mut model_of(model)?.model, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let (source, given) =
            unsafe { (input(source, source_count, "source")?, optional_options(options, "options")?) };
        let mut options = BeamOptions::default();
        if let Some(given) = given {
            options.beams = given.beams.max(1) as usize;
            options.length_penalty = given.length_penalty;
            if given.tokens > 0 {
                options.tokens = given.tokens as usize;
            }
        }
        let most = options.tokens.min(model.config.context_length());
        if capacity < most {
            return Err(Failure::shape("capacity", format!("at least {most}"), capacity));
        }
        // SAFETY: as the caller vouches.
        let (tokens, count) = unsafe { (output(tokens, most, "tokens")?, place(count, "count")?) };
        // SAFETY: as the caller vouches.
        let log_probability = unsafe { optional_place(log_probability, "log_probability") }?;
        let found = translate(context, model, source, &options)?;
        tokens[..found.tokens.len()].copy_from_slice(&found.tokens);
        count.write(found.tokens.len());
        if let Some(place) = log_probability {
            place.write(found.log_probability);
        }
        Ok(())
    })
}
