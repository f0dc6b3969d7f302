//! The two passes of SGD with momentum over a block of one tensor (csrc/README.md, "sgd").

use super::adamw::UpdateSums;
use super::bindings as c;
pub use super::bindings::hqk_sgd_settings as SgdSettings;
use super::isa::Isa;
use super::table::KernelTable;

type Velocity = unsafe extern "C" fn(*const f32, *const f32, usize, *const SgdSettings, *mut f32, *mut f64);
type Apply = unsafe extern "C" fn(*const f32, *const f32, usize, *const SgdSettings, f32, *mut f32);

/// The SGD family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct SgdKernels {
    velocity: Velocity,
    apply: Apply,
}

impl SgdKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = SgdKernels { velocity: c::hqk_sgd_velocity_portable, apply: c::hqk_sgd_apply_portable };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = SgdKernels { velocity: c::hqk_sgd_velocity_avx2, apply: c::hqk_sgd_apply_avx2 };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = SgdKernels { velocity: c::hqk_sgd_velocity_avx512, apply: c::hqk_sgd_apply_avx512 };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = SgdKernels { velocity: c::hqk_sgd_velocity_neon, apply: c::hqk_sgd_apply_neon };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Pass 1: `velocity = momentum * velocity + gradient + weight_decay * weight`; returns the sums of the new update.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn sgd_velocity(
        &self,
        gradient: &[f32],
        weight: &[f32],
        settings: &SgdSettings,
        velocity: &mut [f32],
    ) -> UpdateSums {
        let n = gradient.len();
        assert!(weight.len() == n && velocity.len() == n, "sgd_velocity: lengths differ");
        let mut sums = [0.0; 5];
        let (g, w, v) = (gradient.as_ptr(), weight.as_ptr(), velocity.as_mut_ptr());
        // SAFETY: the three slices hold `n` floats, the written one is borrowed alone; five doubles are written.
        unsafe { (self.sgd.velocity)(g, w, n, settings, v, sums.as_mut_ptr()) };
        UpdateSums::from_array(sums)
    }

    /// Pass 2: `weight -= rate * update`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn sgd_apply(&self, gradient: &[f32], velocity: &[f32], settings: &SgdSettings, rate: f32, weight: &mut [f32]) {
        let n = weight.len();
        assert!(gradient.len() == n && velocity.len() == n, "sgd_apply: lengths differ");
        // SAFETY: the three slices hold `n` floats and the written one is borrowed alone.
        unsafe {
            (self.sgd.apply)(gradient.as_ptr(), velocity.as_ptr(), n, settings, rate, weight.as_mut_ptr());
        }
    }
}
