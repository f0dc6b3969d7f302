//! Packed five-level weights, on the caller's buffers.

use super::arguments::{expect_len, input, output, size};
use super::boundary::{Failure, guard, place};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use super::ternary::granularity_of;
use crate::kernels::five_level_packed_len;
use crate::quant::{Granularity, PackedFiveLevel};

/// Bytes of a `rows x cols` matrix in the five-level layout.
fn packed_bytes(rows: usize, cols: usize) -> Result<usize, Failure> {
    size(&[rows, cols], "rows x cols")?;
    size(&[rows.div_ceil(64), cols.div_ceil(16), 384], "packed")?;
    Ok(five_level_packed_len(rows, cols))
}

/// Bytes that a five-level matrix of `rows` outputs and `cols` inputs takes at 3 bits a weight, padding included. The layout
/// (csrc/README.md, "five_level", version 1) is the same on every machine: it can be stored and mapped.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_five_level_packed_bytes(rows: usize, cols: usize, bytes: *mut usize) -> hq_status {
    guard("hq_five_level_packed_bytes", || {
        let needed = packed_bytes(rows, cols)?;
        // SAFETY: as the caller vouches.
        unsafe { place(bytes, "bytes") }?.write(needed);
        Ok(())
    })
}

/// Quantizes `weights` (`rows x cols`, row-major) to {-1, -1/2, 0, 1/2, 1} times a scale of 2.1 absmean (as `hq_quantize` with
/// HQ_PRECISION_FIVE_LEVEL) and packs them. `granularity` is HQ_SCALE_PER_TENSOR (`scale_count` 1) or HQ_SCALE_PER_ROW
/// (`scale_count` = `rows`). `packed_len` is what `hq_five_level_packed_bytes` tells. HQ_NOT_FINITE: a weight is NaN or
/// infinite, named by its index.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_five_level_pack(
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
    guard("hq_five_level_pack", || {
        let granularity = granularity_of(granularity)?;
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        expect_len(scale_count, if granularity == Granularity::Row { rows } else { 1 }, "scale_count")?;
        // SAFETY: as the caller vouches.
        let (context, weights) = unsafe { (context_of(context)?, input(weights, rows * cols, "weights")?) };
        // SAFETY: as the caller vouches.
        let (packed, scales) =
            unsafe { (output(packed, packed_len, "packed")?, output(scales, scale_count, "scales")?) };
        scales.copy_from_slice(&PackedFiveLevel::pack_into(context, weights, rows, cols, granularity, packed)?);
        Ok(())
    })
}

/// Packs `levels` (`rows x cols`, -2 to 2: halves of the scale). `packed_len` is what `hq_five_level_packed_bytes` tells.
/// HQ_INVALID_VALUE: another value.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_five_level_pack_levels(
    context: *const hq_context,
    levels: *const i8,
    rows: usize,
    cols: usize,
    packed: *mut u8,
    packed_len: usize,
) -> hq_status {
    guard("hq_five_level_pack_levels", || {
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        // SAFETY: as the caller vouches.
        let (context, levels) = unsafe { (context_of(context)?, input(levels, rows * cols, "levels")?) };
        if let Some(at) = levels.iter().position(|level| !(-2..=2).contains(level)) {
            return Err(Failure::invalid(&format!("levels[{at}]"), "-2 to 2", levels[at]));
        }
        // SAFETY: as the caller vouches.
        context.five_level_pack(levels, rows, cols, unsafe { output(packed, packed_len, "packed") }?);
        Ok(())
    })
}

/// Unpacks a five-level matrix to `levels` (`rows x cols`, -2 to 2). HQ_INVALID_VALUE: a code above 4, which stands for no
/// level; the message tells where.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_five_level_unpack(
    context: *const hq_context,
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    levels: *mut i8,
) -> hq_status {
    guard("hq_five_level_unpack", || {
        expect_len(packed_len, packed_bytes(rows, cols)?, "packed_len")?;
        // SAFETY: as the caller vouches.
        let (context, packed) = unsafe { (context_of(context)?, input(packed, packed_len, "packed")?) };
        // SAFETY: as the caller vouches.
        let levels = unsafe { output(levels, rows * cols, "levels") }?;
        if let Some(at) = context.kernels().five_level_find_invalid(packed) {
            return Err(Failure::invalid(&format!("packed[{at}]"), "codes 0 to 4", "a row with a larger code"));
        }
        context.five_level_unpack(packed, rows, cols, levels);
        Ok(())
    })
}
