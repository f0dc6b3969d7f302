//! Reductions and scaling: sums of absolute values, squares and products in fixed f64 lanes (csrc/README.md, "norm").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// The norm family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormKernels {
    abs_sum: unsafe extern "C" fn(*const f32, usize, *mut f64),
    sum_squares: unsafe extern "C" fn(*const f32, usize, *mut f64),
    abs_and_square_sums: unsafe extern "C" fn(*const f32, usize, *mut f64),
    dot: unsafe extern "C" fn(*const f32, *const f32, usize, *mut f64),
    dot_i8: unsafe extern "C" fn(*const i8, *const f32, usize, *mut f64),
    scale: unsafe extern "C" fn(*mut f32, usize, f32),
}

impl NormKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = NormKernels {
            abs_sum: c::hqk_abs_sum_portable,
            sum_squares: c::hqk_sum_squares_portable,
            abs_and_square_sums: c::hqk_abs_and_square_sums_portable,
            dot: c::hqk_dot_portable,
            dot_i8: c::hqk_dot_i8_portable,
            scale: c::hqk_scale_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = NormKernels {
                abs_sum: c::hqk_abs_sum_avx2,
                sum_squares: c::hqk_sum_squares_avx2,
                abs_and_square_sums: c::hqk_abs_and_square_sums_avx2,
                dot: c::hqk_dot_avx2,
                dot_i8: c::hqk_dot_i8_avx2,
                scale: c::hqk_scale_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = NormKernels {
                abs_sum: c::hqk_abs_sum_avx512,
                sum_squares: c::hqk_sum_squares_avx512,
                abs_and_square_sums: c::hqk_abs_and_square_sums_avx512,
                dot: c::hqk_dot_avx512,
                dot_i8: c::hqk_dot_i8_avx512,
                scale: c::hqk_scale_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = NormKernels {
                abs_sum: c::hqk_abs_sum_neon,
                sum_squares: c::hqk_sum_squares_neon,
                abs_and_square_sums: c::hqk_abs_and_square_sums_neon,
                dot: c::hqk_dot_neon,
                dot_i8: c::hqk_dot_i8_neon,
                scale: c::hqk_scale_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Sum of `|x[i]|` in f64 (16 fixed lanes: the same bits on every ISA).
    pub fn abs_sum(&self, x: &[f32]) -> f64 {
        let mut out = 0.0;
        // SAFETY: the kernel reads `x.len()` floats and writes one double.
        unsafe { (self.norm.abs_sum)(x.as_ptr(), x.len(), &mut out) };
        out
    }

    /// Sum of `x[i]^2` in f64 (16 fixed lanes).
    pub fn sum_squares(&self, x: &[f32]) -> f64 {
        let mut out = 0.0;
        // SAFETY: the kernel reads `x.len()` floats and writes one double.
        unsafe { (self.norm.sum_squares)(x.as_ptr(), x.len(), &mut out) };
        out
    }

    /// Sums of `|x[i]|` and of `x[i]^2` in one read, bit for bit what [`KernelTable::abs_sum`] and
    /// [`KernelTable::sum_squares`] give.
    pub fn abs_and_square_sums(&self, x: &[f32]) -> [f64; 2] {
        let mut out = [0.0; 2];
        // SAFETY: the kernel reads `x.len()` floats and writes two doubles.
        unsafe { (self.norm.abs_and_square_sums)(x.as_ptr(), x.len(), out.as_mut_ptr()) };
        out
    }

    /// Sum of `x[i] * y[i]` in f64 (16 fixed lanes). The slices have equal lengths.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len(), "dot: lengths differ");
        let mut out = 0.0;
        // SAFETY: both slices hold `x.len()` floats; one double is written.
        unsafe { (self.norm.dot)(x.as_ptr(), y.as_ptr(), x.len(), &mut out) };
        out
    }

    /// Sum of `x[i] * y[i]` in f64 (16 fixed lanes, parts of 256 elements added in order).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot_i8(&self, x: &[i8], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len(), "dot_i8: lengths differ");
        let mut out = 0.0;
        // SAFETY: both slices hold `x.len()` elements; one double is written.
        unsafe { (self.norm.dot_i8)(x.as_ptr(), y.as_ptr(), x.len(), &mut out) };
        out
    }

    /// `x[i] *= factor`.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        // SAFETY: the kernel reads and writes `x.len()` floats.
        unsafe { (self.norm.scale)(x.as_mut_ptr(), x.len(), factor) };
    }
}
