//! The two passes of AdamW over a block of one tensor (csrc/README.md, "adamw").

use super::bindings as c;
pub use super::bindings::hqk_adamw_settings as AdamWSettings;
use super::isa::Isa;
use super::table::KernelTable;

/// Sums over a block that an optimizer's first pass gathers, each in 16 fixed f64 lanes. `update` is the step for a
/// learning rate of 1, before decoupled weight decay.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct UpdateSums {
    /// `<update, update>`.
    pub update_squares: f64,
    /// `<weight, weight>`.
    pub weight_squares: f64,
    /// `<update, weight>`.
    pub update_weight: f64,
    /// `<gradient, update>`.
    pub gradient_update: f64,
    /// `<gradient, update of the step before>`: minus the hypergradient of the learning rate.
    pub gradient_previous: f64,
}

impl UpdateSums {
    pub(super) fn from_array(sums: [f64; 5]) -> Self {
        let [update_squares, weight_squares, update_weight, gradient_update, gradient_previous] = sums;
        UpdateSums { update_squares, weight_squares, update_weight, gradient_update, gradient_previous }
    }
}

impl std::ops::AddAssign for UpdateSums {
    fn add_assign(&mut self, other: Self) {
        self.update_squares += other.update_squares;
        self.weight_squares += other.weight_squares;
        self.update_weight += other.update_weight;
        self.gradient_update += other.gradient_update;
        self.gradient_previous += other.gradient_previous;
    }
}

type Moments = unsafe extern "C" fn(*const f32, *const f32, usize, *const AdamWSettings, *mut f32, *mut f32, *mut f64);
type Apply = unsafe extern "C" fn(*const f32, *const f32, *const f32, usize, *const AdamWSettings, f32, f32, *mut f32);

/// The AdamW family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdamWKernels {
    moments: Moments,
    apply: Apply,
}

impl AdamWKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = AdamWKernels { moments: c::hqk_adamw_moments_portable, apply: c::hqk_adamw_apply_portable };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = AdamWKernels { moments: c::hqk_adamw_moments_avx2, apply: c::hqk_adamw_apply_avx2 };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = AdamWKernels { moments: c::hqk_adamw_moments_avx512, apply: c::hqk_adamw_apply_avx512 };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = AdamWKernels { moments: c::hqk_adamw_moments_neon, apply: c::hqk_adamw_apply_neon };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Pass 1: advances both moments by `gradient` and returns the sums of the new update.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn adamw_moments(
        &self,
        gradient: &[f32],
        weight: &[f32],
        settings: &AdamWSettings,
        first_moment: &mut [f32],
        second_moment: &mut [f32],
    ) -> UpdateSums {
        let n = gradient.len();
        assert!(
            weight.len() == n && first_moment.len() == n && second_moment.len() == n,
            "adamw_moments: lengths differ"
        );
        let mut sums = [0.0; 5];
        let (m, v) = (first_moment.as_mut_ptr(), second_moment.as_mut_ptr());
        // SAFETY: all four slices hold `n` floats, the two written ones are borrowed alone; five doubles are written.
        unsafe { (self.adamw.moments)(gradient.as_ptr(), weight.as_ptr(), n, settings, m, v, sums.as_mut_ptr()) };
        UpdateSums::from_array(sums)
    }

    /// Pass 2: `weight = weight * keep - rate * update`.
    ///
    /// # Panics
    /// If the lengths differ.
    #[allow(clippy::too_many_arguments)] // the kernel's own list
    pub fn adamw_apply(
        &self,
        gradient: &[f32],
        first_moment: &[f32],
        second_moment: &[f32],
        settings: &AdamWSettings,
        keep: f32,
        rate: f32,
        weight: &mut [f32],
    ) {
        let n = weight.len();
        assert!(
            gradient.len() == n && first_moment.len() == n && second_moment.len() == n,
            "adamw_apply: lengths differ"
        );
        let (g, m, v) = (gradient.as_ptr(), first_moment.as_ptr(), second_moment.as_ptr());
        // SAFETY: all four slices hold `n` floats and the written one is borrowed alone.
        unsafe { (self.adamw.apply)(g, m, v, n, settings, keep, rate, weight.as_mut_ptr()) };
    }
}
