//! Moments of optimizers in 16 and 8 bits (csrc/README.md, "state").

use super::activation_quant::StochasticRounding;
use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// The kernels of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateKernels {
    encode_bf16: unsafe extern "C" fn(*const f32, usize, usize, *const u32, *mut u16),
    decode_bf16: unsafe extern "C" fn(*const u16, usize, *mut f32),
    encode_int8: unsafe extern "C" fn(*const f32, usize, usize, *const u32, i32, *mut u8, *mut f32),
    decode_int8: unsafe extern "C" fn(*const u8, *const f32, usize, i32, *mut f32),
}

impl StateKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = StateKernels {
            encode_bf16: c::hqk_state_encode_bf16_portable,
            decode_bf16: c::hqk_state_decode_bf16_portable,
            encode_int8: c::hqk_state_encode_int8_portable,
            decode_int8: c::hqk_state_decode_int8_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = StateKernels {
                encode_bf16: c::hqk_state_encode_bf16_avx2,
                decode_bf16: c::hqk_state_decode_bf16_avx2,
                encode_int8: c::hqk_state_encode_int8_avx2,
                decode_int8: c::hqk_state_decode_int8_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = StateKernels {
                encode_bf16: c::hqk_state_encode_bf16_avx512,
                decode_bf16: c::hqk_state_decode_bf16_avx512,
                encode_int8: c::hqk_state_encode_int8_avx512,
                decode_int8: c::hqk_state_decode_int8_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = StateKernels {
                encode_bf16: c::hqk_state_encode_bf16_neon,
                decode_bf16: c::hqk_state_decode_bf16_neon,
                encode_int8: c::hqk_state_encode_int8_neon,
                decode_int8: c::hqk_state_decode_int8_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Elements that share a maximum in 8 bits.
    pub const STATE_BLOCK: usize = 256;
    /// Elements of a group of random bits: a part of a tensor begins at a multiple of it.
    pub const STATE_GROUP: usize = 128;

    /// `x` as bf16 bits, rounded stochastically. `first_group`: where `x` begins in its tensor, in groups.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn state_encode_bf16(&self, x: &[f32], first_group: usize, rounding: StochasticRounding, values: &mut [u16]) {
        assert_eq!(x.len(), values.len(), "state_encode_bf16: lengths differ");
        let draws = rounding.draws();
        // SAFETY: both slices hold as many elements, the written one is borrowed alone; `draws` holds four words.
        unsafe { (self.state.encode_bf16)(x.as_ptr(), x.len(), first_group, draws.as_ptr(), values.as_mut_ptr()) };
    }

    /// The f32 of bf16 bits.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn state_decode_bf16(&self, values: &[u16], x: &mut [f32]) {
        assert_eq!(x.len(), values.len(), "state_decode_bf16: lengths differ");
        // SAFETY: both slices hold as many elements, the written one is borrowed alone.
        unsafe { (self.state.decode_bf16)(values.as_ptr(), x.len(), x.as_mut_ptr()) };
    }

    /// `x` in 8 bits, rounded stochastically, with a maximum for each block. `first_group` as for bf16; a part of a tensor
    /// begins at a whole block.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn state_encode_int8(
        &self,
        x: &[f32],
        first_group: usize,
        rounding: StochasticRounding,
        is_signed: bool,
        codes: &mut [u8],
        maxima: &mut [f32],
    ) {
        let (n, draws) = (x.len(), rounding.draws());
        assert!(codes.len() == n && maxima.len() == n.div_ceil(Self::STATE_BLOCK), "state_encode_int8: lengths differ");
        let (codes, maxima) = (codes.as_mut_ptr(), maxima.as_mut_ptr());
        // SAFETY: as many codes as elements and a maximum for each block, as checked; `draws` holds four words.
        unsafe {
            (self.state.encode_int8)(x.as_ptr(), n, first_group, draws.as_ptr(), i32::from(is_signed), codes, maxima);
        }
    }

    /// What codes of [`KernelTable::state_encode_int8`] stand for.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn state_decode_int8(&self, codes: &[u8], maxima: &[f32], is_signed: bool, x: &mut [f32]) {
        let n = x.len();
        assert!(codes.len() == n && maxima.len() == n.div_ceil(Self::STATE_BLOCK), "state_decode_int8: lengths differ");
        // SAFETY: as many codes as elements and a maximum for each block, as checked.
        unsafe {
            (self.state.decode_int8)(codes.as_ptr(), maxima.as_ptr(), n, i32::from(is_signed), x.as_mut_ptr());
        }
    }
}
