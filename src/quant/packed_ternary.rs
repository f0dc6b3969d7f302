//! A ternary matrix at 2 bits a weight, with its scales.
#![forbid(unsafe_code)]

use super::{Granularity, OutputScale, QuantizedRows, Requantized};
use crate::dispatch::{Context, Operation};
use crate::kernels::{TERNARY_BLOCK_ROWS, ternary_block_len, ternary_packed_len};
use crate::tensor::AlignedBuffer;
use crate::{Error, Result};

/// The least scale: a matrix of zeros divides by it.
const MIN_SCALE: f64 = 1e-5;

/// Columns that [`PackedTernary::inner_product`] unpacks at a time.
const TILE_COLS: usize = 256;

/// A byte of four zero weights.
const ZERO_WEIGHTS: u8 = 0x55;

/// A ternary matrix `[rows, cols]` in the 2-bit layout (csrc/README.md, "2-bit layout"), `W[r][c] ~ scale(r) * q[r][c]`
/// with `q` in {-1, 0, 1}.
#[derive(Clone, Debug)]
pub struct PackedTernary {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Blocks of 64 rows; `ceil(rows / 64) * ceil(cols / 16) * 256` bytes.
    pub data: AlignedBuffer<u8>,
    /// One scale for the whole matrix, or one per row.
    pub scales: Vec<f32>,
}

impl PackedTernary {
    /// A matrix of zeros with one scale.
    pub(super) fn zeroed(rows: usize, cols: usize) -> Self {
        let mut data = AlignedBuffer::zeroed(ternary_packed_len(rows, cols));
        data.fill(ZERO_WEIGHTS);
        PackedTernary { rows, cols, data, scales: vec![MIN_SCALE as f32] }
    }

    /// Quantizes `weights` `[rows, cols]` by their mean absolute value (BitNet b1.58, Ma et al. 2024):
    /// `s = max(mean|W|, 1e-5)`, `q = sign(W)` where `|W| > s / 2`, else 0. Reads the weights twice.
    ///
    /// Errors: a length other than `rows * cols`; a NaN or infinite weight (named by its index); a granularity of groups
    /// ([`super::Quantizer`] has those).
    pub fn pack(ctx: &Context, weights: &[f32], rows: usize, cols: usize, granularity: Granularity) -> Result<Self> {
        check_len("ternary_pack", weights.len(), rows, cols)?;
        let mut data = AlignedBuffer::zeroed(ternary_packed_len(rows, cols));
        let scales = Self::pack_into(ctx, weights, rows, cols, granularity, &mut data)?;
        Ok(PackedTernary { rows, cols, data, scales })
    }

    /// As [`PackedTernary::pack`] into bytes of the caller's; gives the scales. On an error the bytes are unchanged.
    ///
    /// Errors: as [`PackedTernary::pack`]; `packed` has another length than
    /// [`crate::kernels::ternary_packed_len`] tells.
    pub fn pack_into(
        ctx: &Context,
        weights: &[f32],
        rows: usize,
        cols: usize,
        granularity: Granularity,
        packed: &mut [u8],
    ) -> Result<Vec<f32>> {
        let count = match granularity {
            Granularity::Tensor => 1,
            Granularity::Row => rows,
            Granularity::Group(size) => {
                return Err(Error::invalid("granularity", "tensor or row", format!("groups of {size}")));
            }
        };
        check_len("ternary_pack", weights.len(), rows, cols)?;
        if checked_packed_len(rows, cols) != Some(packed.len()) {
            let expected = format!("the bytes of {rows} x {cols} weights");
            return Err(Error::shape("ternary_pack", "packed", expected, packed.len()));
        }
        ctx.region(Operation::TernaryQuantizePack, weights.len(), || {
            let scales = mean_scales(ctx, weights, cols, count)?;
            ctx.ternary_quantize_pack(weights, rows, cols, &thresholds_of(&scales), packed);
            Ok(scales)
        })
    }

    /// The matrix whose packed bytes and scales (one, or one a row) came from elsewhere: a file, another process.
    /// `tensor` names it in errors.
    ///
    /// Errors: another number of bytes or scales than the shape demands; a scale that is not finite; a byte that holds
    /// code 3, which stands for no weight, or padding that is not zero weights, with its offset.
    pub fn from_bytes(
        ctx: &Context,
        tensor: &str,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        scales: Vec<f32>,
    ) -> Result<Self> {
        let expected = checked_packed_len(rows, cols);
        if expected != Some(bytes.len()) {
            let expected = expected.map_or("a matrix that fits in memory".into(), |len| format!("{len} bytes"));
            return Err(Error::invalid(format!("{tensor}: packed {rows} x {cols}"), expected, bytes.len()));
        }
        check_scales(tensor, &scales, rows)?;
        if let Some(offset) = ctx.ternary_find_invalid(bytes) {
            let found = format!("code 3 in byte {:#04x}", bytes[offset]);
            return Err(Error::invalid(format!("{tensor}: byte {offset}"), "codes 0, 1 and 2", found));
        }
        if let Some(offset) = find_bad_padding(bytes, rows, cols) {
            let found = format!("byte {:#04x}", bytes[offset]);
            return Err(Error::invalid(format!("{tensor}: byte {offset}"), "zero weights in the padding", found));
        }
        Ok(PackedTernary { rows, cols, data: AlignedBuffer::from_slice(bytes), scales })
    }

    /// Packs values that are already -1, 0 or 1 under known scales (one, or one a row).
    ///
    /// Errors: a length that does not fit the shape; a value outside {-1, 0, 1}; a scale that is not finite.
    pub fn from_trits(ctx: &Context, trits: &[i8], rows: usize, cols: usize, scales: Vec<f32>) -> Result<Self> {
        check_len("ternary_pack", trits.len(), rows, cols)?;
        check_scales("ternary_pack", &scales, rows)?;
        if let Some(index) = trits.iter().position(|t| !(-1..=1).contains(t)) {
            return Err(Error::invalid(format!("trits[{index}]"), "-1, 0 or 1", trits[index]));
        }
        let mut data = AlignedBuffer::zeroed(ternary_packed_len(rows, cols));
        ctx.ternary_pack(trits, rows, cols, &mut data);
        Ok(PackedTernary { rows, cols, data, scales })
    }

    /// Quantizes new weights of the same shape and granularity in place. Gives the number of weights whose ternary
    /// value changed. On an error nothing has changed.
    ///
    /// Errors: as [`PackedTernary::pack`].
    pub fn repack(&mut self, ctx: &Context, weights: &[f32]) -> Result<usize> {
        check_len("ternary_pack", weights.len(), self.rows, self.cols)?;
        ctx.region(Operation::TernaryQuantizePack, weights.len(), || {
            let scales = mean_scales(ctx, weights, self.cols, self.scales.len())?;
            let changed = ctx.ternary_repack(weights, self.rows, self.cols, &thresholds_of(&scales), &mut self.data);
            self.scales = scales;
            Ok(changed)
        })
    }

    /// As [`PackedTernary::repack`] under one scale, and what the rounding lost: `sum (w - s q)^2` falls into sums that
    /// the two reads give anyway, `sum w^2 - 2 s sum_{q != 0} |w| + s^2 count_{q != 0}`.
    pub(super) fn requantize(&mut self, ctx: &Context, output: OutputScale, weights: &[f32]) -> Result<Requantized> {
        let (scale, [_, squares]) = self.mean_scale(ctx, weights)?;
        let repack = ctx.ternary_repack_sums(weights, self.rows, self.cols, &[0.5 * scale], &mut self.data);
        let squared_error = self.set_scale(scale, output, [repack.nonzero_sum, repack.nonzero as f64, squares]);
        Ok(Requantized { changed: repack.changed, squares, squared_error })
    }

    /// As [`PackedTernary::requantize`] for the signs alone, zero counting as positive: `w ~ s sign(w)`.
    pub(super) fn requantize_signs(
        &mut self,
        ctx: &Context,
        output: OutputScale,
        weights: &[f32],
    ) -> Result<Requantized> {
        let (scale, [magnitudes, squares]) = self.mean_scale(ctx, weights)?;
        let signs: Vec<f32> = weights.iter().map(|&w| if w < 0.0 { -1.0 } else { 1.0 }).collect();
        let changed = ctx.ternary_repack(&signs, self.rows, self.cols, &[0.5], &mut self.data);
        let squared_error = self.set_scale(scale, output, [magnitudes, weights.len() as f64, squares]);
        Ok(Requantized { changed, squares, squared_error })
    }

    /// Sets the scale of codes that `scale` has decided, and gives what it loses: `codes_sum` is `<w, q>`, `codes_squares`
    /// `<q, q>`, `squares` `<w, w>`.
    fn set_scale(&mut self, scale: f32, output: OutputScale, [codes_sum, codes_squares, squares]: [f64; 3]) -> f64 {
        let s = f64::from(scale);
        let scale = match output == OutputScale::default() {
            true => scale,
            false => (s * output.factor_for(s * codes_sum, s * s * codes_squares)) as f32,
        };
        self.scales.clear();
        self.scales.push(scale);
        let s = f64::from(scale);
        (squares - 2.0 * s * codes_sum + s * s * codes_squares).max(0.0)
    }

    /// The scale of the matrix, and the sums of `|w|` and `w^2`: one read, which also finds a weight that is not finite.
    fn mean_scale(&self, ctx: &Context, weights: &[f32]) -> Result<(f32, [f64; 2])> {
        check_len("ternary_pack", weights.len(), self.rows, self.cols)?;
        let sums = ctx.abs_and_square_sums(weights);
        check_sum(sums[0], weights)?;
        Ok((scale_of(sums[0], weights.len()), sums))
    }

    /// The ternary values `[rows, cols]`.
    pub fn unpack(&self, ctx: &Context) -> Vec<i8> {
        let mut trits = vec![0; self.rows * self.cols];
        ctx.ternary_unpack(&self.data, self.rows, self.cols, &mut trits);
        trits
    }

    /// Writes `scale(r) * q[r][c]` to `out` `[rows, cols]`.
    ///
    /// # Panics
    /// If `out` does not hold `rows * cols` elements.
    pub fn dequantize(&self, ctx: &Context, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.cols, "ternary dequantize: length of the output");
        if out.is_empty() {
            return;
        }
        let trits = self.unpack(ctx);
        let rows = out.chunks_mut(self.cols).zip(trits.chunks(self.cols)).enumerate();
        ctx.for_each(rows, |(row, (out, trits))| {
            let scale = self.scale(row);
            out.iter_mut().zip(trits).for_each(|(out, &trit)| *out = scale * f32::from(trit));
        });
    }

    /// The inner product of what the weights stand for with `other` `[rows, cols]`.
    ///
    /// # Panics
    /// If `other` does not hold `rows * cols` elements.
    pub fn inner_product(&self, ctx: &Context, other: &[f32]) -> f64 {
        assert_eq!(other.len(), self.rows * self.cols, "ternary inner product: length of the other matrix");
        if other.is_empty() {
            return 0.0;
        }
        let (cols, kernels) = (self.cols, ctx.kernels());
        let blocks = self.data.chunks(ternary_block_len(cols)).zip(other.chunks(TERNARY_BLOCK_ROWS * cols)).enumerate();
        ctx.sum(blocks, |(block, (packed, other))| {
            let mut trits = [0i8; TERNARY_BLOCK_ROWS * TILE_COLS];
            let mut sum = 0.0;
            for (tile, packed) in packed.chunks(ternary_block_len(TILE_COLS)).enumerate() {
                let first = tile * TILE_COLS;
                let width = TILE_COLS.min(cols - first);
                let rows = other.len() / cols;
                kernels.ternary_unpack(packed, rows, width, &mut trits[..rows * width]);
                for (row, trits) in trits[..rows * width].chunks(width).enumerate() {
                    let scale = f64::from(self.scale(block * TERNARY_BLOCK_ROWS + row));
                    sum += scale * kernels.dot_i8(trits, &other[row * cols + first..][..width]);
                }
            }
            sum
        })
    }

    /// The scale of a row.
    pub fn scale(&self, row: usize) -> f32 {
        if self.scales.len() == 1 { self.scales[0] } else { self.scales[row] }
    }

    /// `y = x * W^T` for the first `tokens` rows of `x` (`cols` values each); `y`: `[tokens, rows]`.
    ///
    /// # Panics
    /// If `x` or `y` does not fit.
    pub fn matmul(&self, ctx: &Context, x: &QuantizedRows, tokens: usize, y: &mut [f32]) {
        let values = &x.values[..tokens * self.cols];
        let (scales, sums) = (&x.scales[..tokens], &x.sums[..tokens]);
        ctx.ternary_matmul(&self.data, self.rows, self.cols, &self.scales, values, scales, sums, y);
    }

    /// `dx = dy * Q` for the first `tokens` rows of `dy` (`rows` values each), with the ternary values `Q` alone: the
    /// caller has folded the scales of the weights into `dy`. `dx`: `[tokens, cols]`.
    ///
    /// # Panics
    /// If `dy` or `dx` does not fit.
    pub fn matmul_transposed(&self, ctx: &Context, dy: &QuantizedRows, tokens: usize, dx: &mut [f32]) {
        let values = &dy.values[..tokens * self.rows];
        let (scales, sums) = (&dy.scales[..tokens], &dy.sums[..tokens]);
        ctx.ternary_matmul_transposed(&self.data, self.rows, self.cols, values, scales, sums, dx);
    }
}

fn check_len(operation: &'static str, found: usize, rows: usize, cols: usize) -> Result<()> {
    if rows.checked_mul(cols) == Some(found) {
        return Ok(());
    }
    Err(Error::shape(operation, "weights", format!("{rows} x {cols} elements"), found))
}

fn check_finite(tensor: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NonFinite { tensor: tensor.into(), index, value: values[index] }),
        None => Ok(()),
    }
}

pub(super) fn check_scales(tensor: &str, scales: &[f32], rows: usize) -> Result<()> {
    if scales.len() != 1 && scales.len() != rows {
        return Err(Error::invalid(format!("{tensor}: scales"), format!("1 or {rows}"), scales.len()));
    }
    check_finite(&format!("{tensor}: scales"), scales)
}

/// A sum of finite f32 is finite in f64, and one weight that is not finite taints it: only then are they searched.
fn check_sum(sum: f64, weights: &[f32]) -> Result<()> {
    if sum.is_finite() { Ok(()) } else { check_finite("ternary weights", weights) }
}

/// A weight is 0 up to half its scale.
fn thresholds_of(scales: &[f32]) -> Vec<f32> {
    scales.iter().map(|scale| 0.5 * scale).collect()
}

fn scale_of(sum: f64, count: usize) -> f32 {
    (sum / count.max(1) as f64).max(MIN_SCALE) as f32
}

/// `max(mean|W|, 1e-5)` of the matrix (`count` 1) or of each row.
fn mean_scales(ctx: &Context, weights: &[f32], cols: usize, count: usize) -> Result<Vec<f32>> {
    if count == 1 {
        let sum = ctx.abs_sum(weights);
        check_sum(sum, weights)?;
        return Ok(vec![scale_of(sum, weights.len())]);
    }
    if cols == 0 {
        return Ok(vec![MIN_SCALE as f32; count]);
    }
    let kernels = ctx.kernels();
    let sums = ctx.map(weights.chunks(cols), |row| kernels.abs_sum(row));
    sums.iter().try_for_each(|&sum| check_sum(sum, weights))?;
    Ok(sums.into_iter().map(|sum| scale_of(sum, cols)).collect())
}

/// [`ternary_packed_len`] of sizes that may be absurd.
fn checked_packed_len(rows: usize, cols: usize) -> Option<usize> {
    rows.checked_mul(cols)?;
    rows.div_ceil(TERNARY_BLOCK_ROWS).checked_mul(cols.div_ceil(16))?.checked_mul(256)
}

/// Offset of the first byte with a weight beyond the shape that is not zero.
fn find_bad_padding(bytes: &[u8], rows: usize, cols: usize) -> Option<usize> {
    let steps = cols.div_ceil(16);
    let byte_at = |row: usize, step: usize, column: usize| {
        row / TERNARY_BLOCK_ROWS * ternary_block_len(cols) + 256 * step + 4 * (row % TERNARY_BLOCK_ROWS) + column
    };
    let padding_rows = rows..rows.next_multiple_of(TERNARY_BLOCK_ROWS);
    let whole_rows = padding_rows.flat_map(|row| (0..steps).map(move |step| (row, step)));
    let rows_bytes = whole_rows.flat_map(|(row, step)| (0..4).map(move |column| (byte_at(row, step, column), 0xFF)));
    // Field f of byte j is column 4 f + j of the step.
    let used = cols % 16;
    let fields = |column: usize| (0..4).filter(|f| 4 * f + column >= used).fold(0, |mask, f| mask | 3 << (2 * f));
    let tail_rows = if used == 0 { 0..0 } else { 0..rows };
    let tails = tail_rows.flat_map(|row| (0..4).map(move |column| (byte_at(row, steps - 1, column), fields(column))));
    rows_bytes.chain(tails).filter(|&(at, mask)| (bytes[at] ^ ZERO_WEIGHTS) & mask != 0).map(|(at, _)| at).min()
}
