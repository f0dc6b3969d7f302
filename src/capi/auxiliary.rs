//! `hq_auxiliary_network`: the small network that steers step size and trust radius, by itself.

use std::ffi::c_char;

use super::arguments::{Growable, input, options, output, report};
use super::boundary::{
    Failure, Opaque, free_handle, give_text, guard, handle_mut, handle_ref, new_handle, place, text,
};
use super::optimizer::{hq_training_state, training_state};
use super::status::hq_status;
use crate::optim::{AuxiliaryNetwork, FEATURES, Feedback, StateFeatures};

/// Inputs of the auxiliary network.
pub const HQ_AUXILIARY_INPUTS: u32 = 9;
const _: () = assert!(HQ_AUXILIARY_INPUTS as usize == FEATURES);

/// The auxiliary network with the running means behind its inputs. One thread at a time may use it.
pub struct hq_auxiliary_network {
    _opaque: [u8; 0],
}

pub(super) struct NetworkValue {
    network: AuxiliaryNetwork,
    features: StateFeatures,
}

impl Opaque for hq_auxiliary_network {
    type Value = NetworkValue;
    const NAME: &'static str = "hq_auxiliary_network";
}

/// How a network is made. Set `struct_size` to `sizeof(hq_auxiliary_options)`; zero the rest for defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_auxiliary_options {
    /// `sizeof(hq_auxiliary_options)`.
    pub struct_size: u32,
    /// Hidden units, 1 to 4096; 0: 16.
    pub hidden_size: u32,
    /// 2: multiplier and radius; 3: direction bias as well; 0: 2.
    pub output_size: u32,
    /// Learning rate of its own Adam, above 0 to 1; 0: 0.001.
    pub learning_rate: f32,
    /// Radius at the start, 0.001 to 1; 0: 0.01.
    pub initial_radius: f32,
    /// Seed of the hidden layer's weights.
    pub seed: u64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_auxiliary_options {
    const FIRST_SIZE: usize = size_of::<hq_auxiliary_options>();
}

/// What the network decides. Set `struct_size` to `sizeof(hq_auxiliary_output)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_auxiliary_output {
    /// `sizeof(hq_auxiliary_output)`.
    pub struct_size: u32,
    /// Factor on the learning rate, 0.1 to 10.
    pub multiplier: f32,
    /// Trust radius, 0.001 to 1.
    pub radius: f32,
    /// Lean on momentum, (-1, 1); 0 with two outputs.
    pub direction_bias: f32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_auxiliary_output {
    const FIRST_SIZE: usize = size_of::<hq_auxiliary_output>();
}

/// How the last step turned out. Set `struct_size` to `sizeof(hq_auxiliary_feedback)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_auxiliary_feedback {
    /// `sizeof(hq_auxiliary_feedback)`.
    pub struct_size: u32,
    /// 1 if the trust region shortened the step.
    pub constraint_active: u32,
    /// Cosine of the new gradient and the last update (gradients point uphill, updates count along them): positive if a
    /// longer step would have been better.
    pub alignment: f32,
    /// Loss before the last step minus loss now.
    pub actual_reduction: f32,
    /// First-order prediction of it: inner product of the old gradient and the step made.
    pub predicted_reduction: f32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_auxiliary_feedback {
    const FIRST_SIZE: usize = size_of::<hq_auxiliary_feedback>();
}

/// How well decisions turned out. Set `struct_size` to `sizeof(hq_auxiliary_statistics)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_auxiliary_statistics {
    /// `sizeof(hq_auxiliary_statistics)`.
    pub struct_size: u32,
    /// Not used, 0.
    pub reserved: u32,
    /// Feedbacks taken in.
    pub samples: u64,
    /// Mean of the actual reductions.
    pub mean_reduction: f64,
    /// Share of feedbacks with a reduction above zero, 0 to 1.
    pub success_rate: f64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_auxiliary_statistics {
    const FIRST_SIZE: usize = size_of::<hq_auxiliary_statistics>();
}

/// Makes a fresh network. HQ_INVALID_VALUE: a field out of range.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_auxiliary_new(
    options: *const hq_auxiliary_options,
    out: *mut *mut hq_auxiliary_network,
) -> hq_status {
    guard("hq_auxiliary_new", || {
        // SAFETY: as the caller vouches.
        let (out, options) = unsafe { (place(out, "out")?, self::options(options, "options")?) };
        let or = |value: u32, default: usize| if value == 0 { default } else { value as usize };
        let or_rate = |value: f32, default: f32| if value == 0.0 { default } else { value };
        let hidden = or(options.hidden_size, 16);
        if hidden > 4096 {
            return Err(Failure::invalid("hidden_size", "0 to 4096", hidden));
        }
        let rate = or_rate(options.learning_rate, 0.001);
        if !(rate > 0.0 && rate <= 1.0) {
            return Err(Failure::invalid("learning_rate", "0 to 1", rate));
        }
        let radius = or_rate(options.initial_radius, 0.01);
        let network = AuxiliaryNetwork::new(hidden, or(options.output_size, 2), rate, radius, options.seed)?;
        out.write(new_handle(NetworkValue { network, features: StateFeatures::default() }));
        Ok(())
    })
}

/// The inputs for a step, HQ_AUXILIARY_INPUTS numbers, each within +-3: ratios of loss and gradient norm to their running
/// means, length of the step in the trust region, flip rate, progress. Call it once a step.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_auxiliary_observe(
    network: *mut hq_auxiliary_network,
    state: *const hq_training_state,
    inputs: *mut f32,
) -> hq_status {
    guard("hq_auxiliary_observe", || {
        // SAFETY: as the caller vouches.
        let (value, state) = unsafe { (handle_mut(network, "network")?, options(state, "state")?) };
        // SAFETY: as the caller vouches.
        let inputs = unsafe { output(inputs, FEATURES, "inputs") }?;
        inputs.copy_from_slice(&value.features.observe(&training_state(&state, state.gradient_norm)));
        Ok(())
    })
}

/// The decision for `inputs` (HQ_AUXILIARY_INPUTS numbers, all finite). Feedback that follows is about it.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_auxiliary_decide(
    network: *mut hq_auxiliary_network,
    inputs: *const f32,
    output: *mut hq_auxiliary_output,
) -> hq_status {
    guard("hq_auxiliary_decide", || {
        // SAFETY: as the caller vouches.
        let (value, inputs) = unsafe { (handle_mut(network, "network")?, input(inputs, FEATURES, "inputs")?) };
        // SAFETY: as the caller vouches.
        let output = unsafe { report(output, "output") }?;
        super::vectors::check_finite(inputs, "inputs")?;
        let mut own = [0.0; FEATURES];
        own.copy_from_slice(inputs);
        let found = value.network.decide(own);
        output.write(hq_auxiliary_output {
            struct_size: 0,
            multiplier: found.multiplier,
            radius: found.radius,
            direction_bias: found.direction_bias,
        });
        Ok(())
    })
}

/// Learns from how the last decision turned out. A feedback that is not finite is ignored.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_auxiliary_update(
    network: *mut hq_auxiliary_network,
    feedback: *const hq_auxiliary_feedback,
) -> hq_status {
    guard("hq_auxiliary_update", || {
        // SAFETY: as the caller vouches.
        let (value, feedback) = unsafe { (handle_mut(network, "network")?, options(feedback, "feedback")?) };
        value.network.update_with_feedback(&Feedback {
            alignment: feedback.alignment,
            actual_reduction: feedback.actual_reduction,
            predicted_reduction: feedback.predicted_reduction,
            constraint_active: feedback.constraint_active != 0,
        });
        Ok(())
    })
}

pub(super) fn write_statistics(network: &AuxiliaryNetwork, to: super::arguments::Report<hq_auxiliary_statistics>) {
    let found = network.statistics();
    to.write(hq_auxiliary_statistics {
        struct_size: 0,
        reserved: 0,
        samples: found.samples,
        mean_reduction: found.mean_reduction,
        success_rate: found.success_rate,
    });
}

/// Feedbacks, mean reduction and success rate so far.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_auxiliary_get_statistics(
    network: *const hq_auxiliary_network,
    statistics: *mut hq_auxiliary_statistics,
) -> hq_status {
    guard("hq_auxiliary_get_statistics", || {
        // SAFETY: as the caller vouches.
        let (value, statistics) = unsafe { (handle_ref(network, "network")?, report(statistics, "statistics")?) };
        write_statistics(&value.network, statistics);
        Ok(())
    })
}

/// The network as JSON, its own optimizer's state included: `*length` gets the bytes without the NUL; `buffer`, if not
/// NULL, gets the text (HQ_SHAPE: `capacity` is too small).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_auxiliary_to_json(
    network: *const hq_auxiliary_network,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_auxiliary_to_json", || {
        // SAFETY: as the caller vouches.
        unsafe { give_text(&handle_ref(network, "network")?.network.to_json(), buffer, capacity, length) }
    })
}

/// The network from its JSON. The running means behind the inputs start afresh.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_auxiliary_from_json(json: *const c_char, out: *mut *mut hq_auxiliary_network) -> hq_status {
    guard("hq_auxiliary_from_json", || {
        // SAFETY: as the caller vouches.
        let (json, out) = unsafe { (text(json, "json")?, place(out, "out")?) };
        let network = AuxiliaryNetwork::from_json(json)?;
        out.write(new_handle(NetworkValue { network, features: StateFeatures::default() }));
        Ok(())
    })
}

/// Frees a network; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_auxiliary_free(network: *mut hq_auxiliary_network) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(network) };
}
