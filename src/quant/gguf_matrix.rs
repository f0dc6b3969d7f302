//! A ternary matrix in GGUF's blocks.
#![forbid(unsafe_code)]

use super::PackedTernary;
use crate::dispatch::Context;
use crate::kernels::{GGUF_BLOCK, GgufTernary};
use crate::{Error, Result};

/// The largest finite half: scales beyond (from 65,520 on, which rounds up) cannot be stored.
const LARGEST_SCALE: f32 = 65_520.0;

/// A ternary matrix `[rows, cols]` in llama.cpp's TQ1_0 or TQ2_0 blocks (csrc/README.md, "gguf_ternary"): what a GGUF file
/// holds. Rows are whole blocks of 256 columns. A block has its own scale in half precision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GgufTernaryMatrix {
    /// The block format.
    pub format: GgufTernary,
    /// Output features.
    pub rows: usize,
    /// Input features, a multiple of 256.
    pub cols: usize,
    /// Blocks in row-major order.
    pub bytes: Vec<u8>,
}

impl GgufTernaryMatrix {
    /// Quantizes `weights` `[rows, cols]` byte for byte as llama.cpp does: per block `d = max|w|`, `q = round(w / d)`. (That
    /// is *not* the absmean rule: for trained ternary weights pack those, [`GgufTernaryMatrix::from_packed`].)
    ///
    /// Errors: a length other than `rows * cols`; `cols` no multiple of 256; a weight that is not finite or whose magnitude
    /// is no half-precision number (65,520 and more).
    pub fn quantize(ctx: &Context, format: GgufTernary, weights: &[f32], rows: usize, cols: usize) -> Result<Self> {
        if rows.checked_mul(cols) != Some(weights.len()) {
            return Err(Error::shape("gguf_quantize", "weights", format!("{rows} x {cols} elements"), weights.len()));
        }
        check_cols(cols)?;
        Self::check_weights(weights)?;
        let mut bytes = vec![0; weights.len() / GGUF_BLOCK * format.block_bytes()];
        ctx.gguf_ternary_quantize(format, weights, &mut bytes);
        Ok(GgufTernaryMatrix { format, rows, cols, bytes })
    }

    /// Whether blocks can hold `weights`. Errors: the first that is not finite, or whose magnitude is 65,520 or more.
    pub fn check_weights(weights: &[f32]) -> Result<()> {
        if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
            return Err(Error::NonFinite { tensor: "weights".into(), index, value: weights[index] });
        }
        match weights.iter().position(|w| w.abs() >= LARGEST_SCALE) {
            Some(at) => Err(Error::invalid(format!("weights[{at}]"), "below 65520 (half precision)", weights[at])),
            None => Ok(()),
        }
    }

    /// Whether half precision can hold `scales`. Errors: the first beyond 65,519, or so small that it would become 0.
    pub fn check_scales(scales: &[f32]) -> Result<()> {
        let holds = |scale: f32| scale == 0.0 || scale.abs() < LARGEST_SCALE && scale.abs() > 3e-8;
        match scales.iter().position(|&scale| !holds(scale)) {
            Some(at) => {
                let expected = "a half-precision number (3e-8 to 65519)";
                Err(Error::invalid(format!("scales[{at}]"), expected, scales[at]))
            }
            None => Ok(()),
        }
    }

    /// Whether `bytes`, whole blocks of `format`, stand for numbers. Errors: a scale that is not finite; code 3 in TQ2_0,
    /// which stands for no value; each with its offset in `tensor`.
    pub fn check_blocks(tensor: &str, format: GgufTernary, bytes: &[u8]) -> Result<()> {
        let size = format.block_bytes();
        for (block, bytes) in bytes.chunks_exact(size).enumerate() {
            let at = |offset: usize| format!("{tensor}: byte {}", block * size + offset);
            if bytes[size - 1] & 0x7C == 0x7C {
                let found = format!("{:#06x}", u16::from_le_bytes([bytes[size - 2], bytes[size - 1]]));
                return Err(Error::invalid(at(size - 2), "a finite half-precision scale", found));
            }
            let bad = |&offset: &usize| bytes[offset] & bytes[offset] >> 1 & 0x55 != 0;
            if format == GgufTernary::Tq2_0
                && let Some(offset) = (0..size - 2).find(bad)
            {
                let found = format!("code 3 in byte {:#04x}", bytes[offset]);
                return Err(Error::invalid(at(offset), "codes 0, 1 and 2", found));
            }
        }
        Ok(())
    }

    /// The same ternary values; scales are rounded to half precision.
    ///
    /// Errors: `cols` no multiple of 256; a scale that half precision cannot hold: beyond 65,519, or so small that it
    /// would become 0.
    pub fn from_packed(ctx: &Context, format: GgufTernary, weights: &PackedTernary) -> Result<Self> {
        let (rows, cols) = (weights.rows, weights.cols);
        check_cols(cols)?;
        Self::check_scales(&weights.scales)?;
        let trits = weights.unpack(ctx);
        let blocks = cols / GGUF_BLOCK;
        let scales = match weights.scales[..] {
            [scale] => vec![scale],
            ref scales => scales.iter().flat_map(|&scale| std::iter::repeat_n(scale, blocks)).collect(),
        };
        let mut bytes = vec![0; rows * blocks * format.block_bytes()];
        if !bytes.is_empty() {
            ctx.gguf_ternary_pack(format, &trits, &scales, &mut bytes);
        }
        Ok(GgufTernaryMatrix { format, rows, cols, bytes })
    }

    /// The matrix whose blocks came from elsewhere, such as a GGUF file. `tensor` names it in errors.
    ///
    /// Errors: another number of bytes than the shape demands; `cols` no multiple of 256; a scale that is not finite; code
    /// 3 in TQ2_0, which stands for no value. Each with its offset.
    pub fn from_bytes(tensor: &str, format: GgufTernary, bytes: &[u8], rows: usize, cols: usize) -> Result<Self> {
        check_cols(cols)?;
        let expected = rows.checked_mul(cols / GGUF_BLOCK).and_then(|blocks| blocks.checked_mul(format.block_bytes()));
        if expected != Some(bytes.len()) {
            let expected = expected.map_or("a matrix that fits in memory".into(), |len| format!("{len} bytes"));
            let what = format!("{tensor}: {} {rows} x {cols}", format.name());
            return Err(Error::invalid(what, expected, bytes.len()));
        }
        Self::check_blocks(tensor, format, bytes)?;
        Ok(GgufTernaryMatrix { format, rows, cols, bytes: bytes.to_vec() })
    }

    /// The ternary values `[rows, cols]` and the scale of each block of 256.
    pub fn unpack(&self, ctx: &Context) -> (Vec<i8>, Vec<f32>) {
        let len = self.rows * self.cols;
        let (mut trits, mut scales) = (vec![0; len], vec![0.0; len / GGUF_BLOCK]);
        ctx.gguf_ternary_unpack(self.format, &self.bytes, &mut trits, &mut scales);
        (trits, scales)
    }

    /// The values the blocks stand for, row-major, bit for bit what llama.cpp gives.
    pub fn dequantize(&self, ctx: &Context) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols];
        ctx.gguf_ternary_dequantize(self.format, &self.bytes, &mut values);
        values
    }

    /// The same matrix in the 2-bit layout that the products read: one scale if all blocks agree, else one a row.
    ///
    /// Errors: blocks of one row that differ in scale (the 2-bit layout has one a row at most); blocks whose values are
    /// all zero count with any scale.
    pub fn to_packed(&self, ctx: &Context) -> Result<PackedTernary> {
        let (trits, scales) = self.unpack(ctx);
        let Some(row_scales) = Self::row_scales(&trits, &scales, self.cols) else {
            let message = "a row has blocks of different scales; the 2-bit layout has one a row";
            return Err(Error::Unsupported(message.into()));
        };
        PackedTernary::from_trits(ctx, &trits, self.rows, self.cols, row_scales)
    }

    /// The scale of all blocks if they agree, else that of each row; `None` if blocks of one row differ. Blocks whose
    /// values are all zero go with any scale. `trits` and `scales` as [`GgufTernaryMatrix::unpack`] gives them.
    pub fn row_scales(trits: &[i8], scales: &[f32], cols: usize) -> Option<Vec<f32>> {
        let blocks = (cols / GGUF_BLOCK).max(1);
        let mut rows = Vec::with_capacity(scales.len() / blocks);
        for (trits, scales) in trits.chunks(cols.max(1)).zip(scales.chunks(blocks)) {
            let used = trits.chunks(GGUF_BLOCK).zip(scales).filter(|(trits, _)| trits.iter().any(|&trit| trit != 0));
            let mut scale = None;
            for (_, &block) in used {
                if scale.is_some_and(|scale| scale != block) {
                    return None;
                }
                scale = Some(block);
            }
            rows.push(scale);
        }
        // A row of zeros goes with any scale too.
        let common = rows.iter().flatten().next().copied().unwrap_or(0.0);
        let rows: Vec<f32> = rows.into_iter().map(|scale| scale.unwrap_or(common)).collect();
        Some(if rows.iter().all(|&scale| scale == common) { vec![common] } else { rows })
    }
}

fn check_cols(cols: usize) -> Result<()> {
    if cols.is_multiple_of(GGUF_BLOCK) {
        return Ok(());
    }
    Err(Error::shape("gguf_ternary", "cols", format!("a multiple of {GGUF_BLOCK}"), cols))
}
