//! `hq_parameters`: the weights and gradients of a model of the caller's own.

use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::sync::Arc;

use super::arguments::{Growable, expect_len, input, optional_report, options, output, room_for, size};
use super::boundary::{Failure, Opaque, free_handle, guard, handle_ref, new_handle, not_null, place, text};
use super::context::{context_of, hq_context};
use super::model::{SharedModel, hq_model};
use super::quantizer::precision_of;
use super::status::hq_status;
use super::vectors::check_finite;
use crate::nn::{Init, ParamId, ParamKind, ParamSpec, ParamStore, Precision};

/// A matrix `[out, in]` applied to activations. Weight decay applies to it.
pub const HQ_PARAMETER_LINEAR: u32 = 0;
/// A lookup table `[entries, width]`. Weight decay applies to it.
pub const HQ_PARAMETER_EMBEDDING: u32 = 1;
/// The gain of a normalisation.
pub const HQ_PARAMETER_GAIN: u32 = 2;
/// An additive vector.
pub const HQ_PARAMETER_BIAS: u32 = 3;

/// Most dimensions of a parameter.
const MAX_DIMENSIONS: usize = 8;

/// The parameters of a model, of the library's or the caller's own: named tensors of f32 weights, a gradient beside each, and the quantized
/// copies of those that have a precision. One thread at a time may use it, or an optimizer or trainer on it.
pub struct hq_parameters {
    _opaque: [u8; 0],
}

/// One store with several owners: handles and a trainer. The header allows one thread at a time.
#[derive(Clone)]
pub(super) enum SharedStore {
    Own(Arc<StoreCell>),
    OfModel(SharedModel),
}

pub(super) struct StoreCell(UnsafeCell<ParamStore>);

// SAFETY: the header allows one thread at a time.
unsafe impl Send for StoreCell {}
// SAFETY: as above.
unsafe impl Sync for StoreCell {}

impl Opaque for hq_parameters {
    type Value = SharedStore;
    const NAME: &'static str = "hq_parameters";
}

impl SharedStore {
    /// # Safety
    /// No other thread uses the store, and no reference from an earlier call is used after this one.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn get(&self) -> &mut ParamStore {
        // SAFETY: as the caller vouches.
        match self {
            SharedStore::Own(store) => unsafe { &mut *store.0.get() },
            // SAFETY: as the caller vouches.
            SharedStore::OfModel(model) => unsafe { &mut model.get().model.store },
        }
    }
}

/// What a parameter is. Set `struct_size` to `sizeof(hq_parameter_spec)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_parameter_spec {
    /// `sizeof(hq_parameter_spec)`; the same in all elements of an array.
    pub struct_size: u32,
    /// Its role: an HQ_PARAMETER_ constant.
    pub kind: u32,
    /// Its form in the forward pass: an HQ_PRECISION_ constant; HQ_PRECISION_F32 is not quantized. Quantized parameters
    /// have two dimensions.
    pub precision: u32,
    /// Number of dimensions, 1 to 8.
    pub dimensions: u32,
    /// Dimensions, outermost first.
    pub shape: *const usize,
    /// Unique name.
    pub name: *const c_char,
    /// Standard deviation of the initial weights; 0: all are `initial_value`.
    pub initial_deviation: f32,
    /// Initial weight where there is no deviation.
    pub initial_value: f32,
}

// SAFETY: repr(C), size first, numbers and pointers.
unsafe impl Growable for hq_parameter_spec {
    const FIRST_SIZE: usize = size_of::<hq_parameter_spec>();
}

/// What quantizing found. Set `struct_size` to `sizeof(hq_quantize_report)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_quantize_report {
    /// `sizeof(hq_quantize_report)`.
    pub struct_size: u32,
    /// Not used, 0.
    pub reserved: u32,
    /// Share of quantized values that differ from the last time, 0 to 1 (0 the first time).
    pub flip_rate: f64,
    /// `||W - Q|| / ||W||` over all quantized matrices.
    pub quant_error: f64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_quantize_report {
    const FIRST_SIZE: usize = size_of::<hq_quantize_report>();
}

/// # Safety
/// As the caller vouches: pointers inside the struct are valid.
unsafe fn spec_of(spec: &hq_parameter_spec) -> Result<ParamSpec, Failure> {
    // SAFETY: as the caller vouches.
    let name = unsafe { text(spec.name, "specs.name") }?;
    let kind = match spec.kind {
        HQ_PARAMETER_LINEAR => ParamKind::Linear,
        HQ_PARAMETER_EMBEDDING => ParamKind::Embedding,
        HQ_PARAMETER_GAIN => ParamKind::Gain,
        HQ_PARAMETER_BIAS => ParamKind::Bias,
        other => return Err(Failure::invalid("specs.kind", "an HQ_PARAMETER_ constant (0 to 3)", other)),
    };
    let precision = precision_of(spec.precision)?;
    let dimensions = spec.dimensions as usize;
    if dimensions == 0 || dimensions > MAX_DIMENSIONS {
        return Err(Failure::invalid("specs.dimensions", format!("1 to {MAX_DIMENSIONS}"), dimensions));
    }
    if precision != Precision::F32 && dimensions != 2 {
        return Err(Failure::invalid("specs.dimensions", "2 for a quantized parameter", dimensions));
    }
    // SAFETY: as the caller vouches.
    let shape = unsafe { input(spec.shape, dimensions, "specs.shape") }?;
    size(shape, "specs.shape")?;
    let (deviation, value) = (spec.initial_deviation, spec.initial_value);
    if !(deviation >= 0.0 && deviation.is_finite() && value.is_finite()) {
        return Err(Failure::invalid("specs.initial_deviation", "finite, 0 or more", deviation));
    }
    let init = if deviation > 0.0 { Init::Normal { std: deviation } } else { Init::Constant(value) };
    Ok(ParamSpec { name: name.into(), shape: shape.to_vec(), kind, precision, init })
}

/// Makes the parameters that `specs` (`count` of them) declare, at their initial values drawn from `seed`.
/// HQ_INVALID_VALUE: two of one name, a field out of range; HQ_SHAPE: more than fits into memory.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_new(
    specs: *const hq_parameter_spec,
    count: usize,
    seed: u64,
    out: *mut *mut hq_parameters,
) -> hq_status {
    guard("hq_parameters_new", || {
        not_null(specs, "specs")?;
        // SAFETY: as the caller vouches.
        let (out, stride) = unsafe { (place(out, "out")?, options(specs, "specs")?.struct_size as usize) };
        size(&[count, stride], "count").and_then(|bytes| room_for::<u8>(bytes, "count"))?;
        let (mut declared, mut total) = (Vec::new(), 0usize);
        for at in 0..count {
            // SAFETY: as the caller vouches: `count` structs of that size.
            let spec: hq_parameter_spec = unsafe { options(specs.cast::<u8>().add(at * stride).cast(), "specs") }?;
            expect_len(spec.struct_size as usize, stride, "specs.struct_size")?;
            // SAFETY: as the caller vouches.
            declared.push(unsafe { spec_of(&spec) }?);
            total = total.saturating_add(size(&declared[at].shape, "specs.shape")?).saturating_add(16);
        }
        // Weights, gradients, and what an optimizer keeps.
        room_for::<f32>(total.saturating_mul(4), "specs.shape")?;
        let mut store = ParamStore::new(declared)?;
        store.initialize(seed);
        out.write(new_handle(SharedStore::Own(Arc::new(StoreCell(UnsafeCell::new(store))))));
        Ok(())
    })
}

/// The parameters of `model`, which it keeps using: for an optimizer of the caller's, after `hq_model_step`. The handle stays
/// valid when the model is freed. HQ_UNSUPPORTED: a model to compute with, not to train (of a GGUF or packed file).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_parameters(model: *mut hq_model, out: *mut *mut hq_parameters) -> hq_status {
    guard("hq_model_parameters", || {
        // SAFETY: as the caller vouches.
        let (model, out) = unsafe { (handle_ref(model, "model")?, place(out, "out")?) };
        // SAFETY: as the caller vouches.
        unsafe { model.get() }.model.store.check_weights()?;
        out.write(new_handle(SharedStore::OfModel(model.clone())));
        Ok(())
    })
}

/// # Safety
/// As for [`SharedStore::get`] and [`handle_ref`].
pub(super) unsafe fn store_of<'a>(parameters: *const hq_parameters) -> Result<&'a mut ParamStore, Failure> {
    // SAFETY: as the caller vouches.
    Ok(unsafe { handle_ref(parameters, "parameters")?.get() })
}

pub(super) fn id_of(store: &ParamStore, index: usize) -> Result<ParamId, Failure> {
    let count = store.ids().count();
    store.ids().nth(index).ok_or_else(|| Failure::invalid("index", format!("below {count}"), index))
}

/// Number of parameters, in the order of their declaration.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_count(parameters: *const hq_parameters, count: *mut usize) -> hq_status {
    guard("hq_parameters_count", || {
        // SAFETY: as the caller vouches.
        let (store, count) = unsafe { (store_of(parameters)?, place(count, "count")?) };
        count.write(store.ids().count());
        Ok(())
    })
}

/// The index of the parameter called `name`. HQ_INVALID_VALUE: there is none.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_find(
    parameters: *const hq_parameters,
    name: *const c_char,
    index: *mut usize,
) -> hq_status {
    guard("hq_parameters_find", || {
        // SAFETY: as the caller vouches.
        let (store, name, index) = unsafe { (store_of(parameters)?, text(name, "name")?, place(index, "index")?) };
        let found = store.find(name).ok_or_else(|| Failure::invalid("name", "the name of a parameter", name))?;
        index.write(found.index());
        Ok(())
    })
}

/// The latent weights of a parameter, to read and to change: `*weights` points to `*len` numbers, row-major, on a 64-byte
/// boundary, and stays valid as long as the parameters. `len` may be NULL. After a change `hq_parameters_quantize` must
/// follow before quantized values are read.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_weights(
    parameters: *mut hq_parameters,
    index: usize,
    weights: *mut *mut f32,
    len: *mut usize,
) -> hq_status {
    guard("hq_parameters_weights", || {
        // SAFETY: as the caller vouches.
        unsafe { lend(parameters, index, (weights, "weights"), len, ParamStore::weight_mut) }
    })
}

/// The gradient of a parameter, to add to: `*gradients` points to `*len` numbers and stays valid as long as the
/// parameters. `len` may be NULL.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_gradients(
    parameters: *mut hq_parameters,
    index: usize,
    gradients: *mut *mut f32,
    len: *mut usize,
) -> hq_status {
    guard("hq_parameters_gradients", || {
        // SAFETY: as the caller vouches.
        unsafe { lend(parameters, index, (gradients, "gradients"), len, ParamStore::gradient_mut) }
    })
}

/// # Safety
/// As the callers vouch.
unsafe fn lend(
    parameters: *mut hq_parameters,
    index: usize,
    (values, name): (*mut *mut f32, &str),
    len: *mut usize,
    of: impl FnOnce(&mut ParamStore, ParamId) -> &mut [f32],
) -> Result<(), Failure> {
    // SAFETY: as the caller vouches.
    let (store, values) = unsafe { (store_of(parameters)?, place(values, name)?) };
    // SAFETY: as the caller vouches.
    let len = unsafe { super::boundary::optional_place(len, "len") }?;
    let id = id_of(store, index)?;
    let found = of(store, id);
    if let Some(len) = len {
        len.write(found.len());
    }
    values.write(found.as_mut_ptr());
    Ok(())
}

/// Sets every gradient to zero.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_zero_gradients(parameters: *mut hq_parameters) -> hq_status {
    guard("hq_parameters_zero_gradients", || {
        // SAFETY: as the caller vouches.
        unsafe { store_of(parameters) }?.zero_gradients();
        Ok(())
    })
}

/// Scales all gradients so that their L2 norm together is at most `max_norm` (above 0); `norm` gets the norm they had.
/// HQ_NOT_FINITE names a gradient that is NaN or infinite; nothing has changed then.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_clip_gradients(
    parameters: *mut hq_parameters,
    context: *const hq_context,
    max_norm: f64,
    norm: *mut f64,
) -> hq_status {
    guard("hq_parameters_clip_gradients", || {
        if !(max_norm > 0.0 && max_norm.is_finite()) {
            return Err(Failure::invalid("max_norm", "a finite number above 0", max_norm));
        }
        // SAFETY: as the caller vouches.
        let (store, context, norm) = unsafe { (store_of(parameters)?, context_of(context)?, place(norm, "norm")?) };
        let found = context.clip_norm(store.gradients_mut(), max_norm);
        if !found.is_finite() {
            for id in store.ids() {
                check_finite(store.gradient(id), &format!("gradient of {}", store.spec(id).name))?;
            }
        }
        norm.write(found);
        Ok(())
    })
}

/// Makes the quantized copy of every parameter that has a precision from its latent weights. `report` may be NULL.
/// HQ_NOT_FINITE names a weight that is NaN or infinite.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_quantize(
    parameters: *mut hq_parameters,
    context: *const hq_context,
    report: *mut hq_quantize_report,
) -> hq_status {
    guard("hq_parameters_quantize", || {
        // SAFETY: as the caller vouches.
        let (store, context) = unsafe { (store_of(parameters)?, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let report = unsafe { optional_report(report, "report") }?;
        let found = store.quantize(context)?;
        if let Some(report) = report {
            let (flip_rate, quant_error) = (found.flip_rate, found.quant_error);
            report.write(hq_quantize_report { struct_size: 0, reserved: 0, flip_rate, quant_error });
        }
        Ok(())
    })
}

/// The values of a parameter as a forward pass uses them: what the quantized copy of the last `hq_parameters_quantize`
/// stands for, or the latent weights where there is no precision. `len` must be the number of its elements. Its gradient
/// is added to that of the latent weights unchanged (the straight-through estimate).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_values(
    parameters: *const hq_parameters,
    context: *const hq_context,
    index: usize,
    values: *mut f32,
    len: usize,
) -> hq_status {
    guard("hq_parameters_values", || {
        // SAFETY: as the caller vouches.
        let (store, context) = unsafe { (store_of(parameters)?, context_of(context)?) };
        let id = id_of(store, index)?;
        expect_len(len, store.weight(id).len(), "len")?;
        // SAFETY: as the caller vouches.
        let values = unsafe { output(values, len, "values") }?;
        if store.spec(id).precision == Precision::F32 {
            values.copy_from_slice(store.weight(id));
            return Ok(());
        }
        store.quantized_or_error(id)?.dequantize(context, values);
        Ok(())
    })
}

/// Frees parameters; NULL is fine. A trainer made with them keeps them until it is freed; pointers to weights and gradients
/// are valid as long as one of the two lives.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameters_free(parameters: *mut hq_parameters) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(parameters) };
}
