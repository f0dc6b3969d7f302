//! What generating text takes, and the choice of the next token.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

use super::arguments::{Growable, input, optional_options};
use super::boundary::{Failure, Opaque, free_handle, guard, handle_mut, new_handle, place};
use super::status::hq_status;
use crate::data::Tokenizer;
use crate::dispatch::Context;
use crate::generate::{GenerateOptions, Sampler, SamplerOptions, StopReason, generate};
use crate::models::Model;

/// Draws tokens from logits. One thread at a time may use it.
pub struct hq_sampler {
    _opaque: [u8; 0],
}

impl Opaque for hq_sampler {
    type Value = Sampler;
    const NAME: &'static str = "hq_sampler";
}

/// How text is generated. Set `struct_size` to `sizeof(hq_generate_options)`; zero the rest for greedy decoding.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_generate_options {
    /// `sizeof(hq_generate_options)`.
    pub struct_size: u32,
    /// Most tokens to generate; 0: 256.
    pub tokens: u32,
    /// 0 takes the most likely token; else logits are divided by it.
    pub temperature: f32,
    /// Draw from this many most likely tokens; 0: all.
    pub top_k: u32,
    /// Draw from the fewest tokens whose probabilities sum to this; 0: all.
    pub top_p: f32,
    /// Divides logits of tokens that occurred; 0: off.
    pub repetition_penalty: f32,
    /// Seed of the draws.
    pub seed: u64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_generate_options {
    const FIRST_SIZE: usize = 32;
}

/// Gets each piece of text as soon as it is certain (`bytes` of UTF-8, not NUL-terminated, whole characters) and the
/// caller's pointer, on the calling thread. A result other than 0 stops the generation.
pub type hq_text_callback =
    Option<unsafe extern "C" fn(piece: *const c_char, bytes: usize, user_data: *mut c_void) -> i32>;

/// # Safety
/// `options` is NULL or points to a struct of as many bytes as its first field says.
unsafe fn options_of(options: *const hq_generate_options) -> Result<GenerateOptions, Failure> {
    // SAFETY: as the caller vouches.
    let Some(options) = unsafe { optional_options(options, "options") }? else {
        let sampler = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
        return Ok(GenerateOptions { sampler, ..GenerateOptions::default() });
    };
    let or = |value: f32, default: f32| if value == 0.0 { default } else { value };
    Ok(GenerateOptions {
        sampler: SamplerOptions {
            temperature: options.temperature,
            top_k: (options.top_k != 0).then_some(options.top_k as usize),
            top_p: or(options.top_p, 1.0),
            repetition_penalty: or(options.repetition_penalty, 1.0),
            seed: options.seed,
        },
        tokens: if options.tokens == 0 { 256 } else { options.tokens as usize },
        stop: Vec::new(),
    })
}

/// Continues `prompt` and gives the pieces to the caller's function.
///
/// # Safety
/// `options` is as for [`options_of`]; `callback` may be called with `user_data`.
pub(super) unsafe fn write_text(
    context: &Context,
    (model, tokenizer): (&mut Model, &Tokenizer),
    prompt: &str,
    options: *const hq_generate_options,
    callback: hq_text_callback,
    user_data: *mut c_void,
) -> Result<(), Failure> {
    let callback = callback.ok_or_else(|| Failure::new(hq_status::HQ_NULL_POINTER, "callback: NULL"))?;
    // SAFETY: as the caller vouches.
    let options = unsafe { options_of(options) }?;
    let written = generate(context, model, tokenizer, prompt, &options, |piece| {
        // SAFETY: the piece is valid during the call; the caller vouches for its function.
        let stop = unsafe { callback(piece.as_ptr().cast(), piece.len(), user_data) };
        if stop == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if written.reason == StopReason::Interrupted {
        return Err(Failure::new(hq_status::HQ_CANCELLED, "the callback asked to stop"));
    }
    Ok(())
}

/// Makes a sampler; `options` (its `tokens` is not used) may be NULL: the most likely token. HQ_INVALID_VALUE: an option
/// out of range.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_sampler_new(options: *const hq_generate_options, out: *mut *mut hq_sampler) -> hq_status {
    guard("hq_sampler_new", || {
        // SAFETY: as the caller vouches.
        let (out, options) = unsafe { (place(out, "out")?, options_of(options)?) };
        out.write(new_handle(Sampler::new(options.sampler)?));
        Ok(())
    })
}

/// Chooses the next token from `logits` (`vocabulary` of them). `context_tokens` (`context_count`) are those so far, for
/// the repetition penalty. The n-th draw is a function of the seed, n and the arguments alone. HQ_NOT_FINITE: a logit is
/// NaN; HQ_INVALID_VALUE: no logit above minus infinity.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_sampler_sample(
    sampler: *mut hq_sampler,
    logits: *const f32,
    vocabulary: usize,
    context_tokens: *const u32,
    context_count: usize,
    token: *mut u32,
) -> hq_status {
    guard("hq_sampler_sample", || {
        // SAFETY: as the caller vouches.
        let (sampler, logits) = unsafe { (handle_mut(sampler, "sampler")?, input(logits, vocabulary, "logits")?) };
        // SAFETY: as the caller vouches.
        let seen = unsafe { input(context_tokens, context_count, "context_tokens") }?;
        // SAFETY: as the caller vouches.
        let token = unsafe { place(token, "token") }?;
        token.write(sampler.sample(&mut logits.to_vec(), seen)?);
        Ok(())
    })
}

/// Frees a sampler; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_sampler_free(sampler: *mut hq_sampler) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(sampler) };
}
