//! The 2-bit layout of ternary weights: quantizing, packing, unpacking, comparing and checking (csrc/README.md,
//! "ternary_pack").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;
use super::ternary::{scale_stride, ternary_packed_len};

type QuantizePack = unsafe extern "C" fn(*const f32, usize, usize, *const f32, usize, *mut u8);
type QuantizePackSum = unsafe extern "C" fn(*const f32, usize, usize, *const f32, usize, *mut u8, *mut f64);

/// The packing family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct TernaryPackKernels {
    pack: unsafe extern "C" fn(*const i8, usize, usize, *mut u8),
    quantize_pack: QuantizePack,
    quantize_pack_sum: QuantizePackSum,
    unpack: unsafe extern "C" fn(*const u8, usize, usize, *mut i8),
    count_changed: unsafe extern "C" fn(*const u8, *const u8, usize, *mut usize),
    count_nonzero: unsafe extern "C" fn(*const u8, usize, *mut usize),
    find_invalid: unsafe extern "C" fn(*const u8, usize, *mut usize),
}

impl TernaryPackKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = TernaryPackKernels {
            pack: c::hqk_ternary_pack_portable,
            quantize_pack: c::hqk_ternary_quantize_pack_portable,
            quantize_pack_sum: c::hqk_ternary_quantize_pack_sum_portable,
            unpack: c::hqk_ternary_unpack_portable,
            count_changed: c::hqk_ternary_count_changed_portable,
            count_nonzero: c::hqk_ternary_count_nonzero_portable,
            find_invalid: c::hqk_ternary_find_invalid_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = TernaryPackKernels {
                pack: c::hqk_ternary_pack_avx2,
                quantize_pack: c::hqk_ternary_quantize_pack_avx2,
                quantize_pack_sum: c::hqk_ternary_quantize_pack_sum_avx2,
                unpack: c::hqk_ternary_unpack_avx2,
                count_changed: c::hqk_ternary_count_changed_avx2,
                count_nonzero: c::hqk_ternary_count_nonzero_avx2,
                find_invalid: c::hqk_ternary_find_invalid_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = TernaryPackKernels {
                pack: c::hqk_ternary_pack_avx512,
                quantize_pack: c::hqk_ternary_quantize_pack_avx512,
                quantize_pack_sum: c::hqk_ternary_quantize_pack_sum_avx512,
                unpack: c::hqk_ternary_unpack_avx512,
                count_changed: c::hqk_ternary_count_changed_avx512,
                count_nonzero: c::hqk_ternary_count_nonzero_avx512,
                find_invalid: c::hqk_ternary_find_invalid_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = TernaryPackKernels {
                pack: c::hqk_ternary_pack_neon,
                quantize_pack: c::hqk_ternary_quantize_pack_neon,
                quantize_pack_sum: c::hqk_ternary_quantize_pack_sum_neon,
                unpack: c::hqk_ternary_unpack_neon,
                count_changed: c::hqk_ternary_count_changed_neon,
                count_nonzero: c::hqk_ternary_count_nonzero_neon,
                find_invalid: c::hqk_ternary_find_invalid_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

/// # Panics
/// If `values` elements are not `rows x cols` or `packed` bytes are not their packed form.
fn check_matrix(what: &str, values: usize, rows: usize, cols: usize, packed: usize) {
    assert_eq!(Some(values), rows.checked_mul(cols), "{what}: values are not {rows} x {cols}");
    assert_eq!(packed, ternary_packed_len(rows, cols), "{what}: length of the packed matrix");
}

impl KernelTable {
    /// Packs `trits` `[rows, cols]` (negative, zero, positive count as -1, 0, 1) into the 2-bit layout.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_pack(&self, trits: &[i8], rows: usize, cols: usize, packed: &mut [u8]) {
        check_matrix("ternary_pack", trits.len(), rows, cols, packed.len());
        // SAFETY: both lengths were checked above.
        unsafe { (self.ternary_pack.pack)(trits.as_ptr(), rows, cols, packed.as_mut_ptr()) };
    }

    /// Quantizes and packs `weights` `[rows, cols]`: `sign(w)` where `|w| > threshold`, else 0 (also for NaN).
    /// `thresholds`: one for the matrix or one a row, not negative.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_quantize_pack(
        &self,
        weights: &[f32],
        rows: usize,
        cols: usize,
        thresholds: &[f32],
        packed: &mut [u8],
    ) {
        check_matrix("ternary_quantize_pack", weights.len(), rows, cols, packed.len());
        let stride = scale_stride("ternary_quantize_pack: thresholds", thresholds, rows);
        // SAFETY: all lengths were checked above.
        unsafe {
            let thresholds = thresholds.as_ptr();
            (self.ternary_pack.quantize_pack)(weights.as_ptr(), rows, cols, thresholds, stride, packed.as_mut_ptr());
        }
    }

    /// As [`KernelTable::ternary_quantize_pack`]; gives the sum of `|w|` over the weights that did not become 0, in f64
    /// (16 fixed lanes: the same bits on every ISA).
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_quantize_pack_sum(
        &self,
        weights: &[f32],
        rows: usize,
        cols: usize,
        thresholds: &[f32],
        packed: &mut [u8],
    ) -> f64 {
        check_matrix("ternary_quantize_pack_sum", weights.len(), rows, cols, packed.len());
        let stride = scale_stride("ternary_quantize_pack_sum: thresholds", thresholds, rows);
        let (weights, limits, packed) = (weights.as_ptr(), thresholds.as_ptr(), packed.as_mut_ptr());
        let mut kept = 0.0;
        // SAFETY: all lengths were checked above; one double is written.
        unsafe { (self.ternary_pack.quantize_pack_sum)(weights, rows, cols, limits, stride, packed, &mut kept) };
        kept
    }

    /// Unpacks a matrix `[rows, cols]` to -1, 0, 1.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_unpack(&self, packed: &[u8], rows: usize, cols: usize, trits: &mut [i8]) {
        check_matrix("ternary_unpack", trits.len(), rows, cols, packed.len());
        // SAFETY: both lengths were checked above.
        unsafe { (self.ternary_pack.unpack)(packed.as_ptr(), rows, cols, trits.as_mut_ptr()) };
    }

    /// Number of weights that differ between two packed matrices of one shape.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn ternary_count_changed(&self, a: &[u8], b: &[u8]) -> usize {
        assert_eq!(a.len(), b.len(), "ternary_count_changed: lengths differ");
        let mut changed = 0;
        // SAFETY: both slices hold `a.len()` bytes; one size is written.
        unsafe { (self.ternary_pack.count_changed)(a.as_ptr(), b.as_ptr(), a.len(), &mut changed) };
        changed
    }

    /// Number of weights in packed bytes that are not zero.
    pub fn ternary_count_nonzero(&self, packed: &[u8]) -> usize {
        let mut nonzero = 0;
        // SAFETY: the slice holds `packed.len()` bytes; one size is written.
        unsafe { (self.ternary_pack.count_nonzero)(packed.as_ptr(), packed.len(), &mut nonzero) };
        nonzero
    }

    /// Where the first byte lies that holds code 3, which stands for no weight; `None` if all bytes are sound.
    pub fn ternary_find_invalid(&self, packed: &[u8]) -> Option<usize> {
        let mut first = 0;
        // SAFETY: the slice holds `packed.len()` bytes; one size is written.
        unsafe { (self.ternary_pack.find_invalid)(packed.as_ptr(), packed.len(), &mut first) };
        (first < packed.len()).then_some(first)
    }
}
