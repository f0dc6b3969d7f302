//! `hq_model`: a model with its tokenizer.

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use super::arguments::{Growable, expect_len, input, output, report, room_for};
use super::boundary::{
    Failure, Opaque, free_handle, give_text, guard, handle_ref, new_handle, optional_place, place, text,
};
use super::context::{context_of, hq_context};
use super::generate::{hq_generate_options, hq_text_callback, write_text};
use super::head::number_of_head;
use super::parameters::{HQ_PARAMETER_BIAS, HQ_PARAMETER_EMBEDDING, HQ_PARAMETER_GAIN, HQ_PARAMETER_LINEAR, id_of};
use super::quantizer::number_of;
use super::status::hq_status;
use super::vectors::check_finite;
use crate::data::{TextSource, TokenDataset, Tokenizer};
use crate::dispatch::Context;
use crate::eval::language_model;
use crate::models::{Model, ModelConfig, preset};
use crate::nn::{Executor, ParamKind};

/// A model with its tokenizer. One thread at a time may use it, or its parameters (`hq_model_parameters`).
pub struct hq_model {
    _opaque: [u8; 0],
}

pub(super) struct ModelValue {
    pub(super) model: Model,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) training: Option<Training>,
}

/// The memory of `hq_model_step`.
pub(super) struct Training {
    pub(super) executor: Executor,
    pub(super) blocks: usize,
    pub(super) capacity: usize,
}

/// One model with several owners: its handle, and handles of its parameters. The header allows one thread at a time.
#[derive(Clone)]
pub(super) struct SharedModel(Arc<ModelCell>);

struct ModelCell(UnsafeCell<ModelValue>);

// SAFETY: the header allows one thread at a time.
unsafe impl Send for ModelCell {}
// SAFETY: as above.
unsafe impl Sync for ModelCell {}

impl SharedModel {
    /// # Safety
    /// No other thread uses the model, and no reference from an earlier call is used after this one.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn get(&self) -> &mut ModelValue {
        // SAFETY: as the caller vouches.
        unsafe { &mut *self.0.0.get() }
    }
}

impl Opaque for hq_model {
    type Value = SharedModel;
    const NAME: &'static str = "hq_model";
}

/// # Safety
/// As for [`SharedModel::get`] and [`handle_ref`].
pub(super) unsafe fn model_of<'a>(model: *const hq_model) -> Result<&'a mut ModelValue, Failure> {
    // SAFETY: as the caller vouches.
    Ok(unsafe { handle_ref(model, "model")?.get() })
}

/// Sizes of a model. Set `struct_size` to `sizeof(hq_model_info)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_model_info {
    /// `sizeof(hq_model_info)`.
    pub struct_size: u32,
    /// Form of the linear layers' weights: an HQ_PRECISION_ constant.
    pub precision: u32,
    /// Weights.
    pub weights: u64,
    /// Tensors.
    pub parameters: u64,
    /// Token ids are below this.
    pub vocabulary: u64,
    /// Longest sequence, in tokens.
    pub context: u64,
    /// Width of the residual stream.
    pub width: u64,
    /// Blocks.
    pub layers: u64,
    /// What it predicts: an HQ_HEAD_ constant.
    pub head: u32,
    /// Labels of a classification or regression.
    pub labels: u32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_model_info {
    const FIRST_SIZE: usize = 56;
}

/// A tensor of a model. Set `struct_size` to `sizeof(hq_parameter_info)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_parameter_info {
    /// `sizeof(hq_parameter_info)`.
    pub struct_size: u32,
    /// Its role: an HQ_PARAMETER_ constant.
    pub kind: u32,
    /// Its form in the forward pass: an HQ_PRECISION_ constant.
    pub precision: u32,
    /// Number of dimensions, 1 or 2.
    pub dimensions: u32,
    /// Rows (of a vector: its elements).
    pub rows: u64,
    /// Columns (of a vector: 1).
    pub cols: u64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_parameter_info {
    const FIRST_SIZE: usize = size_of::<hq_parameter_info>();
}

/// Quality of a model on a text. Set `struct_size` to `sizeof(hq_evaluation)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_evaluation {
    /// `sizeof(hq_evaluation)`.
    pub struct_size: u32,
    /// Not used, 0.
    pub reserved: u32,
    /// Mean loss, nats per token.
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

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_evaluation {
    const FIRST_SIZE: usize = size_of::<hq_evaluation>();
}

pub(super) fn ready(context: &Context, mut model: Model, tokenizer: Tokenizer) -> Result<*mut hq_model, Failure> {
    model.store.quantize(context)?;
    Ok(new_handle(shared(model, Arc::new(tokenizer))))
}

pub(super) fn shared(model: Model, tokenizer: Arc<Tokenizer>) -> SharedModel {
    SharedModel(Arc::new(ModelCell(UnsafeCell::new(ModelValue { model, tokenizer, training: None }))))
}

/// Makes a model of any kind with weights drawn from `seed` and a byte-level tokenizer. `description` is a preset ("tiny",
/// "small", "base", "small-plain", "gpt2-small-plain", "bert", "lstm", ...) or the JSON text of a `config.json`. HQ_INVALID_VALUE: no such preset, a value
/// out of range; HQ_FORMAT: text that is no configuration; HQ_SHAPE: a model that does not fit into memory.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_new(
    context: *const hq_context,
    description: *const c_char,
    seed: u64,
    out: *mut *mut hq_model,
) -> hq_status {
    guard("hq_model_new", || {
        // SAFETY: as the caller vouches.
        let (context, text, out) =
            unsafe { (context_of(context)?, text(description, "description")?, place(out, "out")?) };
        let config = match text.trim_start().starts_with('{') {
            true => ModelConfig::from_json(text, Path::new("description"))?,
            false => preset(text)?,
        };
        room_for::<f32>(usize::try_from(config.approximate_parameters() * 2).unwrap_or(usize::MAX), "model size")?;
        out.write(ready(context, Model::new(config, seed)?, Tokenizer::bytes())?);
        Ok(())
    })
}

/// The text of the model's `config.json`: `*length` gets its bytes without the NUL; `buffer`, if not NULL, gets the text
/// (HQ_SHAPE: `capacity` is too small).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_config(
    model: *const hq_model,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_model_config", || {
        // SAFETY: as the caller vouches.
        unsafe { give_text(&model_of(model)?.model.config.to_json(), buffer, capacity, length) }
    })
}

/// Sizes of the model.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_get_info(model: *const hq_model, info: *mut hq_model_info) -> hq_status {
    guard("hq_model_get_info", || {
        // SAFETY: as the caller vouches.
        let (value, info) = unsafe { (model_of(model)?, report(info, "info")?) };
        let (config, store) = (&value.model.config, &value.model.store);
        info.write(hq_model_info {
            struct_size: 0,
            precision: number_of(config.precision),
            weights: store.total_elements() as u64,
            parameters: store.ids().count() as u64,
            vocabulary: config.vocab_size as u64,
            context: config.max_position_embeddings as u64,
            width: config.hidden_size as u64,
            layers: config.num_hidden_layers as u64,
            head: number_of_head(config.head),
            labels: config.labels.len() as u32,
        });
        Ok(())
    })
}

/// The tensor number `index`: `name`, if not NULL, gets its name and the NUL, `*length` the name's bytes, and `info`, if not
/// NULL, its facts. HQ_SHAPE: `capacity` is too small.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_parameter(
    model: *const hq_model,
    index: usize,
    info: *mut hq_parameter_info,
    name: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_model_parameter", || {
        // SAFETY: as the caller vouches.
        let (value, info) = unsafe { (model_of(model)?, super::arguments::optional_report(info, "info")?) };
        let store = &value.model.store;
        let spec = store.spec(id_of(store, index)?);
        // SAFETY: as the caller vouches.
        unsafe { give_text(&spec.name, name, capacity, length) }?;
        if let Some(info) = info {
            info.write(hq_parameter_info {
                struct_size: 0,
                kind: match spec.kind {
                    ParamKind::Linear => HQ_PARAMETER_LINEAR,
                    ParamKind::Embedding => HQ_PARAMETER_EMBEDDING,
                    ParamKind::Gain => HQ_PARAMETER_GAIN,
                    ParamKind::Bias => HQ_PARAMETER_BIAS,
                },
                precision: number_of(spec.precision),
                dimensions: spec.shape.len() as u32,
                rows: spec.shape.first().copied().unwrap_or(1) as u64,
                cols: spec.shape.get(1).copied().unwrap_or(1) as u64,
            });
        }
        Ok(())
    })
}

/// Copies the latent weights of tensor number `index` to `weights`; `len` must be the number of its elements.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_get_weights(
    model: *const hq_model,
    index: usize,
    weights: *mut f32,
    len: usize,
) -> hq_status {
    guard("hq_model_get_weights", || {
        // SAFETY: as the caller vouches.
        let store = &unsafe { model_of(model) }?.model.store;
        let found = store.weight_values(id_of(store, index)?);
        expect_len(len, found.len(), "len")?;
        // SAFETY: as the caller vouches.
        unsafe { output(weights, len, "weights") }?.copy_from_slice(&found);
        Ok(())
    })
}

/// Replaces the latent weights of tensor number `index`, and quantizes them again. HQ_NOT_FINITE: a weight is NaN or
/// infinite; nothing has changed then.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_set_weights(
    model: *mut hq_model,
    context: *const hq_context,
    index: usize,
    weights: *const f32,
    len: usize,
) -> hq_status {
    guard("hq_model_set_weights", || {
        // SAFETY: as the caller vouches.
        let (value, context) = unsafe { (model_of(model)?, context_of(context)?) };
        let store = &mut value.model.store;
        let id = id_of(store, index)?;
        expect_len(len, store.weight(id).len(), "len")?;
        // SAFETY: as the caller vouches.
        let weights = unsafe { input(weights, len, "weights") }?;
        check_finite(weights, "weights")?;
        store.weight_mut(id).copy_from_slice(weights);
        store.quantize(context)?;
        Ok(())
    })
}

/// Loss on `windows` evenly spaced windows of `length` tokens (0: the model's context, 256 at most) of a text file or
/// folder, all of it.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_evaluate(
    model: *mut hq_model,
    context: *const hq_context,
    data: *const c_char,
    windows: usize,
    length: usize,
    evaluation: *mut hq_evaluation,
) -> hq_status {
    guard("hq_model_evaluate", || {
        // SAFETY: as the caller vouches.
        let (value, context) = unsafe { (model_of(model)?, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let (data, evaluation) = unsafe { (text(data, "data")?, report(evaluation, "evaluation")?) };
        let source = TextSource::open(Path::new(data))?;
        // All of the text is validation.
        let dataset = TokenDataset::new(context, &value.tokenizer, &source, Some(&source))?;
        let length = if length == 0 { value.model.config.max_position_embeddings.min(256) } else { length };
        let found = language_model(context, &mut value.model, &dataset, windows, length)?;
        evaluation.write(hq_evaluation {
            struct_size: 0,
            reserved: 0,
            loss: found.loss,
            perplexity: found.perplexity,
            bits_per_byte: found.bits_per_byte,
            tokens: found.tokens,
            bytes: found.bytes,
        });
        Ok(())
    })
}

/// Continues `prompt` ("" starts a text). `options` may be NULL: greedy. `callback` gets each piece of text with
/// `user_data`. HQ_CANCELLED: the callback stopped it. (For token ids instead of text: `hq_decoder`, `hq_sampler`.)
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_generate(
    model: *mut hq_model,
    context: *const hq_context,
    prompt: *const c_char,
    options: *const hq_generate_options,
    callback: hq_text_callback,
    user_data: *mut c_void,
) -> hq_status {
    guard("hq_model_generate", || {
        // SAFETY: as the caller vouches.
        let (value, context) = unsafe { (model_of(model)?, context_of(context)?) };
        let parts = (&mut value.model, &*value.tokenizer);
        // SAFETY: as the caller vouches.
        unsafe { write_text(context, parts, text(prompt, "prompt")?, options, callback, user_data) }
    })
}

/// The ids of `text`: `*count` gets their number; `tokens`, if not NULL, gets them (HQ_SHAPE: more than `capacity`).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_encode(
    model: *const hq_model,
    text: *const c_char,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> hq_status {
    guard("hq_model_encode", || {
        // SAFETY: as the caller vouches.
        let (value, text) = unsafe { (model_of(model)?, self::text(text, "text")?) };
        // SAFETY: as the caller vouches.
        let count = unsafe { place(count, "count") }?;
        let ids = value.tokenizer.encode(text)?;
        if !tokens.is_null() {
            if capacity < ids.len() {
                return Err(Failure::shape("capacity", format!("at least {}", ids.len()), capacity));
            }
            // SAFETY: as the caller vouches.
            unsafe { output(tokens, ids.len(), "tokens") }?.copy_from_slice(&ids);
        }
        count.write(ids.len());
        Ok(())
    })
}

/// The text of `count` ids: `*length` gets its bytes without the NUL; `buffer`, if not NULL, gets the text (HQ_SHAPE:
/// `capacity` is too small). Bytes that are not UTF-8 become U+FFFD.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_decode(
    model: *const hq_model,
    tokens: *const u32,
    count: usize,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_model_decode", || {
        // SAFETY: as the caller vouches.
        let (value, tokens) = unsafe { (model_of(model)?, input(tokens, count, "tokens")?) };
        // SAFETY: as the caller vouches.
        unsafe { give_text(&value.tokenizer.decode(tokens), buffer, capacity, length) }
    })
}

/// The ids that begin and end a text (of several, the first); -1: there is none. Either pointer may be NULL.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_special_tokens(model: *const hq_model, bos: *mut i64, eos: *mut i64) -> hq_status {
    guard("hq_model_special_tokens", || {
        // SAFETY: as the caller vouches.
        let (value, bos) = unsafe { (model_of(model)?, optional_place(bos, "bos")?) };
        // SAFETY: as the caller vouches.
        let eos = unsafe { optional_place(eos, "eos") }?;
        let (config, tokenizer) = (&value.model.config, &value.tokenizer);
        let number = |id: Option<u32>| id.map_or(-1, i64::from);
        if let Some(bos) = bos {
            bos.write(number(config.bos_token_id.or(tokenizer.bos())));
        }
        if let Some(eos) = eos {
            eos.write(number(config.eos_token_id.first().copied().or(tokenizer.eos())));
        }
        Ok(())
    })
}

/// Frees a model; NULL is fine. Decoders made for it stay valid, but have nothing to read with.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_free(model: *mut hq_model) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(model) };
}
