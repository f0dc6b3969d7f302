//! What the int8 Newton-Schulz iteration does between its products (csrc/README.md, "newton_schulz").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type Finish = unsafe extern "C" fn(
    *const f32,
    *const f32,
    *const f32,
    *const f32,
    *const f32,
    f32,
    f32,
    f32,
    usize,
    *mut f32,
    *mut f32,
);
type RoundColumns = unsafe extern "C" fn(*const f32, usize, usize, *const f32, *mut i8);
type AddRows = unsafe extern "C" fn(*const f32, usize, usize, *const f32, *const f32, *mut f32);

/// The family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewtonSchulzKernels {
    finish: Finish,
    round_columns: RoundColumns,
    add_rows: AddRows,
}

impl NewtonSchulzKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = NewtonSchulzKernels {
            finish: c::hqk_newton_schulz_finish_portable,
            round_columns: c::hqk_newton_schulz_round_columns_portable,
            add_rows: c::hqk_newton_schulz_add_rows_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = NewtonSchulzKernels {
                finish: c::hqk_newton_schulz_finish_avx2,
                round_columns: c::hqk_newton_schulz_round_columns_avx2,
                add_rows: c::hqk_newton_schulz_add_rows_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = NewtonSchulzKernels {
                finish: c::hqk_newton_schulz_finish_avx512,
                round_columns: c::hqk_newton_schulz_round_columns_avx512,
                add_rows: c::hqk_newton_schulz_add_rows_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = NewtonSchulzKernels {
                finish: c::hqk_newton_schulz_finish_neon,
                round_columns: c::hqk_newton_schulz_round_columns_neon,
                add_rows: c::hqk_newton_schulz_add_rows_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

/// A symmetric matrix that took part in a product, and its part in the result beside that.
#[derive(Clone, Copy, Debug)]
pub struct SymmetricFactor<'a> {
    /// `[side, side]`, zeros on the diagonal.
    pub off: &'a [f32],
    /// `[side]`.
    pub diagonal: &'a [f32],
    /// How often it is added to the result.
    pub share: f32,
}

impl KernelTable {
    /// Makes a symmetric matrix of integer sums times row scales, of which the lower half is there: times `of_product` and a
    /// scale for each column. With `factors` `a` and `b`, whose parts off the diagonal were multiplied, the result is
    /// `of_product (a b) + a.share a + b.share b` of the whole matrices. Leaves what is off the diagonal in `sums` (zeros on it),
    /// both halves, and the diagonal apart.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn newton_schulz_finish(
        &self,
        scales: &[f32],
        factors: Option<[SymmetricFactor<'_>; 2]>,
        of_product: f32,
        sums: &mut [f32],
        diagonal: &mut [f32],
    ) {
        let side = scales.len();
        assert!(Some(sums.len()) == side.checked_mul(side) && diagonal.len() == side, "newton_schulz_finish: lengths");
        let fits = |factor: &SymmetricFactor| factor.off.len() == side * side && factor.diagonal.len() == side;
        assert!(factors.iter().flatten().all(fits), "newton_schulz_finish: factors");
        let none = std::ptr::null();
        let [(a, a_diagonal, of_a), (b, b_diagonal, of_b)] = match factors {
            Some(factors) => factors.map(|factor| (factor.off.as_ptr(), factor.diagonal.as_ptr(), factor.share)),
            None => [(none, none, 0.0); 2],
        };
        let (scales, sums, diagonal) = (scales.as_ptr(), sums.as_mut_ptr(), diagonal.as_mut_ptr());
        // SAFETY: every matrix holds `side * side` elements and every vector `side`, as checked, or both factors are null.
        unsafe {
            let finish = self.newton_schulz.finish;
            finish(scales, a, a_diagonal, b, b_diagonal, of_product, of_a, of_b, side, sums, diagonal);
        }
    }

    /// `codes[i][j] = rint(x[i][j] / scales[j])`, half to even; zeros where a scale is 0. Under scales smaller than those of
    /// [`KernelTable::column_scales`] the values are any.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn newton_schulz_round_columns(&self, x: &[f32], scales: &[f32], codes: &mut [i8]) {
        let cols = scales.len();
        assert!(x.len() == codes.len() && (x.is_empty() || x.len().is_multiple_of(cols)), "round_columns: lengths");
        let rows = x.len().checked_div(cols).unwrap_or(0);
        // SAFETY: `x` and `codes` hold `rows * cols` elements, as checked.
        unsafe { (self.newton_schulz.round_columns)(x.as_ptr(), rows, cols, scales.as_ptr(), codes.as_mut_ptr()) };
    }

    /// `x[i][j] = x[i][j] * of_x[j] + sums[i][j] * of_sums[j]`.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn newton_schulz_add_rows(&self, sums: &[f32], of_sums: &[f32], of_x: &[f32], x: &mut [f32]) {
        let cols = of_x.len();
        let whole = x.is_empty() || x.len().is_multiple_of(cols);
        assert!(x.len() == sums.len() && of_sums.len() == cols && whole, "add_rows: lengths");
        let rows = x.len().checked_div(cols).unwrap_or(0);
        let (of_sums, of_x) = (of_sums.as_ptr(), of_x.as_ptr());
        // SAFETY: `x` and `sums` hold `rows * cols` elements and both factors `cols`, as checked.
        unsafe { (self.newton_schulz.add_rows)(sums.as_ptr(), rows, cols, of_sums, of_x, x.as_mut_ptr()) };
    }
}
