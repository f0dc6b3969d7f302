//! Quantizers of every grid, on the caller's buffers.

use super::arguments::{Growable, expect_len, input, optional_options, optional_output, options, output, size};
use super::boundary::{Failure, guard, place};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use super::ternary::{HQ_SCALE_PER_GROUP, HQ_SCALE_PER_ROW, HQ_SCALE_PER_TENSOR};
use super::vectors::check_finite;
use crate::quant::{
    AdaptiveQuantizer, BitUnit, GradientDraw, GradientQuantizer, GradientRounding, Granularity, Precision,
    QuantizedTensor, Quantizer, Quantizer158Bit, ScaleRule, quantize_gradients,
};

/// {-1, 0, 1} times absmean: the 1.58-bit form.
pub const HQ_PRECISION_TERNARY: u32 = 0;
/// {-1, -1/2, 0, 1/2, 1} times 2.1 absmean: 2.32 bits. Codes count halves.
pub const HQ_PRECISION_FIVE_LEVEL: u32 = 1;
/// The sign times absmean: 1 bit.
pub const HQ_PRECISION_BINARY: u32 = 2;
/// Symmetric 4-bit integers, -7 to 7.
pub const HQ_PRECISION_INT4: u32 = 3;
/// Symmetric 8-bit integers, -127 to 127.
pub const HQ_PRECISION_INT8: u32 = 4;
/// {-3/2, -1/2, 1/2, 3/2} times a step: 2 bits. Codes count halves.
pub const HQ_PRECISION_INT2: u32 = 5;
/// Not quantized: for parameters and bit budgets; quantizers refuse it.
pub const HQ_PRECISION_F32: u32 = 6;

/// The grid's own rule: absmean for ternary, binary, five-level and 2 bits, the largest magnitude for 4 and 8 bits.
pub const HQ_SCALE_RULE_DEFAULT: u32 = 0;
/// `scale_value * mean|w|`.
pub const HQ_SCALE_RULE_ABSMEAN: u32 = 1;
/// The largest magnitude gets the largest code.
pub const HQ_SCALE_RULE_ABSMAX: u32 = 2;
/// `scale_value`, whatever the weights.
pub const HQ_SCALE_RULE_FIXED: u32 = 3;

/// To the nearest level, ties to even; the tensor keeps its L2 norm. Biased.
pub const HQ_ROUNDING_NEAREST: u32 = 0;
/// Up or down at random so that the mean is the value itself. Unbiased; the norm grows.
pub const HQ_ROUNDING_STOCHASTIC: u32 = 1;

const PRECISIONS: [Precision; 7] = [
    Precision::Ternary,
    Precision::FiveLevel,
    Precision::Binary,
    Precision::Int4,
    Precision::Int8,
    Precision::Int2,
    Precision::F32,
];

pub(super) fn precision_of(number: u32) -> Result<Precision, Failure> {
    let found = PRECISIONS.get(number as usize).copied();
    found.ok_or_else(|| Failure::invalid("precision", "an HQ_PRECISION_ constant (0 to 6)", number))
}

pub(super) fn number_of(precision: Precision) -> u32 {
    PRECISIONS.iter().position(|known| *known == precision).unwrap_or(PRECISIONS.len()) as u32
}

/// How `hq_quantize` works. Set `struct_size` to `sizeof(hq_quantizer)`; zero the rest for ternary weights with one scale
/// for the matrix.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_quantizer {
    /// `sizeof(hq_quantizer)`.
    pub struct_size: u32,
    /// The grid: an HQ_PRECISION_ constant.
    pub precision: u32,
    /// Values that share a scale: an HQ_SCALE_PER_ constant.
    pub granularity: u32,
    /// Where a scale comes from: an HQ_SCALE_RULE_ constant.
    pub scale_rule: u32,
    /// Weights of a group (HQ_SCALE_PER_GROUP); the last group of a row may be shorter.
    pub group_size: u64,
    /// Multiple of the mean, or the scale itself, as the rule says.
    pub scale_value: f64,
    /// 1: replace each scale by the one of least squared error for the codes found.
    pub least_squares: u32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_quantizer {
    const FIRST_SIZE: usize = size_of::<hq_quantizer>();
}

/// # Safety
/// As the callers vouch.
unsafe fn quantizer_of(pointer: *const hq_quantizer) -> Result<Quantizer, Failure> {
    // SAFETY: as the caller vouches.
    let options = unsafe { options(pointer, "quantizer") }?;
    let precision = precision_of(options.precision)?;
    let granularity = match options.granularity {
        HQ_SCALE_PER_TENSOR => Granularity::Tensor,
        HQ_SCALE_PER_ROW => Granularity::Row,
        HQ_SCALE_PER_GROUP => Granularity::Group(super::arguments::index(options.group_size, "group_size")?),
        other => return Err(Failure::invalid("granularity", "an HQ_SCALE_PER_ constant (0 to 2)", other)),
    };
    if granularity == Granularity::Group(0) {
        return Err(Failure::invalid("group_size", "at least 1", 0));
    }
    let scale_rule = match options.scale_rule {
        HQ_SCALE_RULE_DEFAULT => ScaleRule::default_of(precision),
        HQ_SCALE_RULE_ABSMEAN if options.scale_value > 0.0 && options.scale_value.is_finite() => {
            ScaleRule::AbsMean { factor: options.scale_value }
        }
        HQ_SCALE_RULE_ABSMEAN => {
            return Err(Failure::invalid("scale_value", "a finite number above 0", options.scale_value));
        }
        HQ_SCALE_RULE_ABSMAX => ScaleRule::AbsMax,
        HQ_SCALE_RULE_FIXED => ScaleRule::Fixed { scale: options.scale_value as f32 },
        other => return Err(Failure::invalid("scale_rule", "an HQ_SCALE_RULE_ constant (0 to 3)", other)),
    };
    let quantizer = Quantizer::new(precision).granularity(granularity).scale_rule(scale_rule);
    Ok(if options.least_squares != 0 { quantizer.least_squares() } else { quantizer })
}

fn scale_count(granularity: Granularity, rows: usize, cols: usize) -> Result<usize, Failure> {
    match granularity {
        Granularity::Tensor => Ok(1),
        Granularity::Row => Ok(rows),
        Granularity::Group(group) => size(&[rows, cols.div_ceil(group)], "rows x groups"),
    }
}

/// Number of scales that `quantizer` gives a matrix of `rows x cols`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_scale_count(
    quantizer: *const hq_quantizer,
    rows: usize,
    cols: usize,
    count: *mut usize,
) -> hq_status {
    guard("hq_scale_count", || {
        // SAFETY: as the caller vouches.
        let (quantizer, count) = unsafe { (quantizer_of(quantizer)?, place(count, "count")?) };
        size(&[rows, cols], "rows x cols")?;
        count.write(scale_count(quantizer.granularity, rows, cols)?);
        Ok(())
    })
}

/// Quantizes `weights` (`rows x cols`, row-major) to a grid: `codes` (`rows x cols`) and `scales` (`scale_count` of them,
/// what `hq_scale_count` tells). `dequantized` (`rows x cols`), if not NULL, gets the values the codes stand for.
/// HQ_NOT_FINITE: a weight is NaN or infinite, named by its index.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_quantize(
    context: *const hq_context,
    quantizer: *const hq_quantizer,
    weights: *const f32,
    rows: usize,
    cols: usize,
    codes: *mut i8,
    scales: *mut f32,
    scale_count: usize,
    dequantized: *mut f32,
) -> hq_status {
    guard("hq_quantize", || {
        // SAFETY: as the caller vouches.
        let (context, quantizer) = unsafe { (context_of(context)?, quantizer_of(quantizer)?) };
        let len = size(&[rows, cols], "rows x cols")?;
        expect_len(scale_count, self::scale_count(quantizer.granularity, rows, cols)?, "scale_count")?;
        // SAFETY: as the caller vouches.
        let (weights, codes) = unsafe { (input(weights, len, "weights")?, output(codes, len, "codes")?) };
        // SAFETY: as the caller vouches.
        let scales = unsafe { output(scales, scale_count, "scales") }?;
        // SAFETY: as the caller vouches.
        let dequantized = unsafe { optional_output(dequantized, len, "dequantized") }?;
        let tensor = quantizer.quantize(context, weights, rows, cols)?;
        if let Some(dequantized) = dequantized {
            dequantized.copy_from_slice(&tensor.dequantize(context));
        }
        codes.copy_from_slice(&tensor.codes);
        scales.copy_from_slice(&tensor.scales);
        Ok(())
    })
}

/// The values (`rows x cols`) that `codes` and `scales` of `hq_quantize` stand for, with the same `quantizer`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dequantize(
    context: *const hq_context,
    quantizer: *const hq_quantizer,
    codes: *const i8,
    scales: *const f32,
    scale_count: usize,
    rows: usize,
    cols: usize,
    values: *mut f32,
) -> hq_status {
    guard("hq_dequantize", || {
        // SAFETY: as the caller vouches.
        let (context, quantizer) = unsafe { (context_of(context)?, quantizer_of(quantizer)?) };
        let len = size(&[rows, cols], "rows x cols")?;
        expect_len(scale_count, self::scale_count(quantizer.granularity, rows, cols)?, "scale_count")?;
        let Quantizer { precision, granularity, .. } = quantizer;
        if precision == Precision::F32 {
            return Err(Failure::invalid("precision", "a quantized form", precision));
        }
        // SAFETY: as the caller vouches.
        let (codes, scales) = unsafe { (input(codes, len, "codes")?, input(scales, scale_count, "scales")?) };
        // SAFETY: as the caller vouches.
        let values = unsafe { output(values, len, "values") }?;
        let (codes, scales) = (codes.to_vec(), scales.to_vec());
        let tensor = QuantizedTensor { precision, granularity, rows, cols, codes, scales };
        values.copy_from_slice(&tensor.dequantize(context));
        Ok(())
    })
}

fn grid_of(precision: u32) -> Result<(Precision, usize), Failure> {
    let precision = precision_of(precision)?;
    let per_byte = precision.codes_per_byte();
    Ok((precision, per_byte.ok_or_else(|| Failure::invalid("precision", "a quantized form", precision))?))
}

/// Bytes that `count` codes of a grid take in the dense form, for storage: 8 binary, 5 ternary, 4 two-bit, 3 five-level, 2
/// four-bit codes a byte, 1 eight-bit code.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_codes_bytes(precision: u32, count: usize, bytes: *mut usize) -> hq_status {
    guard("hq_codes_bytes", || {
        let per_byte = grid_of(precision)?.1;
        // SAFETY: as the caller vouches.
        unsafe { place(bytes, "bytes") }?.write(count.div_ceil(per_byte));
        Ok(())
    })
}

/// Writes `count` codes in the dense form: `bytes_len` is what `hq_codes_bytes` tells. The first code is the lowest digit
/// of a byte. HQ_INVALID_VALUE: a code that the grid does not have.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_codes_pack(
    precision: u32,
    codes: *const i8,
    count: usize,
    bytes: *mut u8,
    bytes_len: usize,
) -> hq_status {
    guard("hq_codes_pack", || {
        let (precision, per_byte) = grid_of(precision)?;
        expect_len(bytes_len, count.div_ceil(per_byte), "bytes_len")?;
        // SAFETY: as the caller vouches.
        let (codes, bytes) = unsafe { (input(codes, count, "codes")?, output(bytes, bytes_len, "bytes")?) };
        let granularity = Granularity::Tensor;
        let tensor =
            QuantizedTensor { precision, granularity, rows: 1, cols: count, codes: codes.to_vec(), scales: vec![1.0] };
        let dense = tensor.to_bytes();
        let read_back = QuantizedTensor::codes_from_bytes(precision, &dense, count);
        if read_back.as_deref().ok() != Some(codes) {
            return Err(Failure::invalid("codes", format!("codes of the {precision} grid"), "others"));
        }
        bytes.copy_from_slice(&dense);
        Ok(())
    })
}

/// Reads `count` codes back from the dense form. HQ_INVALID_VALUE: a byte that no codes give.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_codes_unpack(
    precision: u32,
    bytes: *const u8,
    bytes_len: usize,
    count: usize,
    codes: *mut i8,
) -> hq_status {
    guard("hq_codes_unpack", || {
        let (precision, per_byte) = grid_of(precision)?;
        expect_len(bytes_len, count.div_ceil(per_byte), "bytes_len")?;
        // SAFETY: as the caller vouches.
        let (bytes, codes) = unsafe { (input(bytes, bytes_len, "bytes")?, output(codes, count, "codes")?) };
        codes.copy_from_slice(&QuantizedTensor::codes_from_bytes(precision, bytes, count)?);
        Ok(())
    })
}

/// Information in one value of a grid, in bits: 1.585 for ternary, 2.322 for five-level, 32 for f32.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_precision_bits(precision: u32, bits: *mut f64) -> hq_status {
    guard("hq_precision_bits", || {
        let found = precision_of(precision)?.bits();
        // SAFETY: as the caller vouches.
        unsafe { place(bits, "bits") }?.write(found);
        Ok(())
    })
}

/// Rounds `values` (`len`, in place) to `scale` times {-1, -1/2, 0, 1/2, 1} after clipping them to [-1, 1]: the five-level
/// quantizer of hybridq's prototypes. HQ_NOT_FINITE: a value is NaN or infinite; nothing has changed then.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_quantize_five_level(values: *mut f32, len: usize, scale: f32) -> hq_status {
    guard("hq_quantize_five_level", || {
        let quantizer = Quantizer158Bit::new(scale)?;
        // SAFETY: as the caller vouches.
        Ok(quantizer.quantize(unsafe { output(values, len, "values") }?)?)
    })
}

/// How gradients are quantized. Set `struct_size` to `sizeof(hq_gradient_quantizer)`; zero the rest for ternary gradients
/// rounded to the nearest level without clipping.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_gradient_quantizer {
    /// `sizeof(hq_gradient_quantizer)`.
    pub struct_size: u32,
    /// Levels above zero, 1 to 127; 0 counts as 1, which is ternary.
    pub levels: u32,
    /// An HQ_ROUNDING_ constant.
    pub rounding: u32,
    /// Of the random draws: the number of the tensor, and the step of the run.
    pub tensor: u32,
    /// Step of the run.
    pub step: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Clip at this many root-mean-squares first (2.5 suits ternary); 0: do not.
    pub clip_sigma: f64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_gradient_quantizer {
    const FIRST_SIZE: usize = size_of::<hq_gradient_quantizer>();
}

/// Quantizes `gradients` (`len`, in place) to `2 * levels + 1` values: normalised by the largest magnitude, rounded, scaled
/// back. `quantizer` may be NULL: ternary, nearest, clipped at 2.5. `level`, if not NULL, gets the size of one level (0 if
/// all are zero). HQ_NOT_FINITE: a gradient is NaN or infinite; nothing has changed then.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_quantize_gradients(
    context: *const hq_context,
    quantizer: *const hq_gradient_quantizer,
    gradients: *mut f32,
    len: usize,
    level: *mut f32,
) -> hq_status {
    guard("hq_quantize_gradients", || {
        // SAFETY: as the caller vouches.
        let (context, options) = unsafe { (context_of(context)?, optional_options(quantizer, "quantizer")?) };
        // SAFETY: as the caller vouches.
        let (gradients, level) = unsafe { (output(gradients, len, "gradients")?, optional_output(level, 1, "level")?) };
        let (mut wanted, mut draw) = (GradientQuantizer::default(), GradientDraw::default());
        if let Some(options) = options {
            let levels = u8::try_from(options.levels.max(1));
            wanted.levels = levels.map_err(|_| Failure::invalid("levels", "0 to 127", options.levels))?;
            wanted.rounding = match options.rounding {
                HQ_ROUNDING_NEAREST => GradientRounding::Deterministic,
                HQ_ROUNDING_STOCHASTIC => GradientRounding::Stochastic,
                other => return Err(Failure::invalid("rounding", "an HQ_ROUNDING_ constant (0 or 1)", other)),
            };
            wanted.clip_sigma = (options.clip_sigma != 0.0).then_some(options.clip_sigma);
            draw = GradientDraw { seed: options.seed, step: options.step, tensor: options.tensor };
        }
        let size = quantize_gradients(context, &wanted, draw, gradients)?;
        if let Some(level) = level {
            level[0] = size;
        }
        Ok(())
    })
}

/// Chooses a precision for each of `count` parts of a model under a mean budget of bits a weight: least
/// `sum importances * distortion` with every part between `min_bits` and `max_bits`. `elements`: weights of each part;
/// `importances`: what one unit of relative squared error in it costs (0 or more; only ratios count). `precisions` gets
/// HQ_PRECISION_ constants. HQ_INVALID_VALUE: a budget below the smallest precision allowed.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_allocate_bits(
    elements: *const u64,
    importances: *const f64,
    count: usize,
    mean_bits: f64,
    min_bits: f64,
    max_bits: f64,
    precisions: *mut u32,
) -> hq_status {
    guard("hq_allocate_bits", || {
        // SAFETY: as the caller vouches.
        let (elements, importances) =
            unsafe { (input(elements, count, "elements")?, input(importances, count, "importances")?) };
        // SAFETY: as the caller vouches.
        let precisions = unsafe { output(precisions, count, "precisions") }?;
        let unit = |(&elements, &importance)| BitUnit { elements: elements as usize, importance, rows: 0 };
        let units: Vec<BitUnit> = elements.iter().zip(importances).map(unit).collect();
        let found = AdaptiveQuantizer { mean_bits, min_bits, max_bits }.allocate(&units)?;
        precisions.iter_mut().zip(found).for_each(|(number, precision)| *number = number_of(precision));
        Ok(())
    })
}

/// Whether every one of `values` (`len`) is finite: HQ_NOT_FINITE names the first that is not.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_check_finite(values: *const f32, len: usize) -> hq_status {
    // SAFETY: as the caller vouches.
    guard("hq_check_finite", || check_finite(unsafe { input(values, len, "values") }?, "values"))
}
