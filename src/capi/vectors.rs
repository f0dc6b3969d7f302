//! Norms and clipping, on the caller's buffers.

use super::boundary::{guard, input, not_null, output};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use crate::Error;

/// The L2 norm of `x`, summed in f64 in a fixed order: the same bits on every machine.
///
/// # Safety
/// Pointers are valid for the stated lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_norm(context: *const hq_context, x: *const f32, len: usize, norm: *mut f64) -> hq_status {
    guard("hq_norm", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        not_null(norm, "norm")?;
        // SAFETY: as the caller vouches.
        let x = unsafe { input(x, len, "x") }?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { norm.write(context.norm(x)) };
        Ok(())
    })
}

/// Scales `x` so that its L2 norm is at most `max_norm` (above 0), and gives the norm it had. HQ_NOT_FINITE names the
/// first element that is NaN or infinite; `x` is then unchanged.
///
/// # Safety
/// Pointers are valid for the stated lengths.
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
        let context = unsafe { context_of(context) }?;
        not_null(norm, "norm")?;
        // SAFETY: as the caller vouches.
        let x = unsafe { output(x, len, "x") }?;
        if !(max_norm > 0.0 && max_norm.is_finite()) {
            return Err(Error::invalid("max_norm", "a finite number above 0", max_norm).into());
        }
        let found = context.clip_norm(x, max_norm);
        if let Some(index) = (!found.is_finite()).then(|| x.iter().position(|value| !value.is_finite())).flatten() {
            return Err(Error::NonFinite { tensor: "x".into(), index, value: x[index] }.into());
        }
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { norm.write(found) };
        Ok(())
    })
}
