//! Packed ternary weights and their products, on the caller's buffers.

use super::arguments::{expect_len, input, output, size};
use super::boundary::{Failure, guard, place};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use crate::dispatch::Context;
use crate::kernels::{Activations, KernelTable, TERNARY_MAX_K, ternary_packed_len};
use crate::quant::{Granularity, PackedTernary};

/// One scale for the matrix: absmean, `max(mean|W|, 1e-5)`.
pub const HQ_SCALE_PER_TENSOR: u32 = 0;
/// One absmean scale for each row.
pub const HQ_SCALE_PER_ROW: u32 = 1;
/// One scale for each group of neighbours in a row: for storage and inference (`hq_quantize` only).
pub const HQ_SCALE_PER_GROUP: u32 = 2;

pub(super) fn granularity_of(number: u32) -> Result<Granularity, Failure> {
    match number {
        HQ_SCALE_PER_TENSOR => Ok(Granularity::Tensor),
        HQ_SCALE_PER_ROW => Ok(Granularity::Row),
        other => Err(Failure::invalid("granularity", "HQ_SCALE_PER_TENSOR or HQ_SCALE_PER_ROW", other)),
    }
}

/// Bytes of a `rows x cols` matrix in the 2-bit layout.
pub(super) fn packed_bytes(rows: usize, cols: usize) -> Result<usize, Failure> {
    size(&[rows, cols], "rows x cols")?;
    size(&[rows.div_ceil(64), cols.div_ceil(16), 256], "packed")?;
    Ok(ternary_packed_len(rows, cols))
}

/// Bytes of a `rows x cols` matrix at five trits a byte.
fn five_trits_bytes(rows: usize, cols: usize) -> Result<usize, Failure> {
    size(&[rows, cols], "rows x cols")?;
    size(&[rows.div_ceil(64), cols.div_ceil(20), 256], "packed")?;
    Ok(KernelTable::pack5_bytes(rows, cols))
}

fn check_reduction(k: usize, name: &str) -> Result<(), Failure> {
    if k <= TERNARY_MAX_K { Ok(()) } else { Err(Failure::shape(name, format!("at most {TERNARY_MAX_K}"), k)) }
}

pub(super) fn check_trits(trits: &[i8]) -> Result<(), Failure> {
    match trits.iter().position(|trit| !(-1..=1).contains(trit)) {
        Some(at) => Err(Failure::invalid(&format!("trits[{at}]"), "-1, 0 or 1", trits[at])),
        None => Ok(()),
    }
}

/// Bytes that a ternary matrix of `rows` outputs and `cols` inputs takes at 2 bits a weight, padding included. The layout
/// (csrc/README.md, "2-bit layout", version 1) is the same on every machine: it can be stored and mapped.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_ternary_packed_bytes(rows: usize, cols: usize, bytes: *mut usize) -> hq_status {
    guard("hq_ternary_packed_bytes", || {
        let needed = packed_bytes(rows, cols)?;
        // SAFETY: as the caller vouches.
        unsafe { place(bytes, "bytes") }?.write(needed);
        Ok(())
    })
}

/// Quantizes `weights` (`rows x cols`, row-major) to {-1, 0, 1} by the absmean rule (`sign(W)` where `|W| > scale / 2`)
/// and packs them. `granularity` is HQ_SCALE_PER_TENSOR (`scale_count` 1) or HQ_SCALE_PER_ROW (`scale_count` = `rows`).
/// `packed_len` is what `hq_ternary_packed_bytes` tells. HQ_NOT_FINITE: a weight is NaN or infinite.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
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
        let granularity = granularity_of(granularity)?;
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        let expected_scales = if granularity == Granularity::Row { rows } else { 1 };
        expect_len(scale_count, expected_scales, "scale_count")?;
        // SAFETY: as the caller vouches.
        let (context, weights) = unsafe { (context_of(context)?, input(weights, rows * cols, "weights")?) };
        // SAFETY: as the caller vouches.
        let (packed, scales) =
            unsafe { (output(packed, packed_len, "packed")?, output(scales, scale_count, "scales")?) };
        scales.copy_from_slice(&PackedTernary::pack_into(context, weights, rows, cols, granularity, packed)?);
        Ok(())
    })
}

/// # Safety
/// As the callers vouch.
unsafe fn pack_trits(
    (context, trits, rows, cols): (*const hq_context, *const i8, usize, usize),
    (packed, packed_len, needed): (*mut u8, usize, usize),
    pack: impl FnOnce(&Context, &[i8], &mut [u8]),
) -> Result<(), Failure> {
    expect_len(packed_len, needed, "packed_len")?;
    // SAFETY: as the caller vouches.
    let (context, trits) = unsafe { (context_of(context)?, input(trits, rows * cols, "trits")?) };
    check_trits(trits)?;
    // SAFETY: as the caller vouches.
    pack(context, trits, unsafe { output(packed, packed_len, "packed") }?);
    Ok(())
}

/// # Safety
/// As the callers vouch.
unsafe fn unpack_trits(
    (context, packed, packed_len, needed): (*const hq_context, *const u8, usize, usize),
    (trits, rows, cols): (*mut i8, usize, usize),
    unpack: impl FnOnce(&Context, &[u8], &mut [i8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    expect_len(packed_len, needed, "packed_len")?;
    // SAFETY: as the caller vouches.
    let (context, packed) = unsafe { (context_of(context)?, input(packed, packed_len, "packed")?) };
    // SAFETY: as the caller vouches.
    unpack(context, packed, unsafe { output(trits, rows * cols, "trits") }?)
}

/// Packs `trits` (`rows x cols`, each -1, 0 or 1) to 2 bits a weight. `packed_len` is what `hq_ternary_packed_bytes` tells.
/// HQ_INVALID_VALUE: another value.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_ternary_pack_trits(
    context: *const hq_context,
    trits: *const i8,
    rows: usize,
    cols: usize,
    packed: *mut u8,
    packed_len: usize,
) -> hq_status {
    guard("hq_ternary_pack_trits", || {
        let to = (packed, packed_len, packed_bytes(rows, cols)?);
        // SAFETY: as the caller vouches.
        unsafe {
            pack_trits((context, trits, rows, cols), to, |context, trits, packed| {
                context.ternary_pack(trits, rows, cols, packed);
            })
        }
    })
}

/// Unpacks a matrix of 2 bits a weight to `trits` (`rows x cols`, each -1, 0 or 1). HQ_INVALID_VALUE: a byte holds the code 3,
/// which stands for no weight; the message tells which.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
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
        let from = (context, packed, packed_len, packed_bytes(rows, cols)?);
        // SAFETY: as the caller vouches.
        unsafe {
            unpack_trits(from, (trits, rows, cols), |context, packed, trits| {
                if let Some(at) = context.ternary_find_invalid(packed) {
                    let found = format!("{:#04x}", packed[at]);
                    return Err(Failure::invalid(&format!("packed[{at}]"), "codes 0, 1 and 2", found));
                }
                context.ternary_unpack(packed, rows, cols, trits);
                Ok(())
            })
        }
    })
}

/// Bytes that a ternary matrix takes at five trits a byte (1.6 bits a weight), padding included: the compact form, for
/// files (csrc/README.md, "five trits a byte"). Products of one
/// token run on it (`hq_five_trits_matvec`), those of many on the 2-bit form.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_five_trits_bytes(rows: usize, cols: usize, bytes: *mut usize) -> hq_status {
    guard("hq_five_trits_bytes", || {
        let needed = five_trits_bytes(rows, cols)?;
        // SAFETY: as the caller vouches.
        unsafe { place(bytes, "bytes") }?.write(needed);
        Ok(())
    })
}

/// Packs `trits` (`rows x cols`, each -1, 0 or 1) at five a byte. `packed_len` is what `hq_five_trits_bytes` tells.
/// HQ_INVALID_VALUE: another value.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_five_trits_pack(
    context: *const hq_context,
    trits: *const i8,
    rows: usize,
    cols: usize,
    packed: *mut u8,
    packed_len: usize,
) -> hq_status {
    guard("hq_five_trits_pack", || {
        let to = (packed, packed_len, five_trits_bytes(rows, cols)?);
        // SAFETY: as the caller vouches.
        unsafe {
            pack_trits((context, trits, rows, cols), to, |context, trits, packed| {
                context.pack5(trits, rows, cols, packed);
            })
        }
    })
}

/// Unpacks a matrix of five trits a byte to `trits` (`rows x cols`, each -1, 0 or 1).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_five_trits_unpack(
    context: *const hq_context,
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    trits: *mut i8,
) -> hq_status {
    guard("hq_five_trits_unpack", || {
        let from = (context, packed, packed_len, five_trits_bytes(rows, cols)?);
        // SAFETY: as the caller vouches.
        unsafe {
            unpack_trits(from, (trits, rows, cols), |context, packed, trits| {
                context.unpack5(packed, rows, cols, trits);
                Ok(())
            })
        }
    })
}

/// `y = x * W^T` for int8 rows `x` (`tokens x cols`, from `hq_quantize_rows`) and a packed matrix `W` (`rows x cols`, 2
/// bits): `y[t][o] = x_scales[t] * scale(o) * sum over k of x[t][k] * trit[o][k]`, `tokens x rows`. `scale_count`: 1 or
/// `rows`. The integer sum is exact, and the same on every machine; `cols` is at most 2^18. No workspace is needed.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
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
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        if scale_count != 1 {
            expect_len(scale_count, rows, "scale_count")?;
        }
        check_reduction(cols, "cols")?;
        let (inputs, outputs) = (size(&[tokens, cols], "x")?, size(&[tokens, rows], "y")?);
        // SAFETY: as the caller vouches.
        let (context, packed) = unsafe { (context_of(context)?, input(packed, packed_len, "packed")?) };
        // SAFETY: as the caller vouches.
        let (scales, x) = unsafe { (input(scales, scale_count, "scales")?, input(x, inputs, "x")?) };
        // SAFETY: as the caller vouches.
        let (x_scales, x_sums) = unsafe { (input(x_scales, tokens, "x_scales")?, input(x_sums, tokens, "x_sums")?) };
        // SAFETY: as the caller vouches.
        let y = unsafe { output(y, outputs, "y") }?;
        context.ternary_matmul(packed, rows, cols, scales, x, x_scales, x_sums, y);
        Ok(())
    })
}

/// As `hq_ternary_matmul` for one token and a matrix of five trits a byte: `y` (`rows`) from `x` (`cols` int8 values) with its
/// scale and sum, bit for bit what the 2-bit form gives.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_five_trits_matvec(
    context: *const hq_context,
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    scales: *const f32,
    scale_count: usize,
    x: *const i8,
    x_scale: f32,
    x_sum: i32,
    y: *mut f32,
) -> hq_status {
    guard("hq_five_trits_matvec", || {
        expect_len(packed_len, five_trits_bytes(rows, cols)?, "packed_len")?;
        if scale_count != 1 {
            expect_len(scale_count, rows, "scale_count")?;
        }
        check_reduction(cols, "cols")?;
        // SAFETY: as the caller vouches.
        let (context, packed) = unsafe { (context_of(context)?, input(packed, packed_len, "packed")?) };
        // SAFETY: as the caller vouches.
        let (scales, values) = unsafe { (input(scales, scale_count, "scales")?, input(x, cols, "x")?) };
        // SAFETY: as the caller vouches.
        let y = unsafe { output(y, rows, "y") }?;
        let x = Activations { values, scales: &[x_scale], sums: &[x_sum] };
        context.pack5_matvec(packed, cols, scales, x, y);
        Ok(())
    })
}

/// `dx = dy * W` for int8 rows `dy` (`tokens x rows`) and the packed matrix of `hq_ternary_matmul`, without unpacking it:
/// `dx[t][k] = dy_scales[t] * sum over o of dy[t][o] * trit[o][k]`, `tokens x cols`. Multiply the weight scales into `dy`
/// before quantizing it. `rows` is at most 2^18.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
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
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        check_reduction(rows, "rows")?;
        let (inputs, outputs) = (size(&[tokens, rows], "dy")?, size(&[tokens, cols], "dx")?);
        // SAFETY: as the caller vouches.
        let (context, packed) = unsafe { (context_of(context)?, input(packed, packed_len, "packed")?) };
        // SAFETY: as the caller vouches.
        let (dy, dy_scales) = unsafe { (input(dy, inputs, "dy")?, input(dy_scales, tokens, "dy_scales")?) };
        // SAFETY: as the caller vouches.
        let (dy_sums, dx) = unsafe { (input(dy_sums, tokens, "dy_sums")?, output(dx, outputs, "dx")?) };
        context.ternary_matmul_transposed(packed, rows, cols, dy, dy_scales, dy_sums, dx);
        Ok(())
    })
}
