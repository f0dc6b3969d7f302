//! `hq_batch`: a model of any kind on the caller's tokens: loss, gradients, outputs, attention weights.

use std::ffi::c_void;

use super::arguments::{Growable, expect_len, index, input, optional_options, options, output, size};
use super::boundary::{Failure, guard, optional_handle_mut, place};
use super::context::{context_of, hq_context};
use super::decoder::hq_decoder;
use super::model::{Training, hq_model, model_of};
use super::status::hq_status;
use crate::models::{Head, Model};
use crate::nn::{Batch, Executor, Mode, StepRandomness};

/// Tokens for a model, and what it is to predict. Set `struct_size` to `sizeof(hq_batch)`; what the model does not read is
/// NULL and 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_batch {
    /// `sizeof(hq_batch)`.
    pub struct_size: u32,
    /// Not used, 0.
    pub reserved: u32,
    /// Sequences, of equal length.
    pub sequences: u64,
    /// Ids, sequence after sequence. Of an encoder-decoder: the decoder's.
    pub tokens: *const u32,
    /// `sequences x length`.
    pub tokens_len: u64,
    /// What the head is to predict; UINT32_MAX counts for nothing. The next token, or the masked token, or a label, for each
    /// token; a label for each sequence; first and last token of a span for each sequence. NULL where outputs are wanted.
    pub targets: *const u32,
    /// `hq_model_target_count`, or 0.
    pub targets_len: u64,
    /// The numbers that a regression is to predict, `sequences x labels`.
    pub values: *const f32,
    /// `sequences x labels`, or 0.
    pub values_len: u64,
    /// Segment of each token (BERT: 0 or 1); NULL: all 0.
    pub token_types: *const u32,
    /// Tokens that count of each sequence an encoder reads; the rest is padding. NULL: all.
    pub lengths: *const u32,
    /// What the encoder of an encoder-decoder reads, sequence after sequence.
    pub source: *const u32,
    /// `sequences x source length`, or 0.
    pub source_len: u64,
}

// SAFETY: repr(C), size first, numbers and pointers.
unsafe impl Growable for hq_batch {
    const FIRST_SIZE: usize = size_of::<hq_batch>();
}

/// How `hq_model_step` is done. Set `struct_size` to `sizeof(hq_step_options)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_step_options {
    /// `sizeof(hq_step_options)`.
    pub struct_size: u32,
    /// Number of the step: dropout and stochastic rounding draw from it.
    pub step: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Factor on the gradients; 0: 1. (1 / n, to average over n batches.)
    pub gradient_scale: f32,
    /// Keeps only the activations of every so many blocks, and computes the rest once more; 0 keeps all.
    pub gradient_checkpointing: u32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_step_options {
    const FIRST_SIZE: usize = size_of::<hq_step_options>();
}

/// Gets the attention weights of one layer, `sequences x heads x queries x keys`, during the call, and the caller's pointer.
/// A result other than 0 ends the call with HQ_CANCELLED.
pub type hq_attention_callback = Option<
    unsafe extern "C" fn(
        layer: usize,
        heads: usize,
        queries: usize,
        keys: usize,
        weights: *const f32,
        user_data: *mut c_void,
    ) -> i32,
>;

/// # Safety
/// `batch` is as the header says.
pub(super) unsafe fn batch_of<'a>(batch: *const hq_batch, model: &Model) -> Result<Batch<'a>, Failure> {
    // SAFETY: as the caller vouches.
    let batch = unsafe { options(batch, "batch") }?;
    let len = index(batch.tokens_len, "batch.tokens_len")?;
    let sequences = index(batch.sequences, "batch.sequences")?;
    if sequences == 0 || len == 0 || !len.is_multiple_of(sequences) {
        let expected = format!("as many tokens, 1 or more, for each of {sequences} sequences");
        return Err(Failure::shape("batch.tokens_len", expected, len));
    }
    let (length, most) = (len / sequences, model.config.context_length());
    if length > most {
        return Err(Failure::invalid("batch.tokens_len", format!("at most the model's context {most} each"), length));
    }
    let of = |pointer: *const u32, len: usize| if pointer.is_null() { 0 } else { len };
    let (types_len, lengths_len) = (of(batch.token_types, len), of(batch.lengths, sequences));
    let targets_len = index(batch.targets_len, "batch.targets_len")?;
    let values_len = index(batch.values_len, "batch.values_len")?;
    let source_len = index(batch.source_len, "batch.source_len")?;
    // SAFETY: as the caller vouches; the four below too.
    let (tokens, targets) =
        unsafe { (input(batch.tokens, len, "batch.tokens")?, input(batch.targets, targets_len, "batch.targets")?) };
    // SAFETY: as above.
    let (values, source) =
        unsafe { (input(batch.values, values_len, "batch.values")?, input(batch.source, source_len, "batch.source")?) };
    // SAFETY: as above.
    let token_types = unsafe { input(batch.token_types, types_len, "batch.token_types") }?;
    // SAFETY: as above.
    let lengths = unsafe { input(batch.lengths, lengths_len, "batch.lengths") }?;
    Ok(Batch { tokens, targets, sequences, length, values, token_types, lengths, source, weights: &[] })
}

fn capacity_of(batch: &Batch<'_>) -> usize {
    batch.tokens.len().max(batch.source.len())
}

/// Mean loss of predicting the batch's targets: cross entropy in nats, of a regression the squared error. HQ_INVALID_VALUE:
/// an id that the model does not have, more tokens than its context; HQ_SHAPE: parts that do not fit each other or the head.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_loss(
    model: *mut hq_model,
    context: *const hq_context,
    batch: *const hq_batch,
    loss: *mut f64,
) -> hq_status {
    guard("hq_model_loss", || {
        // SAFETY: as the caller vouches.
        let (model, context) = unsafe { (&mut model_of(model)?.model, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let (batch, loss) = unsafe { (batch_of(batch, model)?, place(loss, "loss")?) };
        let mut executor = Executor::new(&model.plan, Mode::Evaluate, capacity_of(&batch));
        let found = executor.step(&model.plan, context, &mut model.store, batch, StepRandomness::default(), 1.0)?;
        loss.write(found);
        Ok(())
    })
}

/// One batch forward and backward: *adds* the gradients of the mean loss to those of the model's parameters
/// (`hq_model_parameters`, `hq_parameters_zero_gradients`, `hq_optimizer_step`, `hq_parameters_quantize`). `state`, which
/// may be NULL, is a decoder of a recurrent model: the batch goes on from what it remembers, and leaves there what comes
/// next (truncated backpropagation through time). `options` and `loss` may be NULL. HQ_UNSUPPORTED: a model to compute with,
/// not to train; else as `hq_model_loss`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_step(
    model: *mut hq_model,
    context: *const hq_context,
    batch: *const hq_batch,
    state: *mut hq_decoder,
    options: *const hq_step_options,
    loss: *mut f64,
) -> hq_status {
    guard("hq_model_step", || {
        // SAFETY: as the caller vouches.
        let (value, context) = unsafe { (model_of(model)?, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let (batch, options) = unsafe { (batch_of(batch, &value.model)?, optional_options(options, "options")?) };
        // SAFETY: as the caller vouches.
        let (state, loss) =
            unsafe { (optional_handle_mut(state, "state")?, super::boundary::optional_place(loss, "loss")?) };
        value.model.store.check_weights()?;
        let (mut randomness, mut scale, mut blocks) = (StepRandomness::default(), 1.0, 0);
        if let Some(options) = options {
            randomness = StepRandomness { seed: options.seed, step: options.step };
            blocks = options.gradient_checkpointing as usize;
            match options.gradient_scale {
                0.0 => {}
                given if given.is_finite() => scale = given,
                given => return Err(Failure::invalid("options.gradient_scale", "a finite number", given)),
            }
        }
        let capacity = capacity_of(&batch);
        if value.training.as_ref().is_none_or(|held| held.blocks != blocks || held.capacity < capacity) {
            let executor = Executor::with_checkpoints(&value.model.plan, blocks, capacity);
            value.training = Some(Training { executor, blocks, capacity });
        }
        let (Model { plan, store, config }, Some(Training { executor, .. })) = (&mut value.model, &mut value.training)
        else {
            unreachable!("the executor was just made");
        };
        let found = match state {
            None => executor.step(plan, context, store, batch, randomness, scale)?,
            Some(decoder) => {
                let cache = decoder.cache_for(config)?;
                executor.step_with_state(plan, context, store, batch, cache, randomness, scale)?
            }
        };
        if let Some(loss) = loss {
            loss.write(found);
        }
        Ok(())
    })
}

/// Numbers that `hq_model_predict` gives for `sequences x length` tokens.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_output_count(
    model: *const hq_model,
    sequences: usize,
    length: usize,
    count: *mut usize,
) -> hq_status {
    guard("hq_model_output_count", || {
        // SAFETY: as the caller vouches.
        let (value, count) = unsafe { (model_of(model)?, place(count, "count")?) };
        let config = &value.model.config;
        let widest = config.hidden_size.max(config.vocab_size).max(config.labels.len()).max(2);
        size(&[sequences, length.saturating_add(1), widest], "sequences x length")?;
        count.write(config.output_count(sequences, length));
        Ok(())
    })
}

/// Ids that a batch's `targets` hold for `sequences x length` tokens; 0 for a regression, which has `values`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_target_count(
    model: *const hq_model,
    sequences: usize,
    length: usize,
    count: *mut usize,
) -> hq_status {
    guard("hq_model_target_count", || {
        // SAFETY: as the caller vouches.
        let (value, count) = unsafe { (model_of(model)?, place(count, "count")?) };
        size(&[2, sequences, length.max(1)], "sequences x length")?;
        count.write(value.model.config.head.target_count(sequences, length));
        Ok(())
    })
}

/// The outputs of the model's head for a batch without targets, `outputs_len` (`hq_model_output_count`) numbers:
/// HQ_HEAD_NONE: hidden states `tokens x width`, behind them the pooled first token of each sequence, `sequences x width`;
/// HQ_HEAD_LANGUAGE_MODEL and HQ_HEAD_SEQ2SEQ: logits of each sequence's last token, `sequences x vocabulary`;
/// HQ_HEAD_MASKED_LANGUAGE_MODEL: logits `tokens x vocabulary`; HQ_HEAD_SEQUENCE_CLASSIFICATION: logits
/// `sequences x labels`; HQ_HEAD_REGRESSION: `sequences x labels`; HQ_HEAD_TOKEN_CLASSIFICATION: logits `tokens x labels`;
/// HQ_HEAD_SPAN_EXTRACTION: logits of first and last, `tokens x 2`. Errors: as `hq_model_loss`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_predict(
    model: *mut hq_model,
    context: *const hq_context,
    batch: *const hq_batch,
    outputs: *mut f32,
    outputs_len: usize,
) -> hq_status {
    guard("hq_model_predict", || {
        // SAFETY: as the caller vouches.
        let (model, context) = unsafe { (&mut model_of(model)?.model, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let batch = Batch { targets: &[], values: &[], ..unsafe { batch_of(batch, model) }? };
        expect_len(outputs_len, model.config.output_count(batch.sequences, batch.length), "outputs_len")?;
        // SAFETY: as the caller vouches.
        let outputs = unsafe { output(outputs, outputs_len, "outputs") }?;
        let mut executor = Executor::new(&model.plan, Mode::Generate, capacity_of(&batch));
        let found = match model.config.head {
            Head::LanguageModel | Head::Seq2Seq => {
                let mut cache = model.key_value_cache(batch.sequences, batch.length);
                executor.generate(&model.plan, context, &mut model.store, batch, &mut cache)?
            }
            _ => executor.predict(&model.plan, context, &mut model.store, batch)?,
        };
        outputs.copy_from_slice(&found);
        Ok(())
    })
}

/// Gives the attention weights of every layer of an encoder, in order, to `callback`. HQ_UNSUPPORTED: a model that writes
/// tokens one after the other; HQ_CANCELLED: the callback asked to stop; else as `hq_model_loss`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_attention(
    model: *mut hq_model,
    context: *const hq_context,
    batch: *const hq_batch,
    callback: hq_attention_callback,
    user_data: *mut c_void,
) -> hq_status {
    guard("hq_model_attention", || {
        // SAFETY: as the caller vouches.
        let (model, context) = unsafe { (&mut model_of(model)?.model, context_of(context)?) };
        let callback = callback.ok_or_else(|| Failure::new(hq_status::HQ_NULL_POINTER, "callback: NULL"))?;
        if matches!(model.config.head, Head::LanguageModel | Head::Seq2Seq) {
            return Err(Failure::new(hq_status::HQ_UNSUPPORTED, "attention weights are given for encoders alone"));
        }
        // SAFETY: as the caller vouches.
        let batch = Batch { targets: &[], values: &[], ..unsafe { batch_of(batch, model) }? };
        let mut executor = Executor::new(&model.plan, Mode::Generate, capacity_of(&batch));
        let (_, layers) = executor.predict_with_attention(&model.plan, context, &mut model.store, batch)?;
        for (layer, found) in layers.iter().enumerate() {
            let weights = found.values.as_ptr();
            // SAFETY: the array is valid during the call; the caller vouches for its function.
            if unsafe { callback(layer, found.heads, found.queries, found.keys, weights, user_data) } != 0 {
                return Err(Failure::new(hq_status::HQ_CANCELLED, "the callback asked to stop"));
            }
        }
        Ok(())
    })
}
