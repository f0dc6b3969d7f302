//! Cross entropy, normalisations and dropout, on the caller's buffers, on the calling thread.

use super::arguments::{input, output, size};
use super::boundary::{Failure, guard};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use crate::tensor::RandomStream;

/// Random streams of [`hq_dropout`] (see [`RandomStream::new`]).
const DROPOUT_PURPOSE: u32 = 70;

fn positive(value: f32, name: &str) -> Result<(), Failure> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(Failure::invalid(name, "a finite number above 0", value))
    }
}

/// Cross entropy in nats of each row of `logits` (`rows x vocabulary`) against `targets` (`rows` ids below `vocabulary`):
/// `losses` (`rows`). The logits become the gradient `(softmax - onehot) * gradient_scale` (use 1 / rows for a mean loss).
/// HQ_INVALID_VALUE: a target out of range.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_cross_entropy_rows(
    context: *const hq_context,
    logits: *mut f32,
    rows: usize,
    vocabulary: usize,
    targets: *const u32,
    gradient_scale: f32,
    losses: *mut f32,
) -> hq_status {
    guard("hq_cross_entropy_rows", || {
        let len = size(&[rows, vocabulary], "rows x vocabulary")?;
        // SAFETY: as the caller vouches.
        let (context, logits) = unsafe { (context_of(context)?, output(logits, len, "logits")?) };
        // SAFETY: as the caller vouches.
        let (targets, losses) = unsafe { (input(targets, rows, "targets")?, output(losses, rows, "losses")?) };
        if let Some(target) = targets.iter().find(|&&target| target as usize >= vocabulary) {
            return Err(Failure::invalid("targets", format!("below {vocabulary}"), target));
        }
        context.kernels().cross_entropy_rows(logits, vocabulary, targets, losses, gradient_scale);
        Ok(())
    })
}

/// RMSNorm of each row of `x` (`rows x width`): `y = x * inverse * gain`, `inverse = 1 / sqrt(mean(x^2) + eps)` (Zhang and
/// Sennrich, 2019). `gain`: `width` numbers. `inverses` (`rows`) is what the gradient needs.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_rms_norm_rows(
    context: *const hq_context,
    x: *const f32,
    rows: usize,
    width: usize,
    gain: *const f32,
    eps: f32,
    y: *mut f32,
    inverses: *mut f32,
) -> hq_status {
    guard("hq_rms_norm_rows", || {
        positive(eps, "eps")?;
        let len = size(&[rows, width], "rows x width")?;
        // SAFETY: as the caller vouches.
        let (context, x, gain) = unsafe { (context_of(context)?, input(x, len, "x")?, input(gain, width, "gain")?) };
        // SAFETY: as the caller vouches.
        let (y, inverses) = unsafe { (output(y, len, "y")?, output(inverses, rows, "inverses")?) };
        context.kernels().rms_norm_rows(x, gain, eps, y, inverses);
        Ok(())
    })
}

/// The gradients of `hq_rms_norm_rows` from its inputs, `inverses` and `dy` (`rows x width`): `dx` (`rows x width`) is
/// written, the gain's is *added to* `gain_gradient` (`width`).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_rms_norm_backward_rows(
    context: *const hq_context,
    x: *const f32,
    rows: usize,
    width: usize,
    gain: *const f32,
    inverses: *const f32,
    dy: *const f32,
    dx: *mut f32,
    gain_gradient: *mut f32,
) -> hq_status {
    guard("hq_rms_norm_backward_rows", || {
        let len = size(&[rows, width], "rows x width")?;
        // SAFETY: as the caller vouches.
        let (context, x, gain) = unsafe { (context_of(context)?, input(x, len, "x")?, input(gain, width, "gain")?) };
        // SAFETY: as the caller vouches.
        let (inverses, dy) = unsafe { (input(inverses, rows, "inverses")?, input(dy, len, "dy")?) };
        // SAFETY: as the caller vouches.
        let (dx, of_gain) = unsafe { (output(dx, len, "dx")?, output(gain_gradient, width, "gain_gradient")?) };
        context.kernels().rms_norm_backward_rows(x, gain, inverses, dy, dx, of_gain);
        Ok(())
    })
}

/// LayerNorm of each row of `x` (`rows x width`): `y = (x - mean) * inverse * gain + bias`, `inverse = 1 / sqrt(variance +
/// eps)`, biased variance (Ba et al., 2016). `gain`, `bias`: `width` numbers. `statistics` (`rows x 2`: mean, inverse) is
/// what the gradient needs.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_layer_norm_rows(
    context: *const hq_context,
    x: *const f32,
    rows: usize,
    width: usize,
    gain: *const f32,
    bias: *const f32,
    eps: f32,
    y: *mut f32,
    statistics: *mut f32,
) -> hq_status {
    guard("hq_layer_norm_rows", || {
        positive(eps, "eps")?;
        let (len, pairs) = (size(&[rows, width], "rows x width")?, size(&[rows, 2], "statistics")?);
        // SAFETY: as the caller vouches.
        let (context, x, gain) = unsafe { (context_of(context)?, input(x, len, "x")?, input(gain, width, "gain")?) };
        // SAFETY: as the caller vouches.
        let (bias, y) = unsafe { (input(bias, width, "bias")?, output(y, len, "y")?) };
        // SAFETY: as the caller vouches.
        let statistics = unsafe { output(statistics, pairs, "statistics") }?;
        context.kernels().layer_norm_rows(x, gain, bias, eps, y, statistics);
        Ok(())
    })
}

/// The gradients of `hq_layer_norm_rows` from its inputs, `statistics` and `dy` (`rows x width`): `dx` (`rows x width`) is
/// written, those of gain and bias are *added to* `gain_gradient` and `bias_gradient` (`width` each).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_layer_norm_backward_rows(
    context: *const hq_context,
    x: *const f32,
    rows: usize,
    width: usize,
    gain: *const f32,
    statistics: *const f32,
    dy: *const f32,
    dx: *mut f32,
    gain_gradient: *mut f32,
    bias_gradient: *mut f32,
) -> hq_status {
    guard("hq_layer_norm_backward_rows", || {
        let (len, pairs) = (size(&[rows, width], "rows x width")?, size(&[rows, 2], "statistics")?);
        // SAFETY: as the caller vouches.
        let (context, x, gain) = unsafe { (context_of(context)?, input(x, len, "x")?, input(gain, width, "gain")?) };
        // SAFETY: as the caller vouches.
        let (statistics, dy) = unsafe { (input(statistics, pairs, "statistics")?, input(dy, len, "dy")?) };
        // SAFETY: as the caller vouches.
        let (dx, of_gain) = unsafe { (output(dx, len, "dx")?, output(gain_gradient, width, "gain_gradient")?) };
        // SAFETY: as the caller vouches.
        let of_bias = unsafe { output(bias_gradient, width, "bias_gradient") }?;
        context.kernels().layer_norm_backward_rows(x, gain, statistics, dy, dx, of_gain, of_bias);
        Ok(())
    })
}

/// `y[i]` = 0 with probability `rate` (0 to below 1), else `x[i] / (1 - rate)`, for `len` numbers. The mask is a function of
/// `seed`, `step`, `tensor` and `i` alone: the same call on the gradient of `y` gives that of `x`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dropout(
    context: *const hq_context,
    x: *const f32,
    len: usize,
    rate: f32,
    seed: u64,
    step: u32,
    tensor: u32,
    y: *mut f32,
) -> hq_status {
    guard("hq_dropout", || {
        if !(0.0..1.0).contains(&rate) {
            return Err(Failure::invalid("rate", "0 to below 1", rate));
        }
        // SAFETY: as the caller vouches.
        let (context, x, y) = unsafe { (context_of(context)?, input(x, len, "x")?, output(y, len, "y")?) };
        let threshold = (f64::from(rate) * 4_294_967_296.0) as u32;
        let key = RandomStream::key(seed, DROPOUT_PURPOSE);
        context.kernels().dropout(x, key, tensor, step, 0, threshold, 1.0 / (1.0 - rate), y);
        Ok(())
    })
}
