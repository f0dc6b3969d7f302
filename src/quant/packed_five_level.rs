//! A five-level matrix at 3 bits a weight, with its scales.
#![forbid(unsafe_code)]

use super::{Granularity, Precision, Quantizer};
use crate::dispatch::Context;
use crate::kernels::{FiveLevelLimits, five_level_packed_len};
use crate::tensor::AlignedBuffer;
use crate::{Error, Result};

/// A five-level matrix `[rows, cols]` in the five-level layout (csrc/README.md, "five_level"), `W[r][c] ~ scale(r) *
/// q[r][c] / 2` with `q` in {-2, .., 2}: the grid {-1, -1/2, 0, 1/2, 1} times the scale.
#[derive(Clone, Debug)]
pub struct PackedFiveLevel {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Blocks of 64 rows; `ceil(rows / 64) * ceil(cols / 16) * 384` bytes.
    pub data: AlignedBuffer<u8>,
    /// One scale for the whole matrix, or one per row.
    pub scales: Vec<f32>,
}

impl PackedFiveLevel {
    /// Quantizes `weights` `[rows, cols]` as [`Quantizer::new`] does with [`Precision::FiveLevel`] (2.1 times the mean
    /// magnitude as scale) and packs the levels: the same levels, in one pass.
    ///
    /// Errors: a length other than `rows * cols`; a NaN or infinite weight (named by its index); a granularity of groups.
    pub fn pack(ctx: &Context, weights: &[f32], rows: usize, cols: usize, granularity: Granularity) -> Result<Self> {
        if rows.checked_mul(cols) != Some(weights.len()) {
            return Err(Error::shape("five_level_pack", "weights", format!("{rows} x {cols} elements"), weights.len()));
        }
        let mut data = AlignedBuffer::zeroed(five_level_packed_len(rows, cols));
        let scales = Self::pack_into(ctx, weights, rows, cols, granularity, &mut data)?;
        Ok(PackedFiveLevel { rows, cols, data, scales })
    }

    /// As [`PackedFiveLevel::pack`] into bytes of the caller's; gives the scales. On an error the bytes are unchanged.
    ///
    /// Errors: as [`PackedFiveLevel::pack`]; `packed` has another length than [`five_level_packed_len`] tells.
    pub fn pack_into(
        ctx: &Context,
        weights: &[f32],
        rows: usize,
        cols: usize,
        granularity: Granularity,
        packed: &mut [u8],
    ) -> Result<Vec<f32>> {
        if let Granularity::Group(size) = granularity {
            return Err(Error::invalid("granularity", "tensor or row", format!("groups of {size}")));
        }
        let quantizer = Quantizer::new(Precision::FiveLevel).granularity(granularity);
        let mut scales = quantizer.scales(ctx, weights, rows, cols)?;
        if five_level_packed_len(rows, cols) != packed.len() {
            let expected = format!("the bytes of {rows} x {cols} weights");
            return Err(Error::shape("five_level_pack", "packed", expected, packed.len()));
        }
        if cols == 0 {
            // No weights tell a scale.
            scales = vec![1.0; if granularity == Granularity::Row { rows } else { 1 }];
        }
        let limits: Vec<FiveLevelLimits> = scales.iter().map(|&scale| limits_of(scale)).collect();
        ctx.five_level_quantize_pack(weights, rows, cols, &limits, packed);
        Ok(scales)
    }

    /// Packs levels that are already -2, .., 2 under known scales (one, or one a row).
    ///
    /// Errors: a length that does not fit the shape; a value outside -2 to 2; a scale that is not finite.
    pub fn from_levels(ctx: &Context, levels: &[i8], rows: usize, cols: usize, scales: Vec<f32>) -> Result<Self> {
        if rows.checked_mul(cols) != Some(levels.len()) {
            return Err(Error::shape("five_level_pack", "levels", format!("{rows} x {cols} elements"), levels.len()));
        }
        check_scales("five_level_pack", &scales, rows)?;
        if let Some(index) = levels.iter().position(|level| !(-2..=2).contains(level)) {
            return Err(Error::invalid(format!("levels[{index}]"), "-2 to 2", levels[index]));
        }
        let mut data = AlignedBuffer::zeroed(five_level_packed_len(rows, cols));
        ctx.five_level_pack(levels, rows, cols, &mut data);
        Ok(PackedFiveLevel { rows, cols, data, scales })
    }

    /// The matrix whose packed bytes and scales came from elsewhere: a file, another process. `tensor` names it in
    /// errors.
    ///
    /// Errors: another number of bytes or scales than the shape demands; a scale that is not finite; a code above 4,
    /// which stands for no level, or padding that is not zero weights.
    pub fn from_bytes(
        ctx: &Context,
        tensor: &str,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        scales: Vec<f32>,
    ) -> Result<Self> {
        let steps = rows.checked_mul(cols).and(rows.div_ceil(64).checked_mul(cols.div_ceil(16)));
        let expected = steps.and_then(|steps| steps.checked_mul(384));
        if expected != Some(bytes.len()) {
            let expected = expected.map_or("a matrix that fits in memory".into(), |len| format!("{len} bytes"));
            return Err(Error::invalid(format!("{tensor}: packed {rows} x {cols}"), expected, bytes.len()));
        }
        check_scales(tensor, &scales, rows)?;
        if let Some(offset) = ctx.kernels().five_level_find_invalid(bytes) {
            return Err(Error::invalid(format!("{tensor}: byte {offset}"), "codes 0 to 4", "a row with a larger code"));
        }
        let matrix = PackedFiveLevel { rows, cols, data: AlignedBuffer::from_slice(bytes), scales };
        let mut again = vec![0; bytes.len()];
        ctx.five_level_pack(&matrix.unpack(ctx), rows, cols, &mut again);
        if let Some(offset) = (0..bytes.len()).find(|&at| again[at] != bytes[at]) {
            let found = format!("byte {:#04x}", bytes[offset]);
            return Err(Error::invalid(format!("{tensor}: byte {offset}"), "zero weights in the padding", found));
        }
        Ok(matrix)
    }

    /// The levels `[rows, cols]`, -2 to 2.
    pub fn unpack(&self, ctx: &Context) -> Vec<i8> {
        let mut levels = vec![0; self.rows * self.cols];
        ctx.five_level_unpack(&self.data, self.rows, self.cols, &mut levels);
        levels
    }

    /// Writes `scale(r) * q[r][c] / 2` to `out` `[rows, cols]`.
    ///
    /// # Panics
    /// If `out` does not hold `rows * cols` elements.
    pub fn dequantize(&self, ctx: &Context, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.cols, "five-level dequantize: length of the output");
        if out.is_empty() {
            return;
        }
        let levels = self.unpack(ctx);
        let rows = out.chunks_mut(self.cols).zip(levels.chunks(self.cols)).enumerate();
        ctx.for_each(rows, |(row, (out, levels))| {
            let step = 0.5 * if self.scales.len() == 1 { self.scales[0] } else { self.scales[row] };
            out.iter_mut().zip(levels).for_each(|(out, &level)| *out = step * f32::from(level));
        });
    }
}

fn check_scales(tensor: &str, scales: &[f32], rows: usize) -> Result<()> {
    if scales.len() != 1 && scales.len() != rows {
        return Err(Error::invalid(format!("{tensor}: scales"), format!("1 or {rows}"), scales.len()));
    }
    match scales.iter().position(|scale| !scale.is_finite()) {
        Some(index) => Err(Error::NonFinite { tensor: format!("{tensor}: scales"), index, value: scales[index] }),
        None => Ok(()),
    }
}

/// The limits at which `round(2 clamp(w / scale))`, half to even, in f32, goes from 0 to 1 and from 1 to 2.
fn limits_of(scale: f32) -> FiveLevelLimits {
    let limit = |share: f32, stays: fn(f32) -> bool| {
        let mut limit = share * scale;
        while stays(limit.next_up() / scale) {
            limit = limit.next_up();
        }
        while limit > 0.0 && !stays(limit / scale) {
            limit = limit.next_down();
        }
        limit
    };
    FiveLevelLimits { inner: limit(0.25, |v| v <= 0.25), outer: limit(0.75, |v| v < 0.75) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_where_the_rounding_changes() {
        let mut scale = 1e-5f32;
        while scale < 1e30 {
            let FiveLevelLimits { inner, outer } = limits_of(scale);
            let mut codes = [0i8; 4];
            let around = [inner, inner.next_up(), outer, outer.next_up()];
            Precision::FiveLevel.encode(&around, scale, &mut codes);
            assert_eq!(codes, [0, 1, 1, 2], "{scale}");
            scale *= 1.000_37;
        }
        assert!(limits_of(f32::MAX).outer < f32::MAX && limits_of(f32::from_bits(1)).outer >= 0.0);
    }
}
