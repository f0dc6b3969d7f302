//! The quantized copy of a weight matrix that forward and backward passes read.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::grid::nearest;
use super::{Granularity, PackedFiveTrits, PackedTernary, Precision, Q8Matrix, Quantizer};
use crate::dispatch::Context;
use crate::tensor::AlignedBuffer;
use crate::{Error, Result};

/// Rows of one block of work.
const BLOCK_ROWS: usize = 16;

/// Codes a row is quantized in at a time.
const CODES_AT_ONCE: usize = 256;

/// Elements of a block of an inner product.
const DOT_BLOCK: usize = 1 << 14;

/// Lanes of the sums (as the kernels' reductions: csrc/lanes.h).
const LANES: usize = 16;

/// A quantized weight matrix `[rows, cols]`, by [`Quantizer::for_training`]: one scale for ternary, binary, five-level
/// and 2-bit matrices, a scale a row for 4 and 8 bits.
#[derive(Clone, Debug)]
pub enum QuantizedWeight {
    /// Ternary and binary weights: packed, multiplied by the integer kernels.
    Packed(PackedTernary),
    /// Ternary weights of a packed file: multiplied as they are, never trained.
    FiveTrits(PackedFiveTrits),
    /// An embedding or head of a packed file: never trained.
    Q8(Q8Matrix),
    /// Other grids: dequantized values for the dense f32 product.
    Dequantized {
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// What the codes stand for, row-major.
        values: AlignedBuffer<f32>,
        /// Scale of each row, or one for the matrix.
        scales: Vec<f32>,
    },
}

/// What [`QuantizedWeight::requantize`] found.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Requantized {
    /// Codes that differ from before.
    pub changed: usize,
    /// Sum of the weights' squares.
    pub squares: f64,
    /// Sum of the squared distances of the weights from what their codes stand for.
    pub squared_error: f64,
}

/// What becomes of a scale once it has decided the codes: values are `code * scale * factor`, with the factor that this gives.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct OutputScale {
    /// Whether the scale is replaced by the one of least squared error, `<w, q> / <q, q>`, for each run of weights that has a
    /// scale (SPEC's least-squares output scale: on Gaussian weights 0.213 of the variance instead of 0.263 for ternary).
    pub least_squares: bool,
    /// Factor on it: 1, or one that is learned. Positive.
    pub factor: f32,
}

impl Default for OutputScale {
    fn default() -> Self {
        OutputScale { least_squares: false, factor: 1.0 }
    }
}

impl OutputScale {
    /// The factor for values whose inner product with the weights is `product` and whose squares sum to `squares`.
    pub(super) fn factor_for(self, product: f64, squares: f64) -> f64 {
        let fitted = if self.least_squares && product > 0.0 && squares > 0.0 { product / squares } else { 1.0 };
        fitted * f64::from(self.factor)
    }
}

impl QuantizedWeight {
    /// A matrix of zeros `[rows, cols]`, to [`QuantizedWeight::requantize`]; `None` for [`Precision::F32`].
    pub fn zeroed(precision: Precision, rows: usize, cols: usize) -> Option<Self> {
        match precision {
            Precision::F32 => None,
            Precision::Ternary | Precision::Binary => Some(Self::Packed(PackedTernary::zeroed(rows, cols))),
            _ => {
                let per_row = Quantizer::for_training(precision).granularity == Granularity::Row;
                let scales = vec![1.0; if per_row { rows } else { 1 }];
                Some(Self::Dequantized { rows, cols, values: AlignedBuffer::zeroed(rows * cols), scales })
            }
        }
    }

    /// The quantized copy of `weights` `[rows, cols]`; `None` for [`Precision::F32`].
    /// Errors: `weights` is not `rows * cols` long; a weight that is not finite.
    pub fn quantize(
        context: &Context,
        precision: Precision,
        weights: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Option<Self>> {
        if rows.checked_mul(cols) != Some(weights.len()) {
            return Err(Error::shape("quantize", "weights", format!("{rows} x {cols}"), weights.len()));
        }
        let Some(mut matrix) = Self::zeroed(precision, rows, cols) else { return Ok(None) };
        matrix.requantize(context, precision, OutputScale::default(), weights)?;
        Ok(Some(matrix))
    }

    /// Quantizes changed weights of the same shape and precision in place, in two reads of the weights: their mean, then
    /// their codes. Errors as [`QuantizedWeight::quantize`]; the matrix is then unchanged.
    pub fn requantize(
        &mut self,
        context: &Context,
        precision: Precision,
        output: OutputScale,
        weights: &[f32],
    ) -> Result<Requantized> {
        let (rows, cols) = self.shape();
        match self {
            Self::Packed(packed) if precision == Precision::Ternary => packed.requantize(context, output, weights),
            Self::Packed(packed) => packed.requantize_signs(context, output, weights),
            Self::FiveTrits(_) | Self::Q8(_) => Err(Error::Unsupported("a packed matrix is not trained".into())),
            Self::Dequantized { values, scales, .. } => {
                let new_scales = Quantizer::for_training(precision).scales(context, weights, rows, cols)?;
                let per_row = new_scales.len() > 1;
                let cols = cols.max(1);
                let block = |(block, (values, weights)): (usize, (&mut [f32], &[f32]))| {
                    let mut changed = 0;
                    for (row, (values, weights)) in values.chunks_mut(cols).zip(weights.chunks(cols)).enumerate() {
                        let at = if per_row { block * BLOCK_ROWS + row } else { 0 };
                        changed += requantize_row(precision, weights, scales[at], new_scales[at], values);
                    }
                    let [squares, squared_error] = distance_sums(weights, values);
                    Requantized { changed, squares, squared_error }
                };
                let blocks = values.chunks_mut(BLOCK_ROWS * cols).zip(weights.chunks(BLOCK_ROWS * cols));
                let blocks = context.map(blocks.enumerate(), block);
                *scales = new_scales;
                let found = blocks.into_iter().fold(Requantized::default(), |total, block| Requantized {
                    changed: total.changed + block.changed,
                    squares: total.squares + block.squares,
                    squared_error: total.squared_error + block.squared_error,
                });
                if output == OutputScale::default() {
                    return Ok(found);
                }
                rescale(context, output, weights, cols, values, scales);
                let rows = weights.chunks(cols).zip(values.chunks(cols));
                let errors = context.map(rows, |(weights, values)| distance_sums(weights, values)[1]);
                Ok(Requantized { squared_error: errors.into_iter().sum(), ..found })
            }
        }
    }

    /// `(rows, cols)`.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Packed(packed) => (packed.rows, packed.cols),
            Self::FiveTrits(packed) => (packed.rows, packed.cols),
            Self::Q8(matrix) => (matrix.rows, matrix.cols),
            Self::Dequantized { rows, cols, .. } => (*rows, *cols),
        }
    }

    /// Scale of each row, or one for the matrix; none for [`QuantizedWeight::Q8`], whose blocks have their own.
    pub fn scales(&self) -> &[f32] {
        match self {
            Self::Packed(packed) => &packed.scales,
            Self::FiveTrits(packed) => &packed.scales,
            Self::Q8(_) => &[],
            Self::Dequantized { scales, .. } => scales,
        }
    }

    /// The packed matrix, where the integer kernels multiply it.
    pub fn packed(&self) -> Option<&PackedTernary> {
        match self {
            Self::Packed(packed) => Some(packed),
            _ => None,
        }
    }

    /// The dequantized values `[rows, cols]`, where the dense product multiplies them.
    pub fn dense(&self) -> Option<&[f32]> {
        match self {
            Self::Dequantized { values, .. } => Some(values),
            _ => None,
        }
    }

    /// Writes the values that the codes stand for to `out` `[rows, cols]`.
    ///
    /// # Panics
    /// If `out` does not hold `rows * cols` elements.
    pub fn dequantize(&self, context: &Context, out: &mut [f32]) {
        match self {
            Self::Packed(packed) => packed.dequantize(context, out),
            Self::FiveTrits(packed) => packed.dequantize(context, out),
            Self::Q8(matrix) => matrix.dequantize(context, out),
            Self::Dequantized { values, .. } => out.copy_from_slice(values),
        }
    }

    /// The inner product of the values that the codes stand for with `other` `[rows, cols]`.
    ///
    /// # Panics
    /// If `other` does not hold `rows * cols` elements.
    pub fn inner_product(&self, context: &Context, other: &[f32]) -> f64 {
        let values = match self {
            Self::Packed(packed) => return packed.inner_product(context, other),
            Self::Dequantized { values, .. } => Cow::Borrowed(&values[..]),
            Self::FiveTrits(_) | Self::Q8(_) => {
                let mut values = vec![0.0; other.len()];
                self.dequantize(context, &mut values);
                Cow::Owned(values)
            }
        };
        assert_eq!(other.len(), values.len(), "inner product: length of the other matrix");
        context.sum(values.chunks(DOT_BLOCK).zip(other.chunks(DOT_BLOCK)), |(a, b)| context.kernels().dot(a, b))
    }

    /// Bytes this copy takes in memory, scales included.
    pub fn memory_bytes(&self) -> usize {
        let values = match self {
            Self::Packed(packed) => packed.data.len(),
            Self::FiveTrits(packed) => packed.data.len(),
            Self::Q8(matrix) => matrix.data.len(),
            Self::Dequantized { values, .. } => size_of_val(&values[..]),
        };
        values + size_of_val(self.scales())
    }
}

/// Quantizes one row over its old values; the old codes are read back from them. Returns the number of changed codes.
fn requantize_row(precision: Precision, weights: &[f32], old: f32, new: f32, values: &mut [f32]) -> usize {
    let (old_step, new_step) = (precision.unit() * old, precision.unit() * new);
    let (mut changed, mut codes) = (0, [0i8; CODES_AT_ONCE]);
    for (values, weights) in values.chunks_mut(CODES_AT_ONCE).zip(weights.chunks(CODES_AT_ONCE)) {
        precision.encode(weights, new, &mut codes[..weights.len()]);
        for (value, &code) in values.iter_mut().zip(&codes) {
            changed += usize::from(nearest(*value / old_step) != f32::from(code));
            *value = f32::from(code) * new_step;
        }
    }
    changed
}

/// Puts `output` in force on `values` under their codes' own `scales`: one for each row of `cols`, or one for all.
fn rescale(
    context: &Context,
    output: OutputScale,
    weights: &[f32],
    cols: usize,
    values: &mut [f32],
    scales: &mut [f32],
) {
    let products = |(weights, values): (&[f32], &[f32])| {
        let pairs = || weights.iter().zip(values).map(|(&w, &q)| (f64::from(w), f64::from(q)));
        [pairs().map(|(w, q)| w * q).sum::<f64>(), pairs().map(|(_, q)| q * q).sum()]
    };
    let mut sums = context.map(weights.chunks(cols).zip(values.chunks(cols)), products);
    if let [_] = scales {
        let whole = sums.iter().fold([0.0; 2], |whole, row| [whole[0] + row[0], whole[1] + row[1]]);
        sums.fill(whole);
    }
    let factors: Vec<f32> =
        sums.into_iter().map(|[product, squares]| output.factor_for(product, squares) as f32).collect();
    scales.iter_mut().zip(&factors).for_each(|(scale, factor)| *scale *= factor);
    context.for_each(values.chunks_mut(cols).zip(&factors), |(row, factor)| row.iter_mut().for_each(|q| *q *= factor));
}

/// Sums of `w^2` and `(w - q)^2`, in fixed f64 lanes.
fn distance_sums(weights: &[f32], values: &[f32]) -> [f64; 2] {
    let (mut squares, mut errors) = ([0f64; LANES], [0f64; LANES]);
    for (weights, values) in weights.chunks(LANES).zip(values.chunks(LANES)) {
        for (lane, (&w, &q)) in weights.iter().zip(values).enumerate() {
            let off = f64::from(w - q);
            squares[lane] += f64::from(w) * f64::from(w);
            errors[lane] += off * off;
        }
    }
    [squares.iter().sum::<f64>(), errors.iter().sum::<f64>()]
}
