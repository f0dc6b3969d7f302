//! What a model predicts, and giving it another head.

use std::ffi::c_char;

use super::arguments::{input, room_for};
use super::boundary::{Failure, give_text, guard, new_handle, place, text};
use super::context::{context_of, hq_context};
use super::model::{hq_model, model_of, shared};
use super::status::hq_status;
use crate::models::Head;

/// Hidden states, and the pooled first token; there is no loss.
pub const HQ_HEAD_NONE: u32 = 0;
/// The next token.
pub const HQ_HEAD_LANGUAGE_MODEL: u32 = 1;
/// The next token of the target that an encoder-decoder writes for a source.
pub const HQ_HEAD_SEQ2SEQ: u32 = 2;
/// The tokens at masked positions.
pub const HQ_HEAD_MASKED_LANGUAGE_MODEL: u32 = 3;
/// A label for each sequence.
pub const HQ_HEAD_SEQUENCE_CLASSIFICATION: u32 = 4;
/// Numbers for each sequence.
pub const HQ_HEAD_REGRESSION: u32 = 5;
/// A label for each token.
pub const HQ_HEAD_TOKEN_CLASSIFICATION: u32 = 6;
/// First and last token of a span.
pub const HQ_HEAD_SPAN_EXTRACTION: u32 = 7;
/// Hidden states alone; there is no loss.
pub const HQ_HEAD_HIDDEN_STATES: u32 = 8;

/// In the order of the constants.
const HEADS: [Head; 9] = [
    Head::None,
    Head::LanguageModel,
    Head::Seq2Seq,
    Head::MaskedLanguageModel,
    Head::SequenceClassification,
    Head::Regression,
    Head::TokenClassification,
    Head::SpanExtraction,
    Head::HiddenStates,
];

/// The HQ_HEAD_ constant of a head.
pub(super) fn number_of_head(head: Head) -> u32 {
    HEADS.iter().position(|&one| one == head).expect("every head has a number") as u32
}

/// Makes a model with the weights of `model` and another head (an HQ_HEAD_ constant), whose own weights are drawn from
/// `seed`: what fine-tuning for a task starts from. `labels` (`label_count`) name the outputs of classifications and
/// regressions; other heads have none. HQ_INVALID_VALUE: a head that this form of model does not have, a classification
/// without labels.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_with_head(
    model: *const hq_model,
    context: *const hq_context,
    head: u32,
    labels: *const *const c_char,
    label_count: usize,
    seed: u64,
    out: *mut *mut hq_model,
) -> hq_status {
    guard("hq_model_with_head", || {
        // SAFETY: as the caller vouches.
        let (value, context, out) = unsafe { (model_of(model)?, context_of(context)?, place(out, "out")?) };
        let kind = HEADS.get(head as usize);
        let kind = *kind.ok_or_else(|| Failure::invalid("head", "an HQ_HEAD_ constant (0 to 7)", head))?;
        value.model.store.check_weights()?;
        room_for::<f32>(value.model.store.total_elements().saturating_mul(2), "model size")?;
        // SAFETY: as the caller vouches.
        let labels = unsafe { input(labels, label_count, "labels") }?.iter();
        // SAFETY: as the caller vouches.
        let labels = labels.map(|&label| Ok(unsafe { text(label, "labels") }?.to_string()));
        let labels = labels.collect::<Result<Vec<_>, Failure>>()?;
        let mut made = value.model.with_head(kind, labels, seed)?;
        made.store.quantize(context)?;
        out.write(new_handle(shared(made, value.tokenizer.clone())));
        Ok(())
    })
}

/// The name of label number `label`: `*length` gets its bytes without the NUL; `buffer`, if not NULL, gets the text (HQ_SHAPE:
/// `capacity` is too small).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_label(
    model: *const hq_model,
    label: usize,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_model_label", || {
        // SAFETY: as the caller vouches.
        let labels = &unsafe { model_of(model) }?.model.config.labels;
        let found = labels.get(label);
        let found = found.ok_or_else(|| Failure::invalid("label", format!("below {}", labels.len()), label))?;
        // SAFETY: as the caller vouches.
        unsafe { give_text(found, buffer, capacity, length) }
    })
}
