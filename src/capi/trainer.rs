//! `hq_trainer`: trains a language model on text, evaluates it, saves it, lets it write.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::path::Path;

use super::boundary::{Failure, free_handle, give_handle, guard, handle_mut, not_null, text};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use crate::Error;
use crate::generate::{GenerateOptions, SamplerOptions, StopReason, generate};
use crate::train::{LanguageModelTrainer, Objective, RunPlace, TrainConfig};

/// A language model in training.
pub struct hq_trainer {
    _opaque: [u8; 0],
}

/// What a step did. Set `struct_size` to `sizeof(hq_step_report)` before the call.
#[repr(C)]
pub struct hq_step_report {
    /// `sizeof(hq_step_report)`.
    pub struct_size: u32,
    /// 1 if the trust region shortened the update.
    pub constraint_active: u32,
    /// Steps done.
    pub step: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Loss of the batch, nats per token.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Training throughput, tokens per second.
    pub tokens_per_second: f64,
    /// Learning rate before the multiplier.
    pub learning_rate: f32,
    /// The auxiliary network's factor on it.
    pub learning_rate_multiplier: f32,
    /// Trust radius relative to the parameters' norm; 0 if there is none.
    pub trust_radius: f32,
    /// Share of quantized weights that changed.
    pub flip_rate: f32,
}

/// How text is generated. Set `struct_size` to `sizeof(hq_generate_options)`; zero the rest for greedy decoding.
#[repr(C)]
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

/// Gets each piece of text (`bytes` of UTF-8, not NUL-terminated, whole characters) and the caller's pointer. A result
/// other than 0 stops the generation.
pub type hq_text_callback =
    Option<unsafe extern "C" fn(piece: *const c_char, bytes: usize, user_data: *mut c_void) -> i32>;

fn check_size<T>(found: u32, name: &str) -> Result<(), Failure> {
    if (found as usize) < size_of::<T>() {
        let message = format!("{name}.struct_size: expected {}, found {found}", size_of::<T>());
        return Err(Failure::new(hq_status::HQ_INVALID_VALUE, message));
    }
    Ok(())
}

/// Makes a trainer from a JSON object with the fields of the program's configuration; `data` (a text file or folder) is
/// the only one without a default. Nothing is written to disk. HQ_INVALID_VALUE names an unknown field or a value out of
/// range.
///
/// # Safety
/// `config_json` is a NUL-terminated string; `out` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_new(
    context: *const hq_context,
    config_json: *const c_char,
    out: *mut *mut hq_trainer,
) -> hq_status {
    guard("hq_trainer_new", || {
        // SAFETY: as the caller vouches, here and below.
        let context = unsafe { context_of(context) }?;
        not_null(out, "out")?;
        // SAFETY: see above.
        let json = unsafe { text(config_json, "config_json") }?;
        let fields: toml::Table = serde_json::from_str(json)
            .map_err(|error| Error::invalid("config_json", "a JSON object without nulls", error))?;
        let config = TrainConfig::layered(None, &fields)?;
        let trainer = LanguageModelTrainer::open(context, config, RunPlace::Nowhere)?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { give_handle(trainer, out) };
        Ok(())
    })
}

/// One training step. `report` may be NULL. HQ_TRAINING: the loss or a gradient is not finite; the weights are those
/// before the step.
///
/// # Safety
/// `trainer` is NULL or a live handle; `report` is NULL or points to a struct of `struct_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_step(trainer: *mut hq_trainer, report: *mut hq_step_report) -> hq_status {
    guard("hq_trainer_step", || {
        // SAFETY: as the caller vouches, here and below.
        let trainer = unsafe { handle_mut::<LanguageModelTrainer, _>(trainer, "trainer") }?;
        if !report.is_null() {
            // SAFETY: every version of the struct starts with its size.
            check_size::<hq_step_report>(unsafe { (*report).struct_size }, "report")?;
        }
        let metrics = trainer.step()?;
        if report.is_null() {
            return Ok(());
        }
        // SAFETY: the struct is at least as long as ours.
        let report = unsafe { &mut *report };
        *report = hq_step_report {
            struct_size: report.struct_size,
            constraint_active: u32::from(metrics.constraint_active),
            step: metrics.step,
            tokens: metrics.tokens,
            loss: metrics.loss,
            gradient_norm: metrics.grad_norm,
            tokens_per_second: metrics.tokens_per_s,
            learning_rate: metrics.lr,
            learning_rate_multiplier: metrics.lr_multiplier,
            trust_radius: metrics.trust_radius.unwrap_or(0.0),
            flip_rate: metrics.flip_rate as f32,
        };
        Ok(())
    })
}

/// Mean loss on the held-out text, nats per token.
///
/// # Safety
/// `trainer` is NULL or a live handle; `loss` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_evaluate(trainer: *mut hq_trainer, loss: *mut f64) -> hq_status {
    guard("hq_trainer_evaluate", || {
        // SAFETY: as the caller vouches, here and below.
        let trainer = unsafe { handle_mut::<LanguageModelTrainer, _>(trainer, "trainer") }?;
        not_null(loss, "loss")?;
        let evaluation = trainer.evaluate()?;
        let evaluation = evaluation.ok_or_else(|| Error::invalid("data", "text to hold out", "none"))?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { loss.write(evaluation.val_loss) };
        Ok(())
    })
}

/// Writes weights, optimizer state and step to one safetensors file, in one step: an older file stays whole if it fails.
///
/// # Safety
/// `trainer` is NULL or a live handle; `path` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_save(trainer: *const hq_trainer, path: *const c_char) -> hq_status {
    guard("hq_trainer_save", || {
        // SAFETY: as the caller vouches, here and below.
        let trainer = unsafe { handle_mut::<LanguageModelTrainer, _>(trainer.cast_mut(), "trainer") }?;
        // SAFETY: see above.
        trainer.save_state(Path::new(unsafe { text(path, "path") }?))?;
        Ok(())
    })
}

/// Goes on where `hq_trainer_save` stood. The trainer must have been made from the same configuration and data.
/// HQ_FORMAT: a damaged file, or one of another run.
///
/// # Safety
/// `trainer` is NULL or a live handle; `path` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_load(trainer: *mut hq_trainer, path: *const c_char) -> hq_status {
    guard("hq_trainer_load", || {
        // SAFETY: as the caller vouches, here and below.
        let trainer = unsafe { handle_mut::<LanguageModelTrainer, _>(trainer, "trainer") }?;
        // SAFETY: see above.
        trainer.load_state(Path::new(unsafe { text(path, "path") }?))?;
        Ok(())
    })
}

/// Writes the model as a folder with `config.json` and `model.safetensors`, made if missing.
///
/// # Safety
/// `trainer` is NULL or a live handle; `folder` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_save_model(trainer: *const hq_trainer, folder: *const c_char) -> hq_status {
    guard("hq_trainer_save_model", || {
        // SAFETY: as the caller vouches, here and below.
        let trainer = unsafe { handle_mut::<LanguageModelTrainer, _>(trainer.cast_mut(), "trainer") }?;
        // SAFETY: see above.
        trainer.objective().save_model(Path::new(unsafe { text(folder, "folder") }?))?;
        Ok(())
    })
}

/// Continues `prompt` ("" starts a text). `options` may be NULL. `callback` gets each piece with `user_data`.
/// HQ_CANCELLED: the callback stopped it.
///
/// # Safety
/// `trainer` is NULL or a live handle; `prompt` is a NUL-terminated string; `options` is NULL or points to a struct of
/// `struct_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_generate(
    trainer: *mut hq_trainer,
    prompt: *const c_char,
    options: *const hq_generate_options,
    callback: hq_text_callback,
    user_data: *mut c_void,
) -> hq_status {
    guard("hq_trainer_generate", || {
        // SAFETY: as the caller vouches, here and below.
        let trainer = unsafe { handle_mut::<LanguageModelTrainer, _>(trainer, "trainer") }?;
        // SAFETY: see above.
        let prompt = unsafe { text(prompt, "prompt") }?;
        let callback = callback.ok_or_else(|| Failure::new(hq_status::HQ_NULL_POINTER, "callback: NULL"))?;
        let mut wanted = GenerateOptions::default();
        wanted.sampler.temperature = 0.0;
        if !options.is_null() {
            // SAFETY: every version of the struct starts with its size.
            check_size::<hq_generate_options>(unsafe { (*options).struct_size }, "options")?;
            // SAFETY: the struct is at least as long as ours.
            wanted = generate_options(unsafe { &*options });
        }
        let context = trainer.context().clone();
        let (model, tokenizer) = trainer.objective_mut().generator();
        let written = generate(&context, model, tokenizer, prompt, &wanted, |piece| {
            // SAFETY: the piece is valid during the call; the caller vouches for its function.
            let stop = unsafe { callback(piece.as_ptr().cast(), piece.len(), user_data) };
            if stop == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if written.reason == StopReason::Interrupted {
            return Err(Failure::new(hq_status::HQ_CANCELLED, "the callback asked to stop"));
        }
        Ok(())
    })
}

fn generate_options(options: &hq_generate_options) -> GenerateOptions {
    let or = |value: f32, default: f32| if value == 0.0 { default } else { value };
    GenerateOptions {
        sampler: SamplerOptions {
            temperature: options.temperature,
            top_k: (options.top_k != 0).then_some(options.top_k as usize),
            top_p: or(options.top_p, 1.0),
            repetition_penalty: or(options.repetition_penalty, 1.0),
            seed: options.seed,
        },
        tokens: if options.tokens == 0 { 256 } else { options.tokens as usize },
        stop: Vec::new(),
    }
}

/// Frees a trainer; NULL is fine.
///
/// # Safety
/// `trainer` is NULL or came from `hq_trainer_new` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_free(trainer: *mut hq_trainer) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle::<LanguageModelTrainer, _>(trainer) };
}
