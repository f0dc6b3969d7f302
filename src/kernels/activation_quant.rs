//! Quantization of float rows to int8, deterministic and stochastic (csrc/README.md, "activation_quant").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// The random stream that stochastic rounding draws from: a rounding is a function of this, the row and the column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StochasticRounding {
    /// Philox key of (seed, purpose).
    pub key: [u32; 2],
    /// Step of the run.
    pub step: u32,
    /// Number of the tensor within the step.
    pub tensor: u32,
}

impl StochasticRounding {
    pub(super) fn draws(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.tensor, self.step]
    }
}

type Gradient = unsafe extern "C" fn(
    *const f32,
    usize,
    usize,
    usize,
    usize,
    *const f32,
    *const f32,
    *const f32,
    *const f32,
    *const u32,
    *mut i8,
    *mut i8,
    *mut i32,
);

/// The activation quantization family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActivationQuantKernels {
    rows: unsafe extern "C" fn(*const f32, usize, usize, *mut i8, *mut f32, *mut i32),
    rows_stochastic: unsafe extern "C" fn(*const f32, usize, usize, usize, *const u32, *mut i8, *mut f32, *mut i32),
    column_scales: unsafe extern "C" fn(*const f32, usize, usize, usize, *const f32, *mut f32),
    columns_stochastic:
        unsafe extern "C" fn(*const f32, usize, usize, usize, *const f32, *const f32, *const u32, *mut i8),
    gradient_maxima: unsafe extern "C" fn(*const f32, usize, usize, *const f32, *const f32, *mut f32, *mut f32),
    gradient: Gradient,
}

impl ActivationQuantKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = ActivationQuantKernels {
            rows: c::hqk_quantize_rows_portable,
            rows_stochastic: c::hqk_quantize_rows_stochastic_portable,
            column_scales: c::hqk_column_scales_portable,
            columns_stochastic: c::hqk_quantize_columns_stochastic_portable,
            gradient_maxima: c::hqk_gradient_maxima_portable,
            gradient: c::hqk_quantize_gradient_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = ActivationQuantKernels {
                rows: c::hqk_quantize_rows_avx2,
                rows_stochastic: c::hqk_quantize_rows_stochastic_avx2,
                column_scales: c::hqk_column_scales_avx2,
                columns_stochastic: c::hqk_quantize_columns_stochastic_avx2,
                gradient_maxima: c::hqk_gradient_maxima_avx2,
                gradient: c::hqk_quantize_gradient_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = ActivationQuantKernels {
                rows: c::hqk_quantize_rows_avx512,
                rows_stochastic: c::hqk_quantize_rows_stochastic_avx512,
                column_scales: c::hqk_column_scales_avx512,
                columns_stochastic: c::hqk_quantize_columns_stochastic_avx512,
                gradient_maxima: c::hqk_gradient_maxima_avx512,
                gradient: c::hqk_quantize_gradient_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = ActivationQuantKernels {
                rows: c::hqk_quantize_rows_neon,
                rows_stochastic: c::hqk_quantize_rows_stochastic_neon,
                column_scales: c::hqk_column_scales_neon,
                columns_stochastic: c::hqk_quantize_columns_stochastic_neon,
                gradient_maxima: c::hqk_gradient_maxima_neon,
                gradient: c::hqk_quantize_gradient_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Rows of `width` floats to int8 with one scale a row: `a = max(max|x|, 1e-5)`, value `rint(x * (127 / a))`, scale
    /// `a / 127`; `sums` takes each row's sum of values. A row with NaN or infinity gets the scale NaN and zeros.
    ///
    /// # Panics
    /// If the lengths do not fit `scales.len()` rows of `width`.
    pub fn quantize_rows(&self, x: &[f32], width: usize, values: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        let rows = scales.len();
        assert!(
            Some(x.len()) == rows.checked_mul(width) && values.len() == x.len() && sums.len() == rows,
            "quantize_rows: lengths"
        );
        // SAFETY: the lengths were checked; the kernel reads and writes `rows * width` elements and `rows` scales, sums.
        unsafe {
            let (scales, sums) = (scales.as_mut_ptr(), sums.as_mut_ptr());
            (self.activation_quant.rows)(x.as_ptr(), rows, width, values.as_mut_ptr(), scales, sums);
        }
    }

    /// As [`KernelTable::quantize_rows`] with unbiased stochastic rounding, and no floor under `a` (rows below 2^-100
    /// become zero with scale 0): for gradients. `first_row` is the number of the first row in the whole matrix.
    ///
    /// # Panics
    /// If the lengths do not fit `scales.len()` rows of `width`.
    #[allow(clippy::too_many_arguments)]
    pub fn quantize_rows_stochastic(
        &self,
        x: &[f32],
        width: usize,
        first_row: usize,
        rounding: StochasticRounding,
        values: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i32],
    ) {
        let rows = scales.len();
        assert!(
            Some(x.len()) == rows.checked_mul(width) && values.len() == x.len() && sums.len() == rows,
            "quantize_rows_stochastic: lengths"
        );
        let draws = rounding.draws();
        // SAFETY: as in `quantize_rows`; `draws` holds four words.
        unsafe {
            (self.activation_quant.rows_stochastic)(
                x.as_ptr(),
                rows,
                width,
                first_row,
                draws.as_ptr(),
                values.as_mut_ptr(),
                scales.as_mut_ptr(),
                sums.as_mut_ptr(),
            );
        }
    }

    /// `scales[c] = max over t of |x[t][c] * row_factors[t]| / 127` for `scales.len()` columns of a matrix with `stride`
    /// elements from row to row; 0 below 2^-100, NaN where a product is not finite.
    ///
    /// # Panics
    /// If `x` is too short for `row_factors.len()` rows.
    pub fn column_scales(&self, x: &[f32], stride: usize, row_factors: &[f32], scales: &mut [f32]) {
        let (rows, width) = (row_factors.len(), scales.len());
        let needed = rows.saturating_sub(1).checked_mul(stride).and_then(|start| start.checked_add(width));
        let fits = rows == 0 || needed.is_some_and(|needed| x.len() >= needed);
        assert!(width <= stride && fits, "column_scales: lengths");
        // SAFETY: `x` holds `rows` rows of `width` elements at `stride`, as checked.
        unsafe {
            let scales = scales.as_mut_ptr();
            (self.activation_quant.column_scales)(x.as_ptr(), rows, width, stride, row_factors.as_ptr(), scales);
        }
    }

    /// `values[t][c]` = stochastic rounding of `x[t][c] * row_factors[t] / scales[c]`; zeros where a scale is 0 or NaN.
    ///
    /// # Panics
    /// If the lengths do not fit `row_factors.len()` rows of `scales.len()`.
    pub fn quantize_columns_stochastic(
        &self,
        x: &[f32],
        first_row: usize,
        row_factors: &[f32],
        scales: &[f32],
        rounding: StochasticRounding,
        values: &mut [i8],
    ) {
        let (rows, width) = (row_factors.len(), scales.len());
        assert!(
            Some(x.len()) == rows.checked_mul(width) && values.len() == x.len(),
            "quantize_columns_stochastic: lengths"
        );
        let draws = rounding.draws();
        // SAFETY: the lengths were checked; `draws` holds four words.
        unsafe {
            (self.activation_quant.columns_stochastic)(
                x.as_ptr(),
                rows,
                width,
                first_row,
                row_factors.as_ptr(),
                scales.as_ptr(),
                draws.as_ptr(),
                values.as_mut_ptr(),
            );
        }
    }

    /// Largest magnitudes of a gradient `[row_factors.len(), column_factors.len()]`: of each row of `x[t][c] *
    /// column_factors[c]`, and of each column of `x[t][c] * row_factors[t]`; not finite where an element is not. Both in
    /// one read; [`KernelTable::gradient_scale`] makes scales of them.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn gradient_maxima(
        &self,
        x: &[f32],
        row_factors: &[f32],
        column_factors: &[f32],
        row_maxima: &mut [f32],
        column_maxima: &mut [f32],
    ) {
        let (rows, width) = (row_factors.len(), column_factors.len());
        assert!(
            Some(x.len()) == rows.checked_mul(width) && row_maxima.len() == rows && column_maxima.len() == width,
            "gradient_maxima: lengths"
        );
        // SAFETY: the lengths were checked.
        unsafe {
            let (row_maxima, column_maxima) = (row_maxima.as_mut_ptr(), column_maxima.as_mut_ptr());
            let factors = (row_factors.as_ptr(), column_factors.as_ptr());
            let maxima = self.activation_quant.gradient_maxima;
            maxima(x.as_ptr(), rows, width, factors.0, factors.1, row_maxima, column_maxima);
        }
    }

    /// The scale of a row or column whose largest magnitude is `max`, as [`KernelTable::column_scales`] gives it.
    pub fn gradient_scale(max: f32) -> f32 {
        match max {
            max if !max.is_finite() => f32::NAN,
            max if max < f32::from_bits((127 - 100) << 23) => 0.0,
            max => max / 127.0,
        }
    }

    /// Columns of a gradient rounded stochastically twice in one read: `by_row[t][c]` from `x[t][c] * column_factors[c] /
    /// row_scales[t]`, with `sums` of each row's values, and `by_column[t][c]` from `x[t][c] * row_factors[t] /
    /// column_scales[c]`; zeros where a scale is 0 or NaN. Both roundings of an element take the same random bits: each is
    /// unbiased. Scales must be those of the maxima; values under smaller ones are any.
    ///
    /// `x` begins at row `place.0` and column `place.1`, a multiple of 128, of a gradient of width `stride`; it has
    /// `row_factors.len()` rows, of which `column_factors.len()` columns are meant.
    ///
    /// # Panics
    /// If the lengths do not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn quantize_gradient(
        &self,
        x: &[f32],
        stride: usize,
        place: (usize, usize),
        row_factors: &[f32],
        column_factors: &[f32],
        row_scales: &[f32],
        column_scales: &[f32],
        rounding: StochasticRounding,
        by_row: &mut [i8],
        by_column: &mut [i8],
        sums: &mut [i32],
    ) {
        let (rows, width) = (row_factors.len(), column_factors.len());
        let needed = rows.saturating_sub(1).checked_mul(stride).and_then(|start| start.checked_add(width));
        let fits = rows == 0 || needed.is_some_and(|needed| x.len() >= needed);
        assert!(
            fits && place.1.is_multiple_of(128)
                && place.1.checked_add(width).is_some_and(|end| end <= stride)
                && [by_row.len(), by_column.len()] == [rows * width; 2]
                && [row_scales.len(), sums.len(), column_scales.len()] == [rows, rows, width],
            "quantize_gradient: lengths"
        );
        let (draws, first_group) = (rounding.draws(), place.0 * stride.div_ceil(128) + place.1 / 128);
        // SAFETY: the lengths were checked; `draws` holds four words.
        unsafe {
            (self.activation_quant.gradient)(
                x.as_ptr(),
                rows,
                width,
                stride,
                first_group,
                row_factors.as_ptr(),
                column_factors.as_ptr(),
                row_scales.as_ptr(),
                column_scales.as_ptr(),
                draws.as_ptr(),
                by_row.as_mut_ptr(),
                by_column.as_mut_ptr(),
                sums.as_mut_ptr(),
            );
        }
    }
}
