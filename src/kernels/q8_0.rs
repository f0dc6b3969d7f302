//! One token times int8 weights in GGUF's blocks (csrc/README.md, "q8_0").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// Elements of a Q8_0 block.
pub const Q8_0_BLOCK: usize = 32;
/// Bytes of a Q8_0 block: a half-precision scale, then the int8 values.
pub const Q8_0_BYTES: usize = 34;

/// The Q8_0 family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Q8Kernels {
    matvec: unsafe extern "C" fn(*const u8, usize, usize, *const i8, *const f32, *mut f32),
}

impl Q8Kernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = Q8Kernels { matvec: c::hqk_q8_0_matvec_portable };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = Q8Kernels { matvec: c::hqk_q8_0_matvec_avx2 };
        }
        #[cfg(hqk_avxvnni)]
        if isa.includes(Isa::AvxVnni) {
            kernels = Q8Kernels { matvec: c::hqk_q8_0_matvec_avxvnni };
        }
        #[cfg(hqk_avx512vnni)]
        if isa.includes(Isa::Avx512Vnni) {
            kernels = Q8Kernels { matvec: c::hqk_q8_0_matvec_avx512vnni };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = Q8Kernels { matvec: c::hqk_q8_0_matvec_neon };
        }
        let _ = (isa, &mut kernels);
        kernels
    }
}

impl KernelTable {
    /// `y[r] = sum_c w[r][c] * x[c]` for a Q8_0 matrix `[y.len(), cols]` and one token of int8 values in -127..127 with a
    /// scale for each 32.
    ///
    /// # Panics
    /// If `cols` is no multiple of 32 or a length does not fit.
    pub fn q8_0_matvec(&self, blocks: &[u8], cols: usize, x: &[i8], x_scales: &[f32], y: &mut [f32]) {
        assert!(cols.is_multiple_of(Q8_0_BLOCK), "q8_0_matvec: {cols} columns are not whole blocks");
        let of_row = cols / Q8_0_BLOCK;
        assert_eq!(Some(blocks.len()), y.len().checked_mul(of_row * Q8_0_BYTES), "q8_0_matvec: length of the matrix");
        assert!(x.len() == cols && x_scales.len() == of_row, "q8_0_matvec: lengths of the token");
        // SAFETY: the lengths were checked.
        unsafe { (self.q8_0.matvec)(blocks.as_ptr(), y.len(), cols, x.as_ptr(), x_scales.as_ptr(), y.as_mut_ptr()) };
    }
}
