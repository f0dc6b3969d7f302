//! Packed ternary weights and their products, on the caller's buffers.

use super::boundary::{Failure, guard, input, not_null, output, size};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use crate::quant::{Granularity, PackedTernary};

/// One scale for the matrix: absmean, `max(mean|W|, 1e-5)`.
pub const HQ_SCALE_PER_TENSOR: u32 = 0;
/// One absmean scale for each row.
pub const HQ_SCALE_PER_ROW: u32 = 1;

pub(super) fn granularity_of(number: u32) -> Result<Granularity, Failure> {
    match number {
        HQ_SCALE_PER_TENSOR => Ok(Granularity::Tensor),
        HQ_SCALE_PER_ROW => Ok(Granularity::Row),
        other => {
            let message = format!("granularity: expected HQ_SCALE_PER_TENSOR or HQ_SCALE_PER_ROW, found {other}");
            Err(Failure::new(hq_status::HQ_INVALID_VALUE, message))
        }
    }
}

/// Bytes of a `rows x cols` matrix in the 2-bit layout.
fn packed_bytes(rows: usize, cols: usize) -> Result<usize, Failure> {
    size(&[rows, cols], "rows x cols")?;
    size(&[rows.div_ceil(64), cols.div_ceil(16), 256], "packed")
}

fn expect_len(found: usize, expected: usize, name: &str) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(Failure::new(hq_status::HQ_SHAPE, format!("{name}: expected {expected} elements, found {found}")))
}

/// Bytes that a ternary matrix of `rows` outputs and `cols` inputs takes at 2 bits a weight, padding included.
///
/// # Safety
/// `bytes` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_ternary_packed_bytes(rows: usize, cols: usize, bytes: *mut usize) -> hq_status {
    guard("hq_ternary_packed_bytes", || {
        not_null(bytes, "bytes")?;
        let needed = packed_bytes(rows, cols)?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { bytes.write(needed) };
        Ok(())
    })
}

/// Quantizes `weights` (`rows x cols`, row-major) to {-1, 0, 1} by the absmean rule (`sign(W)` where `|W| > scale / 2`)
/// and packs them. `granularity` is HQ_SCALE_PER_TENSOR (`scale_count` 1) or HQ_SCALE_PER_ROW (`scale_count` = `rows`).
/// `packed_len` is what `hq_ternary_packed_bytes` tells. HQ_NOT_FINITE: a weight is NaN or infinite.
///
/// # Safety
/// Pointers are valid for the stated lengths; outputs overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_ternary_pack(
    context: *const hq_context,
    weights: *const f32,
    rows: usize,
    cols: usize,
    granularity: u32,
    packed: *mut u8,
    packed_len: usize,
    scales: *mut f32,
    scale_count: usize,
) -> hq_status {
    guard("hq_ternary_pack", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        let granularity = granularity_of(granularity)?;
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        let expected_scales = if granularity == Granularity::Row { rows } else { 1 };
        expect_len(scale_count, expected_scales, "scale_count")?;
        // SAFETY: as the caller vouches.
        let weights = unsafe { input(weights, rows * cols, "weights") }?;
        // SAFETY: as the caller vouches.
        let packed = unsafe { output(packed, packed_len, "packed") }?;
        // SAFETY: as the caller vouches.
        let scales = unsafe { output(scales, scale_count, "scales") }?;
        scales.copy_from_slice(&PackedTernary::pack_into(context, weights, rows, cols, granularity, packed)?);
        Ok(())
    })
}

/// Unpacks a matrix to `trits` (`rows x cols`, each -1, 0 or 1). HQ_INVALID_VALUE: a byte holds the code 3, which stands
/// for no weight; the message tells which.
///
/// # Safety
/// Pointers are valid for the stated lengths; outputs overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_ternary_unpack(
    context: *const hq_context,
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    trits: *mut i8,
) -> hq_status {
    guard("hq_ternary_unpack", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        // SAFETY: as the caller vouches.
        let packed = unsafe { input(packed, packed_len, "packed") }?;
        // SAFETY: as the caller vouches.
        let trits = unsafe { output(trits, rows * cols, "trits") }?;
        if let Some(offset) = context.ternary_find_invalid(packed) {
            let message = format!("packed: byte {offset}: expected codes 0, 1 and 2, found {:#04x}", packed[offset]);
            return Err(Failure::new(hq_status::HQ_INVALID_VALUE, message));
        }
        context.ternary_unpack(packed, rows, cols, trits);
        Ok(())
    })
}

/// `y = x * W^T` for int8 rows `x` (`tokens x cols`, from `hq_quantize_rows`) and a packed matrix `W` (`rows x cols`):
/// `y[t][o] = x_scales[t] * scale(o) * sum over k of x[t][k] * trit[o][k]`, `tokens x rows`. The integer sum is exact.
///
/// # Safety
/// Pointers are valid for the stated lengths; outputs overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_ternary_matmul(
    context: *const hq_context,
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    scales: *const f32,
    scale_count: usize,
    x: *const i8,
    x_scales: *const f32,
    x_sums: *const i32,
    tokens: usize,
    y: *mut f32,
) -> hq_status {
    guard("hq_ternary_matmul", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        if scale_count != 1 {
            expect_len(scale_count, rows, "scale_count")?;
        }
        // SAFETY: as the caller vouches, here and below.
        let packed = unsafe { input(packed, packed_len, "packed") }?;
        // SAFETY: see above.
        let scales = unsafe { input(scales, scale_count, "scales") }?;
        // SAFETY: see above.
        let x = unsafe { input(x, size(&[tokens, cols], "x")?, "x") }?;
        // SAFETY: see above.
        let x_scales = unsafe { input(x_scales, tokens, "x_scales") }?;
        // SAFETY: see above.
        let x_sums = unsafe { input(x_sums, tokens, "x_sums") }?;
        // SAFETY: see above.
        let y = unsafe { output(y, size(&[tokens, rows], "y")?, "y") }?;
        context.ternary_matmul(packed, rows, cols, scales, x, x_scales, x_sums, y);
        Ok(())
    })
}

/// `dx = dy * W` for int8 rows `dy` (`tokens x rows`) and the packed matrix of `hq_ternary_matmul`, without unpacking it:
/// `dx[t][k] = dy_scales[t] * sum over o of dy[t][o] * trit[o][k]`, `tokens x cols`. Multiply the weight scales into `dy`
/// before quantizing it.
///
/// # Safety
/// Pointers are valid for the stated lengths; outputs overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_ternary_matmul_transposed(
    context: *const hq_context,
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    dy: *const i8,
    dy_scales: *const f32,
    dy_sums: *const i32,
    tokens: usize,
    dx: *mut f32,
) -> hq_status {
    guard("hq_ternary_matmul_transposed", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        // SAFETY: as the caller vouches, here and below.
        let packed = unsafe { input(packed, packed_len, "packed") }?;
        // SAFETY: see above.
        let dy = unsafe { input(dy, size(&[tokens, rows], "dy")?, "dy") }?;
        // SAFETY: see above.
        let dy_scales = unsafe { input(dy_scales, tokens, "dy_scales") }?;
        // SAFETY: see above.
        let dy_sums = unsafe { input(dy_sums, tokens, "dy_sums") }?;
        // SAFETY: see above.
        let dx = unsafe { output(dx, size(&[tokens, cols], "dx")?, "dx") }?;
        context.ternary_matmul_transposed(packed, rows, cols, dy, dy_scales, dy_sums, dx);
        Ok(())
    })
}

/// Quantizes each row of `x` (`rows x cols`) to int8 with its own scale: `a = max(max|x|, 1e-5)`,
/// `values = clamp(rint(x * (127 / a)), -128, 127)`, `scales = a / 127`. `sums` gets the sum of each row's values.
///
/// # Safety
/// Pointers are valid for the stated lengths; outputs overlap nothing.
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
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        let len = size(&[rows, cols], "rows x cols")?;
        // SAFETY: as the caller vouches, here and below.
        let x = unsafe { input(x, len, "x") }?;
        // SAFETY: see above.
        let values = unsafe { output(values, len, "values") }?;
        // SAFETY: see above.
        let scales = unsafe { output(scales, rows, "scales") }?;
        // SAFETY: see above.
        let sums = unsafe { output(sums, rows, "sums") }?;
        context.quantize_rows(x, cols, values, scales, sums);
        Ok(())
    })
}
