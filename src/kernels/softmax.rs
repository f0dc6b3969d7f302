//! Cross entropy, row by row (csrc/README.md, "softmax").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type CrossEntropy = unsafe extern "C" fn(*mut f32, usize, usize, *const u32, f32, *mut f32);
type Losses = unsafe extern "C" fn(*const f32, usize, usize, *const u32, *mut f32);

/// The softmax family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct SoftmaxKernels {
    cross_entropy_rows: CrossEntropy,
    cross_entropy_losses_rows: Losses,
}

impl SoftmaxKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = SoftmaxKernels {
            cross_entropy_rows: c::hqk_cross_entropy_rows_portable,
            cross_entropy_losses_rows: c::hqk_cross_entropy_losses_rows_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = SoftmaxKernels {
                cross_entropy_rows: c::hqk_cross_entropy_rows_avx2,
                cross_entropy_losses_rows: c::hqk_cross_entropy_losses_rows_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = SoftmaxKernels {
                cross_entropy_rows: c::hqk_cross_entropy_rows_avx512,
                cross_entropy_losses_rows: c::hqk_cross_entropy_losses_rows_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = SoftmaxKernels {
                cross_entropy_rows: c::hqk_cross_entropy_rows_neon,
                cross_entropy_losses_rows: c::hqk_cross_entropy_losses_rows_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Cross entropy in nats of each row of `vocabulary` logits against its target; the logits become the gradient
    /// `(softmax - onehot) * gradient_scale`.
    ///
    /// # Panics
    /// If lengths do not fit together or a target is not below `vocabulary`.
    pub fn cross_entropy_rows(
        &self,
        logits: &mut [f32],
        vocabulary: usize,
        targets: &[u32],
        losses: &mut [f32],
        gradient_scale: f32,
    ) {
        check_targets(logits.len(), vocabulary, targets, losses.len());
        let (rows, targets, losses) = (targets.len(), targets.as_ptr(), losses.as_mut_ptr());
        let kernel = self.softmax.cross_entropy_rows;
        // SAFETY: lengths and targets were checked.
        unsafe { kernel(logits.as_mut_ptr(), rows, vocabulary, targets, gradient_scale, losses) };
    }

    /// The losses of [`KernelTable::cross_entropy_rows`], bit for bit, leaving the logits alone.
    ///
    /// # Panics
    /// If lengths do not fit together or a target is not below `vocabulary`.
    pub fn cross_entropy_losses_rows(&self, logits: &[f32], vocabulary: usize, targets: &[u32], losses: &mut [f32]) {
        check_targets(logits.len(), vocabulary, targets, losses.len());
        let (rows, targets, losses) = (targets.len(), targets.as_ptr(), losses.as_mut_ptr());
        // SAFETY: lengths and targets were checked.
        unsafe { (self.softmax.cross_entropy_losses_rows)(logits.as_ptr(), rows, vocabulary, targets, losses) };
    }
}

fn check_targets(logits: usize, vocabulary: usize, targets: &[u32], losses: usize) {
    assert_eq!(logits, targets.len() * vocabulary, "cross_entropy_rows: logits are not targets x vocabulary");
    assert_eq!(losses, targets.len(), "cross_entropy_rows: losses have not one element a target");
    for &target in targets {
        assert!((target as usize) < vocabulary, "cross_entropy_rows: target {target} of {vocabulary}");
    }
}
