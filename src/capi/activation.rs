//! Activation functions, element by element on the caller's buffers, on the calling thread.

use super::arguments::{input, output};
use super::boundary::{Failure, guard};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use crate::kernels::KernelTable;

/// # Safety
/// As the callers vouch.
unsafe fn map(
    (context, x, len, y): (*const hq_context, *const f32, usize, *mut f32),
    function: impl FnOnce(&KernelTable, &[f32], &mut [f32]),
) -> Result<(), Failure> {
    // SAFETY: as the caller vouches.
    let (context, x, y) = unsafe { (context_of(context)?, input(x, len, "x")?, output(y, len, "y")?) };
    function(context.kernels(), x, y);
    Ok(())
}

/// # Safety
/// As the callers vouch.
unsafe fn combine(
    (context, a, b, len, out): (*const hq_context, *const f32, *const f32, usize, *mut f32),
    names: [&str; 3],
    function: impl FnOnce(&KernelTable, &[f32], &[f32], &mut [f32]),
) -> Result<(), Failure> {
    // SAFETY: as the caller vouches.
    let (context, a, b) = unsafe { (context_of(context)?, input(a, len, names[0])?, input(b, len, names[1])?) };
    // SAFETY: as the caller vouches.
    function(context.kernels(), a, b, unsafe { output(out, len, names[2]) }?);
    Ok(())
}

/// `y[i] = exp(x[i])` for `len` numbers, within 1.1 ulp; 0 below about -104, infinity from 88.73. The same bits on every machine. NaN gives NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_exp(context: *const hq_context, x: *const f32, len: usize, y: *mut f32) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_exp", || unsafe { map((context, x, len, y), |kernels, x, y| kernels.exp_values(x, y)) })
}

/// `y[i] = ln(x[i])` for `len` numbers, within 1.5 ulp; -infinity at 0, NaN below. The same bits on every machine. NaN gives NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_log(context: *const hq_context, x: *const f32, len: usize, y: *mut f32) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_log", || unsafe { map((context, x, len, y), |kernels, x, y| kernels.log_values(x, y)) })
}

/// `y[i] = tanh(x[i])` for `len` numbers, within 2 ulp. The same bits on every machine. NaN gives NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_tanh(context: *const hq_context, x: *const f32, len: usize, y: *mut f32) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_tanh", || unsafe { map((context, x, len, y), |kernels, x, y| kernels.tanh_values(x, y)) })
}

/// `y[i] = 1 / (1 + exp(-x[i]))` for `len` numbers, within 3 ulp. The same bits on every machine. NaN gives NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_sigmoid(context: *const hq_context, x: *const f32, len: usize, y: *mut f32) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_sigmoid", || unsafe { map((context, x, len, y), |kernels, x, y| kernels.sigmoid_values(x, y)) })
}

/// `y[i] = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` for `len` numbers: the tanh form of GELU. The same bits on every machine. NaN gives NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gelu(context: *const hq_context, x: *const f32, len: usize, y: *mut f32) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_gelu", || unsafe { map((context, x, len, y), |kernels, x, y| kernels.gelu(x, y)) })
}

/// `y[i] = max(x[i], 0)^2` for `len` numbers. The same bits on every machine. NaN gives NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_relu2(context: *const hq_context, x: *const f32, len: usize, y: *mut f32) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_relu2", || unsafe { map((context, x, len, y), |kernels, x, y| kernels.relu2(x, y)) })
}

/// The gradient of `hq_gelu`: `dx` from its input `x` and `dy`, the gradient of its output; `len` numbers each. `|x|` must be
/// below 1e18.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gelu_backward(
    context: *const hq_context,
    x: *const f32,
    dy: *const f32,
    len: usize,
    dx: *mut f32,
) -> hq_status {
    guard("hq_gelu_backward", || {
        let arguments = (context, x, dy, len, dx);
        // SAFETY: as the caller vouches.
        unsafe { combine(arguments, ["x", "dy", "dx"], |kernels, x, dy, dx| kernels.gelu_backward(x, dy, dx)) }
    })
}

/// The gradient of `hq_relu2`: `dx` from its input `x` and `dy`, the gradient of its output; `len` numbers each.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_relu2_backward(
    context: *const hq_context,
    x: *const f32,
    dy: *const f32,
    len: usize,
    dx: *mut f32,
) -> hq_status {
    guard("hq_relu2_backward", || {
        let arguments = (context, x, dy, len, dx);
        // SAFETY: as the caller vouches.
        unsafe { combine(arguments, ["x", "dy", "dx"], |kernels, x, dy, dx| kernels.relu2_backward(x, dy, dx)) }
    })
}

/// `y[i] = gate[i] sigmoid(gate[i]) up[i]` for `len` numbers: the gated SiLU.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_silu_gate(
    context: *const hq_context,
    gate: *const f32,
    up: *const f32,
    len: usize,
    y: *mut f32,
) -> hq_status {
    guard("hq_silu_gate", || {
        let arguments = (context, gate, up, len, y);
        // SAFETY: as the caller vouches.
        unsafe { combine(arguments, ["gate", "up", "y"], |kernels, gate, up, y| kernels.silu_gate(gate, up, y)) }
    })
}

/// `y[i] = max(gate[i], 0)^2 up[i]` for `len` numbers: the gated squared ReLU of BitNet b1.58 2B4T.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_relu2_gate(
    context: *const hq_context,
    gate: *const f32,
    up: *const f32,
    len: usize,
    y: *mut f32,
) -> hq_status {
    guard("hq_relu2_gate", || {
        let arguments = (context, gate, up, len, y);
        // SAFETY: as the caller vouches.
        unsafe { combine(arguments, ["gate", "up", "y"], |kernels, gate, up, y| kernels.relu2_gate(gate, up, y)) }
    })
}

/// The gradients of `hq_silu_gate` by both inputs, from the inputs and `dy`, the gradient of its output; `len` numbers each.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_silu_gate_backward(
    context: *const hq_context,
    gate: *const f32,
    up: *const f32,
    dy: *const f32,
    len: usize,
    dgate: *mut f32,
    dup: *mut f32,
) -> hq_status {
    guard("hq_silu_gate_backward", || {
        // SAFETY: as the caller vouches.
        let (context, gate, up) = unsafe { (context_of(context)?, input(gate, len, "gate")?, input(up, len, "up")?) };
        // SAFETY: as the caller vouches.
        let (dy, dgate) = unsafe { (input(dy, len, "dy")?, output(dgate, len, "dgate")?) };
        // SAFETY: as the caller vouches.
        let dup = unsafe { output(dup, len, "dup") }?;
        context.kernels().silu_gate_backward(gate, up, dy, dgate, dup);
        Ok(())
    })
}

/// The gradients of `hq_relu2_gate` by both inputs, from the inputs and `dy`, the gradient of its output; `len` numbers each.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_relu2_gate_backward(
    context: *const hq_context,
    gate: *const f32,
    up: *const f32,
    dy: *const f32,
    len: usize,
    dgate: *mut f32,
    dup: *mut f32,
) -> hq_status {
    guard("hq_relu2_gate_backward", || {
        // SAFETY: as the caller vouches.
        let (context, gate, up) = unsafe { (context_of(context)?, input(gate, len, "gate")?, input(up, len, "up")?) };
        // SAFETY: as the caller vouches.
        let (dy, dgate) = unsafe { (input(dy, len, "dy")?, output(dgate, len, "dgate")?) };
        // SAFETY: as the caller vouches.
        let dup = unsafe { output(dup, len, "dup") }?;
        context.kernels().relu2_gate_backward(gate, up, dy, dgate, dup);
        Ok(())
    })
}
