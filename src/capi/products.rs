//! int8 quantization of activations and gradients, int8 and dense products, on the caller's buffers.

use super::arguments::{input, output, size};
use super::boundary::{Failure, guard};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use super::vectors::check_finite;
use crate::dispatch::{Int8Matrix, StochasticRounding};
use crate::kernels::DenseMatrix;

/// Random streams of stochastic rounding asked for from C (see [`crate::tensor::RandomStream::new`]).
const ROUNDING_PURPOSE: u32 = 71;

/// The kernels mark what is not finite by a scale of NaN: looking for it costs nothing where all is well.
fn check_scaled(scales: &[f32], x: &[f32]) -> Result<(), Failure> {
    if scales.iter().any(|scale| scale.is_nan()) { check_finite(x, "x") } else { Ok(()) }
}

/// Quantizes each row of `x` (`rows x cols`) to int8 with its own scale: `a = max(max|x|, 1e-5)`,
/// `values = rint(x * (127 / a))` (ties to even), `scales = a / 127` (`rows`). `sums` (`rows`) gets the sum of each row's
/// values. HQ_NOT_FINITE names the first element that is NaN or infinite: since one pass finds and quantizes, the outputs are
/// written then, such a row as zeros with scale NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_quantize_rows(
    context: *const hq_context,
    x: *const f32,
    rows: usize,
    cols: usize,
    values: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
) -> hq_status {
    guard("hq_quantize_rows", || {
        let len = size(&[rows, cols], "rows x cols")?;
        // SAFETY: as the caller vouches.
        let (context, x) = unsafe { (context_of(context)?, input(x, len, "x")?) };
        // SAFETY: as the caller vouches.
        let (values, scales) = unsafe { (output(values, len, "values")?, output(scales, rows, "scales")?) };
        // SAFETY: as the caller vouches.
        context.quantize_rows(x, cols, values, scales, unsafe { output(sums, rows, "sums") }?);
        check_scaled(scales, x)
    })
}

/// As `hq_quantize_rows` with unbiased stochastic rounding and no floor under the maximum: for gradients. The rounding is
/// a function of `seed`, `step`, `tensor`, row and column alone. HQ_NOT_FINITE as there.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_quantize_rows_stochastic(
    context: *const hq_context,
    x: *const f32,
    rows: usize,
    cols: usize,
    seed: u64,
    step: u32,
    tensor: u32,
    values: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
) -> hq_status {
    guard("hq_quantize_rows_stochastic", || {
        let len = size(&[rows, cols], "rows x cols")?;
        // SAFETY: as the caller vouches.
        let (context, x) = unsafe { (context_of(context)?, input(x, len, "x")?) };
        // SAFETY: as the caller vouches.
        let (values, scales) = unsafe { (output(values, len, "values")?, output(scales, rows, "scales")?) };
        // SAFETY: as the caller vouches.
        let sums = unsafe { output(sums, rows, "sums") }?;
        let rounding = StochasticRounding::new(seed, ROUNDING_PURPOSE, step, tensor);
        context.quantize_rows_stochastic(x, cols, rounding, values, scales, sums);
        check_scaled(scales, x)
    })
}

/// Quantizes `x` (`rows x cols`) with one scale for each column: `x[t][c] * row_factors[t] ~ column_scales[c] *
/// values[t][c]`, stochastic rounding as in `hq_quantize_rows_stochastic`. For weight gradients, whose sum runs over rows:
/// `row_factors` (`rows`) are the scales of the other factor. HQ_NOT_FINITE: an element, a factor or a product of both is NaN
/// or infinite; the outputs are written then, such a column as zeros with scale NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_quantize_columns_stochastic(
    context: *const hq_context,
    x: *const f32,
    rows: usize,
    cols: usize,
    row_factors: *const f32,
    seed: u64,
    step: u32,
    tensor: u32,
    values: *mut i8,
    column_scales: *mut f32,
) -> hq_status {
    guard("hq_quantize_columns_stochastic", || {
        let len = size(&[rows, cols], "rows x cols")?;
        // SAFETY: as the caller vouches.
        let (context, x) = unsafe { (context_of(context)?, input(x, len, "x")?) };
        // SAFETY: as the caller vouches.
        let (factors, values) = unsafe { (input(row_factors, rows, "row_factors")?, output(values, len, "values")?) };
        // SAFETY: as the caller vouches.
        let scales = unsafe { output(column_scales, cols, "column_scales") }?;
        let rounding = StochasticRounding::new(seed, ROUNDING_PURPOSE, step, tensor);
        context.quantize_columns_stochastic(x, cols, factors, rounding, values, scales);
        let Some(column) = scales.iter().position(|scale| scale.is_nan()) else { return Ok(()) };
        check_finite(factors, "row_factors")?;
        check_finite(x, "x")?;
        let message = format!("x: column {column} times row_factors is beyond f32");
        Err(Failure::new(hq_status::HQ_NOT_FINITE, message))
    })
}

/// `c[i][j] = a_column_scales[i] * sum over t of a[t][i] * b[t][j]` for int8 `a` (`tokens x m`) and `b` (`tokens x n`); `c`
/// is `m x n`. With `accumulate` it is added to `c`. Integer sums are exact to 65,536 tokens; sections beyond are added in
/// f32, in order. No workspace is needed: the library's threads keep their own.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_int8_matmul_tn(
    context: *const hq_context,
    a: *const i8,
    b: *const i8,
    tokens: usize,
    m: usize,
    n: usize,
    a_column_scales: *const f32,
    accumulate: bool,
    c: *mut f32,
) -> hq_status {
    guard("hq_int8_matmul_tn", || {
        let (a_len, b_len) = (size(&[tokens, m], "a")?, size(&[tokens, n], "b")?);
        let c_len = size(&[m, n], "c")?;
        // SAFETY: as the caller vouches.
        let (context, a, b) = unsafe { (context_of(context)?, input(a, a_len, "a")?, input(b, b_len, "b")?) };
        // SAFETY: as the caller vouches.
        let (scales, c) = unsafe { (input(a_column_scales, m, "a_column_scales")?, output(c, c_len, "c")?) };
        if c_len > 0 {
            let (a, b) = (Int8Matrix::transposed(a, m), Int8Matrix::new(b, n));
            context.int8_matmul((m, n, tokens), a, b, scales, accumulate, c, n);
        }
        Ok(())
    })
}

/// `c = a * b` in f32, or `c += a * b` with `accumulate`: `a` is `m x k`, `b` is `k x n`, `c` is `m x n`, all row-major
/// without gaps. With `transpose_a` the array `a` holds `k x m` and its transpose is used; likewise `b` (`n x k`). The
/// order of additions depends on the shape alone.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_matmul(
    context: *const hq_context,
    m: usize,
    n: usize,
    k: usize,
    a: *const f32,
    transpose_a: bool,
    b: *const f32,
    transpose_b: bool,
    accumulate: bool,
    c: *mut f32,
) -> hq_status {
    guard("hq_matmul", || {
        let (a_len, b_len) = (size(&[m, k], "a")?, size(&[k, n], "b")?);
        let c_len = size(&[m, n], "c")?;
        // SAFETY: as the caller vouches.
        let (context, a, b) = unsafe { (context_of(context)?, input(a, a_len, "a")?, input(b, b_len, "b")?) };
        // SAFETY: as the caller vouches.
        let c = unsafe { output(c, c_len, "c") }?;
        if k == 0 {
            if !accumulate {
                c.fill(0.0);
            }
            return Ok::<(), Failure>(());
        }
        let operand = |data, (rows, cols): (usize, usize), transposed| DenseMatrix {
            data,
            stride: if transposed { rows } else { cols },
            transposed,
        };
        let (a, b) = (operand(a, (m, k), transpose_a), operand(b, (k, n), transpose_b));
        context.matmul((m, n, k), a, b, accumulate, c);
        Ok(())
    })
}
