//! Dropout (csrc/README.md, "dropout").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type Dropout = unsafe extern "C" fn(*const f32, usize, *const u32, u32, u32, u64, u32, f32, *mut f32);

/// The dropout family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct DropoutKernels {
    dropout: Dropout,
}

impl DropoutKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = DropoutKernels { dropout: c::hqk_dropout_portable };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = DropoutKernels { dropout: c::hqk_dropout_avx2 };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = DropoutKernels { dropout: c::hqk_dropout_avx512 };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = DropoutKernels { dropout: c::hqk_dropout_neon };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Zeroes each element whose draw is below `threshold` and multiplies the others by `factor`. Element `i` has draw
    /// `first + i` of the [`crate::tensor::RandomStream`] with this key, tensor and step.
    ///
    /// # Panics
    /// If the lengths differ or `first` is no multiple of 4.
    #[allow(clippy::too_many_arguments)]
    pub fn dropout(
        &self,
        x: &[f32],
        key: [u32; 2],
        tensor: u32,
        step: u32,
        first: u64,
        threshold: u32,
        factor: f32,
        y: &mut [f32],
    ) {
        assert_eq!(x.len(), y.len(), "dropout: lengths differ");
        assert_eq!(first % 4, 0, "dropout: does not start on a Philox block");
        let (n, key) = (x.len(), key.as_ptr());
        // SAFETY: x and y hold n floats, key two words.
        unsafe { (self.dropout.dropout)(x.as_ptr(), n, key, tensor, step, first, threshold, factor, y.as_mut_ptr()) };
    }
}
