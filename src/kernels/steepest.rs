//! The passes of steepest descent over a block of one tensor (csrc/README.md, "steepest").

use super::adamw::UpdateSums;
use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type Momentum = unsafe extern "C" fn(*const f32, *const f32, usize, f32, f32, *mut f32, *mut f32, *mut f64);
type Sums = unsafe extern "C" fn(*const f32, *const f32, *const f32, usize, *mut f64);
type Apply = unsafe extern "C" fn(*const f32, usize, f32, f32, *mut f32);

/// The steepest-descent family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct SteepestKernels {
    momentum: Momentum,
    sums: Sums,
    apply: Apply,
}

impl SteepestKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = SteepestKernels {
            momentum: c::hqk_steepest_momentum_portable,
            sums: c::hqk_steepest_sums_portable,
            apply: c::hqk_steepest_apply_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = SteepestKernels {
                momentum: c::hqk_steepest_momentum_avx2,
                sums: c::hqk_steepest_sums_avx2,
                apply: c::hqk_steepest_apply_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = SteepestKernels {
                momentum: c::hqk_steepest_momentum_avx512,
                sums: c::hqk_steepest_sums_avx512,
                apply: c::hqk_steepest_apply_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = SteepestKernels {
                momentum: c::hqk_steepest_momentum_neon,
                sums: c::hqk_steepest_sums_neon,
                apply: c::hqk_steepest_apply_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Advances the momentum, `m += new_share (g - m)`, and writes `u = m + lean (m - g)`, which is to be shaped into the
    /// update; `update` holds that of the step before. Gives the sums that the step before has a part in:
    /// `weight_squares` and `gradient_previous`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn steepest_momentum(
        &self,
        gradient: &[f32],
        weight: &[f32],
        (new_share, lean): (f32, f32),
        momentum: &mut [f32],
        update: &mut [f32],
    ) -> UpdateSums {
        let n = gradient.len();
        assert!(weight.len() == n && momentum.len() == n && update.len() == n, "steepest_momentum: lengths differ");
        let mut sums = [0.0; 2];
        let (m, u) = (momentum.as_mut_ptr(), update.as_mut_ptr());
        // SAFETY: all four slices hold `n` floats, the two written ones are borrowed alone; two doubles are written.
        unsafe {
            let (gradient, weight) = (gradient.as_ptr(), weight.as_ptr());
            (self.steepest.momentum)(gradient, weight, n, new_share, lean, m, u, sums.as_mut_ptr());
        }
        UpdateSums { weight_squares: sums[0], gradient_previous: sums[1], ..UpdateSums::default() }
    }

    /// The sums of a shaped update: `update_squares`, `update_weight` and `gradient_update`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn steepest_sums(&self, gradient: &[f32], weight: &[f32], update: &[f32]) -> UpdateSums {
        let n = gradient.len();
        assert!(weight.len() == n && update.len() == n, "steepest_sums: lengths differ");
        let mut sums = [0.0; 3];
        let (g, w, u) = (gradient.as_ptr(), weight.as_ptr(), update.as_ptr());
        // SAFETY: the three slices hold `n` floats; three doubles are written.
        unsafe { (self.steepest.sums)(g, w, u, n, sums.as_mut_ptr()) };
        let [update_squares, update_weight, gradient_update] = sums;
        UpdateSums { update_squares, update_weight, gradient_update, ..UpdateSums::default() }
    }

    /// `weight = weight * keep - rate * update`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn steepest_apply(&self, update: &[f32], keep: f32, rate: f32, weight: &mut [f32]) {
        assert_eq!(weight.len(), update.len(), "steepest_apply: lengths differ");
        // SAFETY: both slices hold as many floats and the written one is borrowed alone.
        unsafe { (self.steepest.apply)(update.as_ptr(), update.len(), keep, rate, weight.as_mut_ptr()) };
    }
}
