//! Five-level weights, {-2, .., 2} in 3 bits (csrc/README.md, "five_level").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// Bytes of a step of the layout: 64 rows x 16 columns.
const STEP_BYTES: usize = 384;

/// Bytes of a five-level matrix `[rows, cols]`: blocks of 64 rows, steps of 16 columns.
pub fn five_level_packed_len(rows: usize, cols: usize) -> usize {
    let steps = rows.div_ceil(64).checked_mul(cols.div_ceil(16));
    steps.and_then(|steps| steps.checked_mul(STEP_BYTES)).expect("five-level matrix larger than the address space")
}

/// The magnitudes between which a level lies: level 0 up to `inner`, level 1 up to `outer`, level 2 beyond.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C)]
pub struct FiveLevelLimits {
    /// The largest magnitude that becomes 0.
    pub inner: f32,
    /// The largest magnitude that becomes 1 (half the scale).
    pub outer: f32,
}

/// The five-level family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct FiveLevelKernels {
    quantize_pack: unsafe extern "C" fn(*const f32, usize, usize, *const f32, usize, *mut u8),
    pack: unsafe extern "C" fn(*const i8, usize, usize, *mut u8),
    unpack: unsafe extern "C" fn(*const u8, usize, usize, *mut i8),
    find_invalid: unsafe extern "C" fn(*const u8, usize, *mut usize),
}

impl FiveLevelKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = FiveLevelKernels {
            quantize_pack: c::hqk_five_level_quantize_pack_portable,
            pack: c::hqk_five_level_pack_portable,
            unpack: c::hqk_five_level_unpack_portable,
            find_invalid: c::hqk_five_level_find_invalid_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = FiveLevelKernels {
                quantize_pack: c::hqk_five_level_quantize_pack_avx2,
                pack: c::hqk_five_level_pack_avx2,
                unpack: c::hqk_five_level_unpack_avx2,
                find_invalid: c::hqk_five_level_find_invalid_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = FiveLevelKernels {
                quantize_pack: c::hqk_five_level_quantize_pack_avx512,
                pack: c::hqk_five_level_pack_avx512,
                unpack: c::hqk_five_level_unpack_avx512,
                find_invalid: c::hqk_five_level_find_invalid_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = FiveLevelKernels {
                quantize_pack: c::hqk_five_level_quantize_pack_neon,
                pack: c::hqk_five_level_pack_neon,
                unpack: c::hqk_five_level_unpack_neon,
                find_invalid: c::hqk_five_level_find_invalid_neon,
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
    assert_eq!(packed, five_level_packed_len(rows, cols), "{what}: length of the packed matrix");
}

impl KernelTable {
    /// Quantizes and packs `weights` `[rows, cols]`: `sign(w)` times the number of limits that `|w|` exceeds (0 for
    /// NaN). `limits`: one pair for the matrix or one a row, not negative.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn five_level_quantize_pack(
        &self,
        weights: &[f32],
        rows: usize,
        cols: usize,
        limits: &[FiveLevelLimits],
        packed: &mut [u8],
    ) {
        check_matrix("five_level_quantize_pack", weights.len(), rows, cols, packed.len());
        assert!(limits.len() == 1 || limits.len() == rows, "five_level_quantize_pack: 1 or {rows} pairs of limits");
        let stride = if limits.len() == 1 { 0 } else { 2 };
        // SAFETY: all lengths were checked above; a pair of limits is two floats.
        unsafe {
            let limits = limits.as_ptr().cast::<f32>();
            (self.five_level.quantize_pack)(weights.as_ptr(), rows, cols, limits, stride, packed.as_mut_ptr());
        }
    }

    /// Packs `levels` `[rows, cols]`; values beyond -2 and 2 count as -2 and 2.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn five_level_pack(&self, levels: &[i8], rows: usize, cols: usize, packed: &mut [u8]) {
        check_matrix("five_level_pack", levels.len(), rows, cols, packed.len());
        // SAFETY: both lengths were checked above.
        unsafe { (self.five_level.pack)(levels.as_ptr(), rows, cols, packed.as_mut_ptr()) };
    }

    /// Unpacks a matrix `[rows, cols]` to -2, .., 2.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn five_level_unpack(&self, packed: &[u8], rows: usize, cols: usize, levels: &mut [i8]) {
        check_matrix("five_level_unpack", levels.len(), rows, cols, packed.len());
        // SAFETY: both lengths were checked above.
        unsafe { (self.five_level.unpack)(packed.as_ptr(), rows, cols, levels.as_mut_ptr()) };
    }

    /// Where the first row of a step lies (its word of low bits) that holds a code above 4, which stands for no level;
    /// `None` if all codes are sound.
    ///
    /// # Panics
    /// If `packed` is not whole steps.
    pub fn five_level_find_invalid(&self, packed: &[u8]) -> Option<usize> {
        assert!(packed.len().is_multiple_of(STEP_BYTES), "five_level_find_invalid: not whole steps");
        let mut first = 0;
        // SAFETY: the slice holds whole steps; one size is written.
        unsafe { (self.five_level.find_invalid)(packed.as_ptr(), packed.len() / STEP_BYTES, &mut first) };
        (first < packed.len()).then_some(first)
    }
}
