//! Ternary blocks of GGUF files, on the caller's buffers.

use super::arguments::{expect_len, input, output, size};
use super::boundary::{Failure, guard, place};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use super::ternary::check_trits;
use crate::kernels::{GGUF_BLOCK, GgufTernary};
use crate::quant::GgufTernaryMatrix;

/// Blocks of 256 values in 54 bytes, 1.6875 bits a value (GGUF's type number).
pub const HQ_GGUF_TQ1_0: u32 = 34;
/// Blocks of 256 values in 66 bytes, 2.0625 bits a value (GGUF's type number).
pub const HQ_GGUF_TQ2_0: u32 = 35;

fn format_of(number: u32) -> Result<GgufTernary, Failure> {
    match number {
        HQ_GGUF_TQ1_0 => Ok(GgufTernary::Tq1_0),
        HQ_GGUF_TQ2_0 => Ok(GgufTernary::Tq2_0),
        other => Err(Failure::invalid("format", "HQ_GGUF_TQ1_0 or HQ_GGUF_TQ2_0", other)),
    }
}

/// The format, the number of blocks of `count` values, and their bytes.
fn blocks_of(format: u32, count: usize) -> Result<(GgufTernary, usize, usize), Failure> {
    let format = format_of(format)?;
    if !count.is_multiple_of(GGUF_BLOCK) {
        return Err(Failure::shape("count", format!("a multiple of {GGUF_BLOCK}"), count));
    }
    let blocks = count / GGUF_BLOCK;
    Ok((format, blocks, size(&[blocks, format.block_bytes()], "bytes")?))
}

/// Bytes of `count` values (a multiple of 256: the columns of a row) in blocks of `format`, HQ_GGUF_TQ1_0 or HQ_GGUF_TQ2_0.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gguf_ternary_bytes(format: u32, count: usize, bytes: *mut usize) -> hq_status {
    guard("hq_gguf_ternary_bytes", || {
        let needed = blocks_of(format, count)?.2;
        // SAFETY: as the caller vouches.
        unsafe { place(bytes, "bytes") }?.write(needed);
        Ok(())
    })
}

/// Quantizes `weights` (`count` of them, whole rows one after the other) byte for byte as llama.cpp does: a scale
/// `max |w|` in half precision for each block of 256, values `round(w / scale)`. (That is not the absmean rule: pack trained
/// ternary weights by `hq_gguf_ternary_pack`.) `bytes_len` is what `hq_gguf_ternary_bytes` tells. HQ_NOT_FINITE: a weight is
/// NaN or infinite, named by its index; HQ_INVALID_VALUE: a magnitude of 65,520 or more.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gguf_ternary_quantize(
    context: *const hq_context,
    format: u32,
    weights: *const f32,
    count: usize,
    bytes: *mut u8,
    bytes_len: usize,
) -> hq_status {
    guard("hq_gguf_ternary_quantize", || {
        let (format, _, needed) = blocks_of(format, count)?;
        expect_len(bytes_len, needed, "bytes_len")?;
        // SAFETY: as the caller vouches.
        let (context, weights) = unsafe { (context_of(context)?, input(weights, count, "weights")?) };
        // SAFETY: as the caller vouches.
        let bytes = unsafe { output(bytes, bytes_len, "bytes") }?;
        GgufTernaryMatrix::check_weights(weights)?;
        context.gguf_ternary_quantize(format, weights, bytes);
        Ok(())
    })
}

/// Packs `trits` (`count`, each -1, 0 or 1) under known `scales`: `scale_count` is 1 or the number of blocks, `count / 256`.
/// Scales are rounded to half precision. HQ_INVALID_VALUE: another value, or a scale that half precision cannot hold.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gguf_ternary_pack(
    context: *const hq_context,
    format: u32,
    trits: *const i8,
    count: usize,
    scales: *const f32,
    scale_count: usize,
    bytes: *mut u8,
    bytes_len: usize,
) -> hq_status {
    guard("hq_gguf_ternary_pack", || {
        let (format, blocks, needed) = blocks_of(format, count)?;
        expect_len(bytes_len, needed, "bytes_len")?;
        if scale_count != 1 {
            expect_len(scale_count, blocks, "scale_count")?;
        }
        // SAFETY: as the caller vouches.
        let (context, trits) = unsafe { (context_of(context)?, input(trits, count, "trits")?) };
        // SAFETY: as the caller vouches.
        let (scales, bytes) = unsafe { (input(scales, scale_count, "scales")?, output(bytes, bytes_len, "bytes")?) };
        check_trits(trits)?;
        GgufTernaryMatrix::check_scales(scales)?;
        context.gguf_ternary_pack(format, trits, scales, bytes);
        Ok(())
    })
}

/// The `trits` (`count`, each -1, 0 or 1) and `scales` (`count / 256` of them, `scale_count`) of blocks. HQ_INVALID_VALUE: a scale
/// that is not finite, or code 3 in HQ_GGUF_TQ2_0, which stands for no value; the message tells where.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gguf_ternary_unpack(
    context: *const hq_context,
    format: u32,
    bytes: *const u8,
    bytes_len: usize,
    count: usize,
    trits: *mut i8,
    scales: *mut f32,
    scale_count: usize,
) -> hq_status {
    guard("hq_gguf_ternary_unpack", || {
        let (format, blocks, needed) = blocks_of(format, count)?;
        expect_len(bytes_len, needed, "bytes_len")?;
        expect_len(scale_count, blocks, "scale_count")?;
        // SAFETY: as the caller vouches.
        let (context, bytes) = unsafe { (context_of(context)?, input(bytes, bytes_len, "bytes")?) };
        // SAFETY: as the caller vouches.
        let (trits, scales) = unsafe { (output(trits, count, "trits")?, output(scales, scale_count, "scales")?) };
        GgufTernaryMatrix::check_blocks("bytes", format, bytes)?;
        context.gguf_ternary_unpack(format, bytes, trits, scales);
        Ok(())
    })
}

/// The `values` (`count`) that blocks stand for, bit for bit what llama.cpp gives. HQ_INVALID_VALUE: as
/// `hq_gguf_ternary_unpack`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gguf_ternary_dequantize(
    context: *const hq_context,
    format: u32,
    bytes: *const u8,
    bytes_len: usize,
    count: usize,
    values: *mut f32,
) -> hq_status {
    guard("hq_gguf_ternary_dequantize", || {
        let (format, _, needed) = blocks_of(format, count)?;
        expect_len(bytes_len, needed, "bytes_len")?;
        // SAFETY: as the caller vouches.
        let (context, bytes) = unsafe { (context_of(context)?, input(bytes, bytes_len, "bytes")?) };
        // SAFETY: as the caller vouches.
        let values = unsafe { output(values, count, "values") }?;
        GgufTernaryMatrix::check_blocks("bytes", format, bytes)?;
        context.gguf_ternary_dequantize(format, bytes, values);
        Ok(())
    })
}
