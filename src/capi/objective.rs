//! What a C program trains: its own batches of tokens, or a model of its own.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::arguments::{Growable, index, input, options, size};
use super::boundary::{Failure, free_handle, handle_ref, new_handle, text};
use super::parameters::{SharedStore, hq_parameters};
use super::status::hq_status;
use super::trainer::Trained;
use crate::data::{Split, TokenBatch, Tokenizer};
use crate::dispatch::Context;
use crate::models::{Head, Model, ModelType};
use crate::nn::{ParamStore, StepRandomness};
use crate::train::{BatchObjective, BatchSource, Evaluation, Features, Objective};
use crate::{Error, Result};

/// The examples that are learned from.
pub const HQ_SPLIT_TRAINING: u32 = 0;
/// The held-out examples.
pub const HQ_SPLIT_VALIDATION: u32 = 1;

/// The arrays of a batch that a callback fills. What the model does not read is NULL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_batch_buffers {
    /// Bytes of this struct as the library knows it.
    pub struct_size: u32,
    /// HQ_SPLIT_TRAINING or HQ_SPLIT_VALIDATION.
    pub split: u32,
    /// The numbers of the examples, `count`.
    pub examples: *const u64,
    /// Examples wanted.
    pub count: u64,
    /// Tokens of an example.
    pub length: u64,
    /// Ids, `count x length`, row-major; zeros before.
    pub tokens: *mut u32,
    /// What the head is to predict (`hq_batch`), `targets_len`; zeros before. NULL for a regression.
    pub targets: *mut u32,
    /// `hq_model_target_count`.
    pub targets_len: u64,
    /// The numbers that a regression is to predict, `count x labels`; zeros before.
    pub values: *mut f32,
    /// `count x labels`, or 0.
    pub values_len: u64,
    /// Segment of each token of an encoder with segments (BERT), `count x length`; zeros before.
    pub token_types: *mut u32,
    /// Tokens that count of each sequence an encoder reads, `count`; all before.
    pub lengths: *mut u32,
    /// What the encoder of an encoder-decoder reads, `count x source_length`; zeros before.
    pub source: *mut u32,
    /// Tokens of a source.
    pub source_length: u64,
}

/// Fills a batch; the same example must be the same every time. `user_data` is the caller's pointer. A result other than 0 is
/// a failure: the call that needed the batch returns HQ_CANCELLED.
pub type hq_batch_callback =
    Option<unsafe extern "C" fn(batch: *const hq_batch_buffers, user_data: *mut c_void) -> i32>;

/// Batches of tokens of the caller's. Set `struct_size` to `sizeof(hq_batch_source)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_batch_source {
    /// `sizeof(hq_batch_source)`.
    pub struct_size: u32,
    /// Not used, 0.
    pub reserved: u32,
    /// Training examples, at least 1.
    pub examples: u64,
    /// Held-out examples; 0: none.
    pub held_out: u64,
    /// Gives a batch; called on the thread that trains.
    pub read: hq_batch_callback,
    /// Given to `read`.
    pub user_data: *mut c_void,
    /// Tells this data from others: a checkpoint of another identity is refused.
    pub identity: *const c_char,
    /// Of an encoder-decoder: tokens of a source, padding included; else 0.
    pub source_length: u64,
}

// SAFETY: repr(C), size first, numbers and pointers.
unsafe impl Growable for hq_batch_source {
    const FIRST_SIZE: usize = std::mem::offset_of!(hq_batch_source, source_length);
}

/// Writes the mean loss over the training examples numbered by `examples` (`count`) to `loss`, and *adds* `gradient_scale`
/// times its gradient to the gradients of `parameters` (`hq_parameters_gradients`). Quantized values
/// (`hq_parameters_values`) are up to date. A result other than 0 is a failure: the call that needed it returns
/// HQ_CANCELLED.
pub type hq_loss_callback = Option<
    unsafe extern "C" fn(
        parameters: *mut hq_parameters,
        examples: *const u64,
        count: usize,
        gradient_scale: f32,
        loss: *mut f64,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Writes the mean loss over the held-out examples to `loss`. A result other than 0 is a failure.
pub type hq_evaluate_callback =
    Option<unsafe extern "C" fn(parameters: *mut hq_parameters, loss: *mut f64, user_data: *mut c_void) -> i32>;

/// A model of the caller's own: examples and a loss. Set `struct_size` to `sizeof(hq_objective)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_objective {
    /// `sizeof(hq_objective)`.
    pub struct_size: u32,
    /// Not used, 0.
    pub reserved: u32,
    /// Training examples, at least 1.
    pub examples: u64,
    /// Loss and gradients of a batch; called on the thread that trains.
    pub loss: hq_loss_callback,
    /// Held-out loss; NULL: there are no held-out examples.
    pub evaluate: hq_evaluate_callback,
    /// Given to both.
    pub user_data: *mut c_void,
    /// One vector for each training example, `examples x feature_dim`, row-major, for clusters of the data; read once. NULL:
    /// no clusters.
    pub features: *const f32,
    /// Numbers of a feature vector.
    pub feature_dim: u64,
    /// Tells this model and data from others: a checkpoint of another identity is refused.
    pub identity: *const c_char,
}

// SAFETY: repr(C), size first, numbers and pointers.
unsafe impl Growable for hq_objective {
    const FIRST_SIZE: usize = size_of::<hq_objective>();
}

/// The number a callback of the caller's failed with; 0: none did.
#[derive(Clone, Default)]
pub(super) struct CallbackResult(Arc<AtomicI32>);

impl CallbackResult {
    fn check(&self, name: &str, result: i32) -> Result<()> {
        if result == 0 {
            return Ok(());
        }
        self.0.store(result, Ordering::Relaxed);
        Err(Error::Training(format!("the {name} callback returned {result}")))
    }

    /// What an error of the library is for the caller: HQ_CANCELLED if it came from a callback.
    pub(super) fn failure(&self, error: Error) -> Failure {
        match self.0.swap(0, Ordering::Relaxed) {
            0 => error.into(),
            _ => Failure::new(hq_status::HQ_CANCELLED, error.to_string()),
        }
    }
}

/// What the model reads and predicts.
#[derive(Default)]
struct Form {
    head: Option<Head>,
    labels: usize,
    reads_types: bool,
    reads_lengths: bool,
    reads_source: bool,
}

pub(super) struct CallerBatches {
    source: hq_batch_source,
    read: unsafe extern "C" fn(*const hq_batch_buffers, *mut c_void) -> i32,
    identity: String,
    sizes: [usize; 3],
    form: Form,
    pub(super) result: CallbackResult,
}

impl CallerBatches {
    /// # Safety
    /// `source` is as the header says, and so stays what it points to while the trainer lives.
    pub(super) unsafe fn new(source: *const hq_batch_source) -> std::result::Result<Self, Failure> {
        // SAFETY: as the caller vouches.
        let source = unsafe { options(source, "source") }?;
        let read = source.read.ok_or_else(|| Failure::new(hq_status::HQ_NULL_POINTER, "source.read: NULL"))?;
        // SAFETY: as the caller vouches.
        let identity = unsafe { text(source.identity, "source.identity") }?.to_string();
        let sizes = [
            index(source.examples, "source.examples")?,
            index(source.held_out, "source.held_out")?,
            index(source.source_length, "source.source_length")?,
        ];
        let (form, result) = (Form::default(), CallbackResult::default());
        Ok(CallerBatches { source, read, identity, sizes, form, result })
    }
}

/// NULL for none.
fn place_of<T>(values: &mut [T]) -> *mut T {
    if values.is_empty() { std::ptr::null_mut() } else { values.as_mut_ptr() }
}

impl BatchSource for CallerBatches {
    fn examples(&self) -> usize {
        self.sizes[0]
    }

    fn held_out(&self) -> usize {
        self.sizes[1]
    }

    fn begin(&mut self, model: &Model) -> Result<()> {
        let (config, reads_source) = (&model.config, model.config.decoder.is_some());
        let (given, most) = (self.sizes[2], config.context_length());
        match reads_source {
            true if given == 0 || given > most => {
                return Err(Error::invalid("source.source_length", format!("1 to {most}"), given));
            }
            false if given > 0 => {
                return Err(Error::invalid("source.source_length", "0 for a model without a source", given));
            }
            _ => {}
        }
        self.form = Form {
            head: Some(config.head),
            labels: config.labels.len(),
            reads_types: config.model_type == ModelType::Bert,
            reads_lengths: reads_source || config.model_type == ModelType::Bert,
            reads_source,
        };
        Ok(())
    }

    fn read(&mut self, split: Split, examples: &[usize], batch: &mut TokenBatch) -> Result<()> {
        let split = if split == Split::Training { HQ_SPLIT_TRAINING } else { HQ_SPLIT_VALIDATION };
        let numbers: Vec<u64> = examples.iter().map(|&example| example as u64).collect();
        let (count, length, source_length) = (numbers.len(), batch.length, self.sizes[2]);
        let Form { head, labels, reads_types, reads_lengths, reads_source } = self.form;
        batch.targets.resize(head.map_or(0, |head| head.target_count(count, length)), 0);
        if head == Some(Head::Regression) {
            batch.values.resize(count * labels, 0.0);
        }
        if reads_types {
            batch.token_types.resize(count * length, 0);
        }
        if reads_lengths {
            batch.lengths.resize(count, if reads_source { source_length } else { length } as u32);
        }
        if reads_source {
            batch.source.resize(count * source_length, 0);
        }
        let buffers = hq_batch_buffers {
            struct_size: size_of::<hq_batch_buffers>() as u32,
            split,
            examples: numbers.as_ptr(),
            count: count as u64,
            length: length as u64,
            tokens: place_of(&mut batch.tokens),
            targets: place_of(&mut batch.targets),
            targets_len: batch.targets.len() as u64,
            values: place_of(&mut batch.values),
            values_len: batch.values.len() as u64,
            token_types: place_of(&mut batch.token_types),
            lengths: place_of(&mut batch.lengths),
            source: place_of(&mut batch.source),
            source_length: if reads_source { source_length as u64 } else { 0 },
        };
        // SAFETY: the arrays have the sizes that the struct says; the caller vouches for its function.
        let result = unsafe { (self.read)(&raw const buffers, self.source.user_data) };
        self.result.check("batch", result)
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}

impl Trained for BatchObjective<CallerBatches> {
    fn generator(&mut self) -> Option<(&mut Model, &Tokenizer)> {
        Some(BatchObjective::generator(self))
    }
}

pub(super) struct CallerObjective {
    store: SharedStore,
    /// A handle of our own for the callbacks: the caller may have freed his.
    handle: *mut hq_parameters,
    objective: hq_objective,
    loss: unsafe extern "C" fn(*mut hq_parameters, *const u64, usize, f32, *mut f64, *mut c_void) -> i32,
    examples: usize,
    features: Option<Features>,
    identity: String,
    pub(super) result: CallbackResult,
}

impl CallerObjective {
    /// # Safety
    /// `parameters` and `objective` are as the header says.
    pub(super) unsafe fn new(
        parameters: *const hq_parameters,
        objective: *const hq_objective,
    ) -> std::result::Result<Self, Failure> {
        // SAFETY: as the caller vouches.
        let (store, objective) =
            unsafe { (handle_ref(parameters, "parameters")?.clone(), options(objective, "objective")?) };
        let loss = objective.loss.ok_or_else(|| Failure::new(hq_status::HQ_NULL_POINTER, "objective.loss: NULL"))?;
        // SAFETY: as the caller vouches.
        let identity = unsafe { text(objective.identity, "objective.identity") }?.to_string();
        let examples = index(objective.examples, "objective.examples")?;
        let mut features = None;
        if !objective.features.is_null() {
            let dim = index(objective.feature_dim, "objective.feature_dim")?;
            let len = size(&[examples, dim], "objective.features")?;
            // SAFETY: as the caller vouches.
            let values = unsafe { input(objective.features, len, "objective.features") }?.to_vec();
            features = Some(Features { values, dim });
        }
        let handle = new_handle(store.clone());
        let result = CallbackResult::default();
        Ok(CallerObjective { store, handle, objective, loss, examples, features, identity, result })
    }
}

impl Drop for CallerObjective {
    fn drop(&mut self) {
        // SAFETY: ours, and the header tells callbacks not to keep it.
        unsafe { free_handle(self.handle) };
    }
}

impl Objective for CallerObjective {
    fn store(&self) -> &ParamStore {
        // SAFETY: one thread at a time uses trainer and parameters, and references of earlier calls are gone.
        unsafe { self.store.get() }
    }

    fn store_mut(&mut self) -> &mut ParamStore {
        // SAFETY: as above.
        unsafe { self.store.get() }
    }

    fn examples(&self) -> usize {
        self.examples
    }

    fn loss_and_gradients(
        &mut self,
        _context: &Context,
        indices: &[usize],
        _randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64> {
        let numbers: Vec<u64> = indices.iter().map(|&example| example as u64).collect();
        let (mut loss, user_data) = (f64::NAN, self.objective.user_data);
        // SAFETY: the arrays have the sizes that the header promises; the caller vouches for its function.
        let result = unsafe {
            (self.loss)(self.handle, numbers.as_ptr(), numbers.len(), gradient_scale, &raw mut loss, user_data)
        };
        self.result.check("loss", result)?;
        Ok(loss)
    }

    fn evaluate(&mut self, _context: &Context) -> Result<Option<Evaluation>> {
        let Some(evaluate) = self.objective.evaluate else { return Ok(None) };
        let mut loss = f64::NAN;
        // SAFETY: the caller vouches for its function.
        let result = unsafe { evaluate(self.handle, &raw mut loss, self.objective.user_data) };
        self.result.check("evaluate", result)?;
        Ok(Some(Evaluation { loss, bits_per_byte: None }))
    }

    fn features(&self, _context: &Context) -> Result<Option<Features>> {
        Ok(self.features.clone())
    }

    fn identity(&self) -> String {
        format!("a model of the caller's: {}", self.identity)
    }
}

impl Trained for CallerObjective {
    fn generator(&mut self) -> Option<(&mut Model, &Tokenizer)> {
        None
    }
}
