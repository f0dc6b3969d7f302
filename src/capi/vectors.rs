//! Norms, sums and clipping, on the caller's buffers.

use super::arguments::{input, output};
use super::boundary::{Failure, guard, place};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use crate::Error;
use crate::dispatch::Context;

/// The error that names the first element that is NaN or infinite, if there is one.
pub(super) fn check_finite(values: &[f32], name: &str) -> Result<(), Failure> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::NonFinite { tensor: name.into(), index, value: values[index] }.into()),
        None => Ok(()),
    }
}

/// # Safety
/// As the callers vouch.
unsafe fn sum(
    (context, x, len, out): (*const hq_context, *const f32, usize, *mut f64),
    name: &str,
    of: impl FnOnce(&Context, &[f32]) -> f64,
) -> Result<(), Failure> {
    // SAFETY: as the caller vouches.
    let (context, x, out) = unsafe { (context_of(context)?, input(x, len, "x")?, place(out, name)?) };
    out.write(of(context, x));
    Ok(())
}

/// The L2 norm of `x` (`len` numbers), summed in f64 in a fixed order: the same bits on every machine and number of
/// threads. NaN if an element is NaN, else infinite if one is.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_norm(context: *const hq_context, x: *const f32, len: usize, norm: *mut f64) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_norm", || unsafe { sum((context, x, len, norm), "norm", Context::norm) })
}

/// `sum |x[i]|` over `len` numbers, in f64, the same bits on every machine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_abs_sum(
    context: *const hq_context,
    x: *const f32,
    len: usize,
    total: *mut f64,
) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_abs_sum", || unsafe { sum((context, x, len, total), "total", Context::abs_sum) })
}

/// `sum x[i]^2` over `len` numbers, in f64, the same bits on every machine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_sum_squares(
    context: *const hq_context,
    x: *const f32,
    len: usize,
    total: *mut f64,
) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_sum_squares", || unsafe { sum((context, x, len, total), "total", Context::sum_squares) })
}

/// `sum x[i] * y[i]` over `len` pairs, in f64, the same bits on every machine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dot(
    context: *const hq_context,
    x: *const f32,
    y: *const f32,
    len: usize,
    total: *mut f64,
) -> hq_status {
    guard("hq_dot", || {
        // SAFETY: as the caller vouches.
        let y = unsafe { input(y, len, "y") }?;
        // SAFETY: as the caller vouches.
        unsafe { sum((context, x, len, total), "total", |context, x| context.dot(x, y)) }
    })
}

/// `x[i] *= factor` for `len` numbers, in place.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_scale(context: *const hq_context, x: *mut f32, len: usize, factor: f32) -> hq_status {
    guard("hq_scale", || {
        // SAFETY: as the caller vouches.
        let (context, x) = unsafe { (context_of(context)?, output(x, len, "x")?) };
        context.scale(x, factor);
        Ok(())
    })
}

/// Scales `x` (`len` numbers, in place) so that its L2 norm is at most `max_norm` (above 0), and gives the norm it had.
/// HQ_NOT_FINITE names the first element that is NaN or infinite; `x` is then unchanged.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_clip_norm(
    context: *const hq_context,
    x: *mut f32,
    len: usize,
    max_norm: f64,
    norm: *mut f64,
) -> hq_status {
    guard("hq_clip_norm", || {
        // SAFETY: as the caller vouches.
        let (context, x, norm) = unsafe { (context_of(context)?, output(x, len, "x")?, place(norm, "norm")?) };
        if !(max_norm > 0.0 && max_norm.is_finite()) {
            return Err(Failure::invalid("max_norm", "a finite number above 0", max_norm));
        }
        let found = context.clip_norm(x, max_norm);
        if !found.is_finite() {
            check_finite(x, "x")?;
        }
        norm.write(found);
        Ok(())
    })
}
