//! One token times ternary weights, straight from a packed layout (csrc/README.md, "matvec").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;
use super::ternary::{Activations, scale_stride, ternary_packed_len};

type Matvec = unsafe extern "C" fn(*const u8, usize, usize, *const i8, f32, i32, *const f32, usize, *mut f32);
type MatvecI32 = unsafe extern "C" fn(*const u8, usize, usize, *const i8, i32, *mut i32);

/// The products of one token of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatvecKernels {
    ternary: Matvec,
    ternary_i32: MatvecI32,
    pack5: Matvec,
    pack5_i32: MatvecI32,
}

impl MatvecKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = MatvecKernels {
            ternary: c::hqk_ternary_matvec_portable,
            ternary_i32: c::hqk_ternary_matvec_i32_portable,
            pack5: c::hqk_pack5_matvec_portable,
            pack5_i32: c::hqk_pack5_matvec_i32_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = MatvecKernels {
                ternary: c::hqk_ternary_matvec_avx2,
                ternary_i32: c::hqk_ternary_matvec_i32_avx2,
                pack5: c::hqk_pack5_matvec_avx2,
                pack5_i32: c::hqk_pack5_matvec_i32_avx2,
            };
        }
        #[cfg(hqk_avxvnni)]
        if isa.includes(Isa::AvxVnni) {
            kernels = MatvecKernels {
                ternary: c::hqk_ternary_matvec_avxvnni,
                ternary_i32: c::hqk_ternary_matvec_i32_avxvnni,
                pack5: c::hqk_pack5_matvec_avxvnni,
                pack5_i32: c::hqk_pack5_matvec_i32_avxvnni,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = MatvecKernels {
                ternary: c::hqk_ternary_matvec_avx512,
                ternary_i32: c::hqk_ternary_matvec_i32_avx512,
                pack5: c::hqk_pack5_matvec_avx512,
                pack5_i32: c::hqk_pack5_matvec_i32_avx512,
            };
        }
        #[cfg(hqk_avx512vnni)]
        if isa.includes(Isa::Avx512Vnni) {
            kernels = MatvecKernels {
                ternary: c::hqk_ternary_matvec_avx512vnni,
                ternary_i32: c::hqk_ternary_matvec_i32_avx512vnni,
                pack5: c::hqk_pack5_matvec_avx512vnni,
                pack5_i32: c::hqk_pack5_matvec_i32_avx512vnni,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = MatvecKernels {
                ternary: c::hqk_ternary_matvec_neon,
                ternary_i32: c::hqk_ternary_matvec_i32_neon,
                pack5: c::hqk_pack5_matvec_neon,
                pack5_i32: c::hqk_pack5_matvec_i32_neon,
            };
        }
        #[cfg(hqk_neondotprod)]
        if isa.includes(Isa::NeonDotprod) {
            kernels = MatvecKernels {
                ternary: c::hqk_ternary_matvec_neondotprod,
                ternary_i32: c::hqk_ternary_matvec_i32_neondotprod,
                pack5: c::hqk_pack5_matvec_neondotprod,
                pack5_i32: c::hqk_pack5_matvec_i32_neondotprod,
            };
        }
        let _ = (isa, &mut kernels);
        kernels
    }
}

impl KernelTable {
    /// One token: `y[r] = (f32)(sum_c w[r][c] * x[c]) * (x_scale * weight_scale[r])`, straight from the packed matrix
    /// `[y.len(), cols]`. `weight_scales`: one, or one a row.
    ///
    /// # Panics
    /// If `x` is not one token of `cols` values or another size does not fit.
    pub fn ternary_matvec(&self, packed: &[u8], cols: usize, x: Activations<'_>, weight_scales: &[f32], y: &mut [f32]) {
        assert_eq!(packed.len(), ternary_packed_len(y.len(), cols), "ternary_matvec: length of the packed matrix");
        run(self.matvec.ternary, packed, cols, x, weight_scales, y);
    }

    /// The integers of [`KernelTable::ternary_matvec`], before scaling (`x.scales` is not read).
    ///
    /// # Panics
    /// If `x` is not one token of `cols` values or another size does not fit.
    pub fn ternary_matvec_i32(&self, packed: &[u8], cols: usize, x: Activations<'_>, y: &mut [i32]) {
        assert_eq!(packed.len(), ternary_packed_len(y.len(), cols), "ternary_matvec_i32: length of the packed matrix");
        run_i32(self.matvec.ternary_i32, packed, cols, x, y);
    }

    /// [`KernelTable::ternary_matvec`] on a matrix at five trits a byte: the same results, bit for bit.
    ///
    /// # Panics
    /// If `x` is not one token of `cols` values or another size does not fit.
    pub fn pack5_matvec(&self, packed: &[u8], cols: usize, x: Activations<'_>, weight_scales: &[f32], y: &mut [f32]) {
        assert_eq!(packed.len(), Self::pack5_bytes(y.len(), cols), "pack5_matvec: length of the packed matrix");
        run(self.matvec.pack5, packed, cols, x, weight_scales, y);
    }

    /// The integers of [`KernelTable::pack5_matvec`], before scaling (`x.scales` is not read).
    ///
    /// # Panics
    /// If `x` is not one token of `cols` values or another size does not fit.
    pub fn pack5_matvec_i32(&self, packed: &[u8], cols: usize, x: Activations<'_>, y: &mut [i32]) {
        assert_eq!(packed.len(), Self::pack5_bytes(y.len(), cols), "pack5_matvec_i32: length of the packed matrix");
        run_i32(self.matvec.pack5_i32, packed, cols, x, y);
    }
}

/// The caller has checked that `packed` is a matrix `[y.len(), cols]` in the layout `kernel` reads.
fn run(kernel: Matvec, packed: &[u8], cols: usize, x: Activations<'_>, weight_scales: &[f32], y: &mut [f32]) {
    x.check(1, cols);
    let stride = scale_stride("matvec: weight scales", weight_scales, y.len());
    let (packed, values, scales) = (packed.as_ptr(), x.values.as_ptr(), weight_scales.as_ptr());
    let (scale, sum) = (x.scales[0], x.sums[0]);
    // SAFETY: all lengths were checked, that of `packed` by the caller.
    unsafe { kernel(packed, y.len(), cols, values, scale, sum, scales, stride, y.as_mut_ptr()) };
}

/// As [`run`].
fn run_i32(kernel: MatvecI32, packed: &[u8], cols: usize, x: Activations<'_>, y: &mut [i32]) {
    x.check(1, cols);
    // SAFETY: all lengths were checked, that of `packed` by the caller.
    unsafe { kernel(packed.as_ptr(), y.len(), cols, x.values.as_ptr(), x.sums[0], y.as_mut_ptr()) };
}
