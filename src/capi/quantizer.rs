//! Quantizers of every grid, on the caller's buffers.

use super::boundary::{Failure, guard, input, output, size};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use super::ternary::granularity_of;
use crate::quant::{Granularity, Precision, Quantizer};

/// {-1, 0, 1} times absmean: the 1.58-bit form.
pub const HQ_PRECISION_TERNARY: u32 = 0;
/// {-1, -1/2, 0, 1/2, 1} times 2.1 absmean: 2.32 bits. Codes count halves.
pub const HQ_PRECISION_FIVE_LEVEL: u32 = 1;
/// The sign times absmean: 1 bit.
pub const HQ_PRECISION_BINARY: u32 = 2;
/// Symmetric 4-bit integers.
pub const HQ_PRECISION_INT4: u32 = 3;
/// Symmetric 8-bit integers.
pub const HQ_PRECISION_INT8: u32 = 4;
/// Symmetric 2-bit integers. Codes count halves.
pub const HQ_PRECISION_INT2: u32 = 5;

fn precision_of(number: u32) -> Result<Precision, Failure> {
    match number {
        HQ_PRECISION_TERNARY => Ok(Precision::Ternary),
        HQ_PRECISION_FIVE_LEVEL => Ok(Precision::FiveLevel),
        HQ_PRECISION_BINARY => Ok(Precision::Binary),
        HQ_PRECISION_INT4 => Ok(Precision::Int4),
        HQ_PRECISION_INT8 => Ok(Precision::Int8),
        HQ_PRECISION_INT2 => Ok(Precision::Int2),
        other => Err(Failure::new(
            hq_status::HQ_INVALID_VALUE,
            format!("precision: expected an HQ_PRECISION_ constant (0 to 5), found {other}"),
        )),
    }
}

/// Quantizes `weights` (`rows x cols`, row-major) to a grid: `codes`, and one scale for the matrix or for each row
/// (`granularity`). `dequantized`, if not NULL, gets the values the codes stand for. With `least_squares` each scale is
/// replaced by the one of least squared error. HQ_NOT_FINITE: a weight is NaN or infinite.
///
/// # Safety
/// Pointers are valid for the stated lengths; outputs overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_quantize(
    context: *const hq_context,
    weights: *const f32,
    rows: usize,
    cols: usize,
    precision: u32,
    granularity: u32,
    least_squares: bool,
    codes: *mut i8,
    scales: *mut f32,
    dequantized: *mut f32,
) -> hq_status {
    guard("hq_quantize", || {
        // SAFETY: as the caller vouches, here and below.
        let context = unsafe { context_of(context) }?;
        let granularity = granularity_of(granularity)?;
        let by_row = granularity == Granularity::Row;
        let quantizer = Quantizer { granularity, least_squares, ..Quantizer::new(precision_of(precision)?) };
        let len = size(&[rows, cols], "rows x cols")?;
        // SAFETY: see above.
        let weights = unsafe { input(weights, len, "weights") }?;
        // SAFETY: see above.
        let codes = unsafe { output(codes, len, "codes") }?;
        // SAFETY: see above.
        let scales = unsafe { output(scales, if by_row { rows } else { 1 }, "scales") }?;
        let tensor = quantizer.quantize(context, weights, rows, cols)?;
        if !dequantized.is_null() {
            // SAFETY: see above.
            unsafe { output(dequantized, len, "dequantized") }?.copy_from_slice(&tensor.dequantize(context));
        }
        codes.copy_from_slice(&tensor.codes);
        scales.copy_from_slice(&tensor.scales);
        Ok(())
    })
}
