//! `hq_optimizer`: the hybrid optimizer, AdamW or SGD on the caller's own parameters and gradients.

use std::ffi::c_char;
use std::path::Path;

use super::arguments::{Growable, expect_len, input, optional_report, options, report};
use super::auxiliary::{hq_auxiliary_statistics, write_statistics};
use super::boundary::{
    Failure, Opaque, free_handle, guard, handle_mut, handle_ref, new_handle, not_null, optional_text, place, text,
};
use super::context::{context_of, hq_context};
use super::parameters::{hq_parameters, store_of};
use super::status::hq_status;
use crate::Error;
use crate::nn::ParamStore;
use crate::optim::{LearningRateSchedule, Optimizer, OptimizerConfig, TrainingState};
use crate::train::{Checkpoint, CheckpointHeader};

/// Base rate and decay at every step.
pub const HQ_SCHEDULE_CONSTANT: u32 = 0;
/// Linear warm-up, then half a cosine down to `fraction` of the base rate.
pub const HQ_SCHEDULE_COSINE: u32 = 1;
/// The two stages of BitNet b1.58: linear decay; from half-way on a lower rate (`fraction` of the base) without weight
/// decay.
pub const HQ_SCHEDULE_TWO_STAGE: u32 = 2;

/// What a saved optimizer's file belongs to.
const IDENTITY: &str = "parameters and optimizer, saved by hq_optimizer_save";

/// An optimizer with its state. One thread at a time may use it.
pub struct hq_optimizer {
    _opaque: [u8; 0],
}

impl Opaque for hq_optimizer {
    type Value = Box<dyn Optimizer>;
    const NAME: &'static str = "hq_optimizer";
}

/// What is known at a step, beside the gradients. Set `struct_size` to `sizeof(hq_training_state)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_training_state {
    /// `sizeof(hq_training_state)`.
    pub struct_size: u32,
    /// 1 if the batch came from one data cluster, `cluster`.
    pub has_cluster: u32,
    /// Step number, from 0.
    pub step: u64,
    /// Data cluster of the batch.
    pub cluster: u64,
    /// L2 norm of all gradients before clipping; 0: of the gradients as they are.
    pub gradient_norm: f64,
    /// Loss of this step's batch, before the update.
    pub loss: f32,
    /// Scheduled learning rate.
    pub learning_rate: f32,
    /// Scheduled weight decay; for linear and embedding parameters.
    pub weight_decay: f32,
    /// Share of the run that is done, 0 to 1.
    pub progress: f32,
    /// Share of the quantized weights that the last step changed; 0: none, or not known.
    pub flip_rate: f32,
    /// Logarithm of a step's length at multiplier 1 over the trust region's bound, for hq_auxiliary_observe; 0: not known. An
    /// optimizer finds it itself.
    pub log_reach: f32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_training_state {
    /// Up to `weight_decay`.
    const FIRST_SIZE: usize = 48;
}

/// What an update did. Set `struct_size` to `sizeof(hq_update_report)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_update_report {
    /// `sizeof(hq_update_report)`.
    pub struct_size: u32,
    /// 1 if the trust region shortened the update of any parameter.
    pub constraint_active: u32,
    /// L2 norm of the change of all weights.
    pub update_norm: f64,
    /// Factor of the auxiliary network on the learning rate; 1 without it.
    pub learning_rate_multiplier: f32,
    /// Trust radius in force; 0 without a trust region.
    pub trust_radius: f32,
    /// Share of the weights in parameters whose update was shortened, 0 to 1.
    pub constrained_share: f32,
    /// Norm of the update over its norm without the trust region, 0 to 1.
    pub efficiency: f32,
    /// Lean on momentum, (-1, 1); 0 unless the network has a third output.
    pub direction_bias: f32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_update_report {
    const FIRST_SIZE: usize = size_of::<hq_update_report>();
}

/// How learning rate and weight decay change over a run. Set `struct_size` to `sizeof(hq_schedule)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_schedule {
    /// `sizeof(hq_schedule)`.
    pub struct_size: u32,
    /// An HQ_SCHEDULE_ constant.
    pub kind: u32,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Share of the base rate at the end of the cosine, or at the start of the second stage; 0 to 1.
    pub fraction: f32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_schedule {
    const FIRST_SIZE: usize = size_of::<hq_schedule>();
}

pub(super) fn training_state(state: &hq_training_state, gradient_norm: f64) -> TrainingState {
    TrainingState {
        step: state.step,
        loss: state.loss,
        learning_rate: state.learning_rate,
        weight_decay: state.weight_decay,
        gradient_norm,
        cluster: (state.has_cluster != 0).then_some(state.cluster as usize),
        progress: state.progress,
        flip_rate: state.flip_rate,
        log_reach: state.log_reach,
    }
}

/// Learning rate and weight decay at `step` (from 0) of `total_steps`. `weight_decay` may be NULL.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_schedule_at(
    schedule: *const hq_schedule,
    base_learning_rate: f32,
    base_weight_decay: f32,
    step: u64,
    total_steps: u64,
    learning_rate: *mut f32,
    weight_decay: *mut f32,
) -> hq_status {
    guard("hq_schedule_at", || {
        // SAFETY: as the caller vouches.
        let (schedule, rate) = unsafe { (options(schedule, "schedule")?, place(learning_rate, "learning_rate")?) };
        // SAFETY: as the caller vouches.
        let decay = unsafe { super::boundary::optional_place(weight_decay, "weight_decay") }?;
        let (warmup_steps, fraction) = (schedule.warmup_steps, schedule.fraction);
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Failure::invalid("schedule.fraction", "0 to 1", fraction));
        }
        let schedule = match schedule.kind {
            HQ_SCHEDULE_CONSTANT => LearningRateSchedule::Constant,
            HQ_SCHEDULE_COSINE => LearningRateSchedule::WarmupCosine { warmup_steps, final_fraction: fraction },
            HQ_SCHEDULE_TWO_STAGE => LearningRateSchedule::TwoStage { warmup_steps, second_fraction: fraction },
            other => return Err(Failure::invalid("schedule.kind", "an HQ_SCHEDULE_ constant (0 to 2)", other)),
        };
        rate.write(schedule.learning_rate(base_learning_rate, step, total_steps));
        if let Some(decay) = decay {
            decay.write(schedule.weight_decay(base_weight_decay, step, total_steps));
        }
        Ok(())
    })
}

/// Makes an optimizer for `parameters`. `config_json` may be NULL, or is a JSON object of some of these fields (the others
/// have their defaults): `optimizer` ("hybrid", "adamw", "sgd"), `inner` ("adamw", "sgd"), `momentum` (0.9), `beta2` (0.95), `epsilon`
/// (1e-8), `use_auxiliary_nn` (true), `auxiliary_nn_hidden_size` (16), `auxiliary_nn_learning_rate` (0.001),
/// `auxiliary_nn_warm_start` (true), `auxiliary_nn_output_size` (2), `use_adaptive_lr` (true), `use_trust_region` (true),
/// `initial_trust_radius` (0.01), `trust_radius_adaptation` (true), `trust_radius_rule` ("network", "schedule", which needs
/// `base_learning_rate`, "reduction-ratio", which needs hq_optimizer_observe_reduction), `trust_norm` ("l2", "max", "spectral"),
/// `trust_scope` ("global", "tensor"), `radius_mode` ("relative", "initial", "absolute"), `steepest_momentum` (0.95),
/// `steepest_rms` (0.2), `newton_schulz_iterations` (3) and `newton_schulz_precision` ("f32", "int8") of steps in the max and
/// spectral norms, `seed`.
/// HQ_INVALID_VALUE names an unknown field or a value out of range.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_optimizer_new(
    parameters: *const hq_parameters,
    config_json: *const c_char,
    out: *mut *mut hq_optimizer,
) -> hq_status {
    guard("hq_optimizer_new", || {
        // SAFETY: as the caller vouches.
        let (store, out) = unsafe { (store_of(parameters)?, place(out, "out")?) };
        // SAFETY: as the caller vouches.
        let json = unsafe { optional_text(config_json, "config_json") }?.unwrap_or("{}");
        let config: OptimizerConfig = serde_json::from_str(json)
            .map_err(|error| Error::invalid("config_json", "fields of an optimizer", error))?;
        out.write(new_handle(config.build(store)?));
        Ok(())
    })
}

fn step(
    optimizer: &mut dyn Optimizer,
    context: &crate::dispatch::Context,
    store: &mut ParamStore,
    state: &hq_training_state,
) -> Result<hq_update_report, Failure> {
    let norm = if state.gradient_norm == 0.0 { context.norm(store.gradients()) } else { state.gradient_norm };
    let found = optimizer.step(context, store, &training_state(state, norm))?;
    if let Some(name) = found.skipped {
        let message = format!("gradient of {name}: not finite; the step was skipped, nothing has changed");
        return Err(Failure::new(hq_status::HQ_NOT_FINITE, message));
    }
    Ok(hq_update_report {
        struct_size: 0,
        constraint_active: u32::from(found.constraint_active),
        update_norm: found.update_norm,
        learning_rate_multiplier: found.lr_multiplier,
        trust_radius: if found.trust_radius.is_finite() { found.trust_radius } else { 0.0 },
        constrained_share: found.constrained_share,
        efficiency: found.efficiency,
        direction_bias: found.direction_bias,
    })
}

/// One update of every parameter from the gradients beside it, which stay as they are. `report` may be NULL. Call
/// `hq_parameters_quantize` afterwards if a parameter has a precision. HQ_NOT_FINITE: a gradient, named, is NaN or
/// infinite; the step was skipped. HQ_INVALID_VALUE: a learning rate or decay out of range, or parameters other than the
/// optimizer's.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_optimizer_step(
    optimizer: *mut hq_optimizer,
    context: *const hq_context,
    parameters: *mut hq_parameters,
    state: *const hq_training_state,
    report: *mut hq_update_report,
) -> hq_status {
    guard("hq_optimizer_step", || {
        // SAFETY: as the caller vouches.
        let (optimizer, context) = unsafe { (handle_mut(optimizer, "optimizer")?, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let (store, state) = unsafe { (store_of(parameters)?, options(state, "state")?) };
        // SAFETY: as the caller vouches.
        let report = unsafe { optional_report(report, "report") }?;
        let found = step(&mut **optimizer, context, store, &state)?;
        if let Some(report) = report {
            report.write(found);
        }
        Ok(())
    })
}

/// As `hq_optimizer_step` for arrays that stay in the caller's own memory: `weights[i]` and `gradients[i]` (`count` pointers
/// each, one for every parameter, in the order of their declaration) are copied in, and the new weights are copied out.
/// `report` may be NULL.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_optimizer_step_arrays(
    optimizer: *mut hq_optimizer,
    context: *const hq_context,
    parameters: *mut hq_parameters,
    weights: *const *mut f32,
    gradients: *const *const f32,
    count: usize,
    state: *const hq_training_state,
    report: *mut hq_update_report,
) -> hq_status {
    guard("hq_optimizer_step_arrays", || {
        // SAFETY: as the caller vouches.
        let (optimizer, context) = unsafe { (handle_mut(optimizer, "optimizer")?, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let (store, state) = unsafe { (store_of(parameters)?, options(state, "state")?) };
        // SAFETY: as the caller vouches.
        let report = unsafe { optional_report(report, "report") }?;
        expect_len(count, store.ids().count(), "count")?;
        // SAFETY: as the caller vouches.
        let (weights, gradients) =
            unsafe { (input(weights, count, "weights")?, input(gradients, count, "gradients")?) };
        for id in store.ids().filter(|id| !store.spec(*id).is_empty()) {
            not_null(weights[id.index()], &format!("weights[{}]", id.index()))?;
            not_null(gradients[id.index()], &format!("gradients[{}]", id.index()))?;
        }
        for id in store.ids() {
            let (to_weight, to_gradient) = store.weight_and_gradient_mut(id);
            let len = to_weight.len();
            // SAFETY: the caller vouches for arrays of the parameter's size; `copy` allows them to be our own.
            unsafe { std::ptr::copy(weights[id.index()].cast_const(), to_weight.as_mut_ptr(), len) };
            // SAFETY: as above.
            unsafe { std::ptr::copy(gradients[id.index()], to_gradient.as_mut_ptr(), len) };
        }
        let found = step(&mut **optimizer, context, store, &state)?;
        for id in store.ids() {
            let weight = store.weight(id);
            // SAFETY: as above.
            unsafe { std::ptr::copy(weight.as_ptr(), weights[id.index()], weight.len()) };
        }
        if let Some(report) = report {
            report.write(found);
        }
        Ok(())
    })
}

/// Tells an optimizer with the radius rule "reduction-ratio" by how much its last step reduced the loss of that step's own batch:
/// loss before minus loss after, both over the same examples. Others ignore it.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_optimizer_observe_reduction(optimizer: *mut hq_optimizer, reduction: f32) -> hq_status {
    guard("hq_optimizer_observe_reduction", || {
        // SAFETY: as the caller vouches.
        let optimizer = unsafe { handle_mut(optimizer, "optimizer") }?;
        optimizer.observe_reduction(reduction);
        Ok(())
    })
}

/// Writes weights and the optimizer's state to one safetensors file, in one step: an older file stays whole if it fails.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_optimizer_save(
    optimizer: *const hq_optimizer,
    parameters: *const hq_parameters,
    path: *const c_char,
) -> hq_status {
    guard("hq_optimizer_save", || {
        // SAFETY: as the caller vouches.
        let (optimizer, store) = unsafe { (handle_ref(optimizer, "optimizer")?, store_of(parameters)?) };
        // SAFETY: as the caller vouches.
        let path = unsafe { text(path, "path") }?;
        let header = CheckpointHeader {
            version: 0,
            step: 0,
            tokens: 0,
            seconds: 0.0,
            metrics_offset: 0,
            identity: IDENTITY.into(),
            convergence: (f64::INFINITY.to_bits(), 0),
            flip_rate: 0,
            precisions: Vec::new(),
            learned_scales: Vec::new(),
            quiet_steps: Vec::new(),
            cluster_losses: Vec::new(),
            optimizer: String::new(),
            scalars: serde_json::Value::Null,
        };
        Ok(Checkpoint::save(Path::new(path), header, store, &**optimizer)?)
    })
}

/// Reads back what `hq_optimizer_save` wrote, for the same parameters and configuration. HQ_FORMAT: a damaged file, or one
/// of another kind; HQ_IO: it cannot be read.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_optimizer_load(
    optimizer: *mut hq_optimizer,
    parameters: *mut hq_parameters,
    path: *const c_char,
) -> hq_status {
    guard("hq_optimizer_load", || {
        // SAFETY: as the caller vouches.
        let (optimizer, store) = unsafe { (handle_mut(optimizer, "optimizer")?, store_of(parameters)?) };
        // SAFETY: as the caller vouches.
        let path = unsafe { text(path, "path") }?;
        Ok(Checkpoint::open(Path::new(path), Some(IDENTITY))?.restore(store, &mut **optimizer)?)
    })
}

/// How well the decisions of the optimizer's auxiliary network turned out. HQ_UNSUPPORTED: it has none.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_optimizer_get_statistics(
    optimizer: *const hq_optimizer,
    statistics: *mut hq_auxiliary_statistics,
) -> hq_status {
    guard("hq_optimizer_get_statistics", || {
        // SAFETY: as the caller vouches.
        let (optimizer, statistics) =
            unsafe { (handle_ref(optimizer, "optimizer")?, report(statistics, "statistics")?) };
        let network = optimizer.auxiliary_network();
        let missing = || Failure::new(hq_status::HQ_UNSUPPORTED, "the optimizer has no auxiliary network");
        write_statistics(network.ok_or_else(missing)?, statistics);
        Ok(())
    })
}

/// Frees an optimizer; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_optimizer_free(optimizer: *mut hq_optimizer) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(optimizer) };
}
