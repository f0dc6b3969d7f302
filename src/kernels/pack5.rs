//! Ternary weights at five trits a byte (csrc/README.md, "five trits a byte").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// The five-trits-a-byte family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pack5Kernels {
    pack: unsafe extern "C" fn(*const i8, usize, usize, *mut u8),
    unpack: unsafe extern "C" fn(*const u8, usize, usize, *mut i8),
}

impl Pack5Kernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = Pack5Kernels { pack: c::hqk_pack5_portable, unpack: c::hqk_unpack5_portable };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = Pack5Kernels { pack: c::hqk_pack5_avx2, unpack: c::hqk_unpack5_avx2 };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = Pack5Kernels { pack: c::hqk_pack5_neon, unpack: c::hqk_unpack5_neon };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Bytes of a `rows x cols` matrix at five trits a byte.
    pub fn pack5_bytes(rows: usize, cols: usize) -> usize {
        rows.div_ceil(64) * cols.div_ceil(20) * 256
    }

    /// Packs `trits` `[rows, cols]` (negative, zero, positive count as -1, 0, 1).
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn pack5(&self, trits: &[i8], rows: usize, cols: usize, packed: &mut [u8]) {
        assert!(trits.len() == rows * cols && packed.len() == Self::pack5_bytes(rows, cols), "pack5: lengths");
        // SAFETY: the lengths were checked.
        unsafe { (self.pack5.pack)(trits.as_ptr(), rows, cols, packed.as_mut_ptr()) };
    }

    /// The trits `[rows, cols]` of `packed`; any byte decodes to trits.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn unpack5(&self, packed: &[u8], rows: usize, cols: usize, trits: &mut [i8]) {
        assert!(trits.len() == rows * cols && packed.len() == Self::pack5_bytes(rows, cols), "unpack5: lengths");
        // SAFETY: the lengths were checked.
        unsafe { (self.pack5.unpack)(packed.as_ptr(), rows, cols, trits.as_mut_ptr()) };
    }
}
