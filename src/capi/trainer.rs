//! `hq_trainer`: trains a language model on text or on the caller's batches, or a model of the caller's own.

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::arguments::{optional_report, report};
use super::auxiliary::{hq_auxiliary_statistics, write_statistics};
use super::boundary::{Failure, Opaque, free_handle, give_text, guard, handle_ref, new_handle, place, text};
use super::context::{ContextValue, context_value, hq_context};
use super::generate::{hq_generate_options, hq_text_callback, write_text};
use super::objective::{CallbackResult, CallerBatches, CallerObjective, hq_batch_source, hq_objective};
use super::parameters::hq_parameters;
use super::progress::{ProgressSlot, hq_progress_callback};
use super::status::hq_status;
use super::step_report::{hq_run_summary, hq_step_report, step_report, summary_of};
use crate::data::Tokenizer;
use crate::models::Model;
use crate::optim::Optimizer;
use crate::train::{
    EvaluationMetrics, LanguageModelObjective, LanguageModelTrainer, Objective, RunDirectory, RunPlace, StepMetrics,
    StopReason, Summary, TrainConfig, Trainer,
};
use crate::{Error, Result};

/// A model in training. One thread at a time may use it; `hq_trainer_cancel` may be called by any thread at any time.
pub struct hq_trainer {
    _opaque: [u8; 0],
}

/// What the trainers of all objectives have in common.
trait AnyTrainer {
    fn step(&mut self) -> Result<StepMetrics>;
    fn evaluate(&mut self) -> Result<Option<EvaluationMetrics>>;
    fn run(&mut self) -> Result<Summary>;
    fn save_state(&self, path: &Path) -> Result<()>;
    fn load_state(&mut self, path: &Path) -> Result<()>;
    fn save_model(&self, folder: &Path) -> Result<()>;
    fn config(&self) -> &TrainConfig;
    fn optimizer(&self) -> &dyn Optimizer;
    fn generator(&mut self) -> Option<(&mut Model, &Tokenizer)>;
}

/// An objective that a C program can train.
pub(super) trait Trained: Objective {
    /// Model and tokenizer, where there is text to generate.
    fn generator(&mut self) -> Option<(&mut Model, &Tokenizer)>;
}

impl Trained for LanguageModelObjective {
    fn generator(&mut self) -> Option<(&mut Model, &Tokenizer)> {
        Some(LanguageModelObjective::generator(self))
    }
}

impl<O: Trained> AnyTrainer for Trainer<O> {
    fn step(&mut self) -> Result<StepMetrics> {
        Trainer::step(self)
    }

    fn evaluate(&mut self) -> Result<Option<EvaluationMetrics>> {
        Trainer::evaluate(self)
    }

    fn run(&mut self) -> Result<Summary> {
        Trainer::run(self)
    }

    fn save_state(&self, path: &Path) -> Result<()> {
        Trainer::save_state(self, path)
    }

    fn load_state(&mut self, path: &Path) -> Result<()> {
        Trainer::load_state(self, path)
    }

    fn save_model(&self, folder: &Path) -> Result<()> {
        self.objective().save_model(folder)
    }

    fn config(&self) -> &TrainConfig {
        Trainer::config(self)
    }

    fn optimizer(&self) -> &dyn Optimizer {
        Trainer::optimizer(self)
    }

    fn generator(&mut self) -> Option<(&mut Model, &Tokenizer)> {
        self.objective_mut().generator()
    }
}

pub(super) struct TrainerValue {
    cancel: Arc<AtomicBool>,
    progress: Arc<Mutex<ProgressSlot>>,
    result: CallbackResult,
    context: ContextValue,
    trainer: UnsafeCell<Box<dyn AnyTrainer>>,
}

impl Opaque for hq_trainer {
    type Value = TrainerValue;
    const NAME: &'static str = "hq_trainer";
}

impl TrainerValue {
    /// Runs `work` with warnings going to the context's log; a callback's failure becomes HQ_CANCELLED.
    ///
    /// # Safety
    /// No other thread uses the trainer.
    unsafe fn with<R>(&self, work: impl FnOnce(&mut dyn AnyTrainer) -> Result<R>) -> std::result::Result<R, Failure> {
        // SAFETY: as the caller vouches; no reference outlives a call.
        let trainer = unsafe { &mut **self.trainer.get() };
        self.context.logged(|| work(trainer)).map_err(|error| self.result.failure(error))
    }
}

fn config_of(json: &str) -> Result<TrainConfig> {
    let fields: toml::Table = serde_json::from_str(json)
        .map_err(|error| Error::invalid("config_json", "a JSON object without nulls", error))?;
    TrainConfig::layered(None, &fields)
}

fn finish<O: Trained + 'static>(
    context: &ContextValue,
    result: CallbackResult,
    make: impl FnOnce() -> Result<Trainer<O>>,
) -> std::result::Result<*mut hq_trainer, Failure> {
    let (cancel, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(ProgressSlot::default())));
    let trainer = context.logged(make).map_err(|error| result.failure(error))?;
    let (stop, slot) = (cancel.clone(), progress.clone());
    let trainer = trainer.cancelled_by(cancel.clone()).on_progress(move |progress| {
        let slot = *slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.call(progress) != 0 {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let trainer = UnsafeCell::new(Box::new(trainer) as Box<dyn AnyTrainer>);
    Ok(new_handle(TrainerValue { cancel, progress, result, context: context.clone(), trainer }))
}

/// Makes a trainer of a language model from a JSON object with the fields of the program's configuration
/// (`hybridq help train`); `data` (a text file or folder) is the only one without a default. Nothing is written to disk.
/// HQ_INVALID_VALUE names an unknown field or a value out of range; HQ_IO and HQ_FORMAT are about files.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_new(
    context: *const hq_context,
    config_json: *const c_char,
    out: *mut *mut hq_trainer,
) -> hq_status {
    guard("hq_trainer_new", || {
        // SAFETY: as the caller vouches.
        let (context, json, out) =
            unsafe { (context_value(context)?, text(config_json, "config_json")?, place(out, "out")?) };
        let config = config_of(json)?;
        out.write(finish(context, CallbackResult::default(), || {
            LanguageModelTrainer::open(&context.context, config, RunPlace::Nowhere)
        })?);
        Ok(())
    })
}

/// As `hq_trainer_new` in a run directory, `folder`, with metrics, checkpoints, the model and its configuration. With
/// `resume` the run that is there goes on exactly where its newest checkpoint stands (`config_json` must fit the run's),
/// else `folder` must hold no run.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_open(
    context: *const hq_context,
    config_json: *const c_char,
    folder: *const c_char,
    resume: bool,
    out: *mut *mut hq_trainer,
) -> hq_status {
    guard("hq_trainer_open", || {
        // SAFETY: as the caller vouches.
        let (context, json) = unsafe { (context_value(context)?, text(config_json, "config_json")?) };
        // SAFETY: as the caller vouches.
        let (folder, out) = unsafe { (Path::new(text(folder, "folder")?), place(out, "out")?) };
        let config = config_of(json)?;
        let mut run = RunPlace::New(Some(folder.to_path_buf()));
        if resume {
            let missing = || Error::invalid("folder", "a folder with a run", folder.display());
            let directory = RunDirectory::open(folder)?.ok_or_else(missing)?;
            config.check_resumes(&directory.read_config()?)?;
            run = RunPlace::Resumed(directory);
        }
        out.write(finish(context, CallbackResult::default(), || {
            LanguageModelTrainer::open(&context.context, config, run)
        })?);
        Ok(())
    })
}

/// Makes a trainer of the language model that `config_json` names (`model`, `init`, `tokenizer`, `seq_length`, ...; no
/// `data`) on batches that the caller's function gives. What `source` points to must stay valid as long as the trainer.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_new_with_batches(
    context: *const hq_context,
    config_json: *const c_char,
    source: *const hq_batch_source,
    out: *mut *mut hq_trainer,
) -> hq_status {
    guard("hq_trainer_new_with_batches", || {
        // SAFETY: as the caller vouches.
        let (context, json, out) =
            unsafe { (context_value(context)?, text(config_json, "config_json")?, place(out, "out")?) };
        let config = config_of(json)?;
        // SAFETY: as the caller vouches.
        let source = unsafe { CallerBatches::new(source) }?;
        let result = source.result.clone();
        out.write(finish(context, result, || Trainer::on_batches(&context.context, config, source))?);
        Ok(())
    })
}

/// Makes a trainer of a model of the caller's own: its parameters, and a function for loss and gradients. It gets clusters
/// of the data, the hybrid optimizer, quantization and checkpoints. Of `config_json` the fields about text and model are
/// not used. The trainer shares `parameters` with the caller.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_new_with_objective(
    context: *const hq_context,
    config_json: *const c_char,
    parameters: *mut hq_parameters,
    objective: *const hq_objective,
    out: *mut *mut hq_trainer,
) -> hq_status {
    guard("hq_trainer_new_with_objective", || {
        // SAFETY: as the caller vouches.
        let (context, json, out) =
            unsafe { (context_value(context)?, text(config_json, "config_json")?, place(out, "out")?) };
        let config = config_of(json)?;
        // SAFETY: as the caller vouches.
        let objective = unsafe { CallerObjective::new(parameters, objective) }?;
        let result = objective.result.clone();
        out.write(finish(context, result, || Trainer::new(context.context.clone(), config, objective))?);
        Ok(())
    })
}

/// Calls `callback` with `user_data` after every step, evaluation and checkpoint, on the thread that trains; NULL: no
/// longer. A result other than 0 has the effect of `hq_trainer_cancel`. The callback must not use the trainer.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_on_progress(
    trainer: *mut hq_trainer,
    callback: hq_progress_callback,
    user_data: *mut c_void,
) -> hq_status {
    guard("hq_trainer_on_progress", || {
        // SAFETY: as the caller vouches.
        let value = unsafe { handle_ref(trainer, "trainer") }?;
        *value.progress.lock().unwrap_or_else(PoisonError::into_inner) = ProgressSlot::new(callback, user_data);
        Ok(())
    })
}

/// One training step. `report` may be NULL. A loss or gradient that is not finite skips the step: weights and state are those
/// before it, and the report says so. HQ_TRAINING: the `max_skipped_steps`th such step in a row. HQ_CANCELLED: a callback
/// of the caller's failed.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_step(trainer: *mut hq_trainer, report: *mut hq_step_report) -> hq_status {
    guard("hq_trainer_step", || {
        // SAFETY: as the caller vouches.
        let (value, report) = unsafe { (handle_ref(trainer, "trainer")?, optional_report(report, "report")?) };
        // SAFETY: as the caller vouches.
        let metrics = unsafe { value.with(|trainer| trainer.step()) }?;
        if let Some(report) = report {
            report.write(step_report(&metrics));
        }
        Ok(())
    })
}

/// Trains to the end of the configuration: `max_steps`, convergence or the time limit, with evaluations and, in a run
/// directory, checkpoints. `summary` may be NULL. HQ_CANCELLED: `hq_trainer_cancel` or a callback stopped it after a whole
/// step (and its checkpoint, in a run directory); calling again goes on.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_run(trainer: *mut hq_trainer, summary: *mut hq_run_summary) -> hq_status {
    guard("hq_trainer_run", || {
        // SAFETY: as the caller vouches.
        let (value, summary) = unsafe { (handle_ref(trainer, "trainer")?, optional_report(summary, "summary")?) };
        // SAFETY: as the caller vouches.
        let found = unsafe { value.with(|trainer| trainer.run()) }?;
        if found.stop == StopReason::Interrupted {
            value.cancel.store(false, Ordering::Relaxed);
            return Err(Failure::new(hq_status::HQ_CANCELLED, format!("stopped after step {}", found.steps)));
        }
        if let Some(summary) = summary {
            summary.write(summary_of(&found));
        }
        Ok(())
    })
}

/// Ends `hq_trainer_run` after the step it is at; without one running, the next stops before its first step. Any thread may
/// call it at any time while the trainer lives, a signal handler too.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_cancel(trainer: *const hq_trainer) -> hq_status {
    guard("hq_trainer_cancel", || {
        // SAFETY: as the caller vouches.
        unsafe { handle_ref(trainer, "trainer") }?.cancel.store(true, Ordering::Relaxed);
        Ok(())
    })
}

/// Mean loss on the held-out examples (language models: nats per token). HQ_INVALID_VALUE: there are none.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_evaluate(trainer: *mut hq_trainer, loss: *mut f64) -> hq_status {
    guard("hq_trainer_evaluate", || {
        // SAFETY: as the caller vouches.
        let (value, loss) = unsafe { (handle_ref(trainer, "trainer")?, place(loss, "loss")?) };
        // SAFETY: as the caller vouches.
        let evaluation = unsafe { value.with(|trainer| trainer.evaluate()) }?;
        let evaluation = evaluation.ok_or_else(|| Error::invalid("data", "held-out examples", "none"))?;
        loss.write(evaluation.val_loss);
        Ok(())
    })
}

/// # Safety
/// As the callers vouch.
unsafe fn with_path(
    trainer: *const hq_trainer,
    (path, name): (*const c_char, &str),
    work: impl FnOnce(&mut dyn AnyTrainer, &Path) -> Result<()>,
) -> std::result::Result<(), Failure> {
    // SAFETY: as the caller vouches.
    let (value, path) = unsafe { (handle_ref(trainer, "trainer")?, Path::new(text(path, name)?)) };
    // SAFETY: as the caller vouches.
    unsafe { value.with(|trainer| work(trainer, path)) }
}

/// Writes weights, optimizer state and step to one safetensors file, in one step: an older file stays whole if it fails.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_save(trainer: *const hq_trainer, path: *const c_char) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_trainer_save", || unsafe { with_path(trainer, (path, "path"), |trainer, path| trainer.save_state(path)) })
}

/// Goes on where `hq_trainer_save` stood. The trainer must have been made from the same configuration and data.
/// HQ_FORMAT: a damaged file, or one of another run.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_load(trainer: *mut hq_trainer, path: *const c_char) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_trainer_load", || unsafe { with_path(trainer, (path, "path"), |trainer, path| trainer.load_state(path)) })
}

/// Writes the model as a folder with `config.json` and `model.safetensors`, made if missing (`hq_model_load` reads it). A
/// model of the caller's own writes nothing.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_save_model(trainer: *const hq_trainer, folder: *const c_char) -> hq_status {
    guard("hq_trainer_save_model", || {
        // SAFETY: as the caller vouches.
        unsafe { with_path(trainer, (folder, "folder"), |trainer, folder| trainer.save_model(folder)) }
    })
}

/// Continues `prompt` ("" starts a text) with the model as it stands. `options` may be NULL: greedy. `callback` gets each
/// piece with `user_data`. HQ_CANCELLED: the callback stopped it; HQ_UNSUPPORTED: a model of the caller's own.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_generate(
    trainer: *mut hq_trainer,
    prompt: *const c_char,
    options: *const hq_generate_options,
    callback: hq_text_callback,
    user_data: *mut c_void,
) -> hq_status {
    guard("hq_trainer_generate", || {
        // SAFETY: as the caller vouches.
        let (value, prompt) = unsafe { (handle_ref(trainer, "trainer")?, text(prompt, "prompt")?) };
        // SAFETY: as the caller vouches; no other reference to the trainer is alive.
        let generator = unsafe { (**value.trainer.get()).generator() };
        let missing = || Failure::new(hq_status::HQ_UNSUPPORTED, "a model of the caller's own writes no text");
        // SAFETY: as the caller vouches.
        unsafe {
            write_text(&value.context.context, generator.ok_or_else(missing)?, prompt, options, callback, user_data)
        }
    })
}

/// The effective configuration as JSON: `*length` gets its bytes without the NUL; `buffer`, if not NULL, gets the text
/// (HQ_SHAPE: `capacity` is too small).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_config(
    trainer: *const hq_trainer,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_trainer_config", || {
        // SAFETY: as the caller vouches.
        let value = unsafe { handle_ref(trainer, "trainer") }?;
        // SAFETY: as the caller vouches.
        let json = unsafe { value.with(|trainer| Ok(serde_json::to_string(&trainer.config().to_table()))) }?;
        // SAFETY: as the caller vouches.
        unsafe { give_text(&json.expect("a configuration is plain data"), buffer, capacity, length) }
    })
}

/// How well the decisions of the auxiliary network turned out. HQ_UNSUPPORTED: the optimizer has none.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_get_statistics(
    trainer: *const hq_trainer,
    statistics: *mut hq_auxiliary_statistics,
) -> hq_status {
    guard("hq_trainer_get_statistics", || {
        // SAFETY: as the caller vouches.
        let (value, statistics) = unsafe { (handle_ref(trainer, "trainer")?, report(statistics, "statistics")?) };
        // SAFETY: as the caller vouches; no other reference to the trainer is alive.
        let network = unsafe { (**value.trainer.get()).optimizer() }.auxiliary_network();
        let missing = || Failure::new(hq_status::HQ_UNSUPPORTED, "the optimizer has no auxiliary network");
        write_statistics(network.ok_or_else(missing)?, statistics);
        Ok(())
    })
}

/// Frees a trainer; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_trainer_free(trainer: *mut hq_trainer) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(trainer) };
}
