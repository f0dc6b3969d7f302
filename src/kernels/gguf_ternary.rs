//! GGUF's ternary blocks, TQ1_0 and TQ2_0 (csrc/README.md, "gguf_ternary").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// Values of a block.
pub const GGUF_BLOCK: usize = 256;

/// A ternary block format of GGUF: 256 values under one scale in half precision.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GgufTernary {
    /// Five values a byte: 54 bytes, 1.6875 bits a value.
    Tq1_0,
    /// Four values a byte: 66 bytes, 2.0625 bits a value.
    Tq2_0,
}

impl GgufTernary {
    /// Both formats.
    pub const ALL: [GgufTernary; 2] = [GgufTernary::Tq1_0, GgufTernary::Tq2_0];

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            GgufTernary::Tq1_0 => 54,
            GgufTernary::Tq2_0 => 66,
        }
    }

    /// The name GGUF's tools use.
    pub fn name(self) -> &'static str {
        match self {
            GgufTernary::Tq1_0 => "tq1_0",
            GgufTernary::Tq2_0 => "tq2_0",
        }
    }
}

/// One format of one ISA.
#[derive(Clone, Copy, Debug)]
struct Format {
    quantize: unsafe extern "C" fn(*const f32, usize, *mut u8),
    pack: unsafe extern "C" fn(*const i8, *const f32, usize, usize, *mut u8),
    unpack: unsafe extern "C" fn(*const u8, usize, *mut i8, *mut f32),
    dequantize: unsafe extern "C" fn(*const u8, usize, *mut f32),
}

/// The GGUF block family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct GgufTernaryKernels {
    tq1_0: Format,
    tq2_0: Format,
}

impl GgufTernaryKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = GgufTernaryKernels {
            tq1_0: Format {
                quantize: c::hqk_tq1_0_quantize_portable,
                pack: c::hqk_tq1_0_pack_portable,
                unpack: c::hqk_tq1_0_unpack_portable,
                dequantize: c::hqk_tq1_0_dequantize_portable,
            },
            tq2_0: Format {
                quantize: c::hqk_tq2_0_quantize_portable,
                pack: c::hqk_tq2_0_pack_portable,
                unpack: c::hqk_tq2_0_unpack_portable,
                dequantize: c::hqk_tq2_0_dequantize_portable,
            },
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = GgufTernaryKernels {
                tq1_0: Format {
                    quantize: c::hqk_tq1_0_quantize_avx2,
                    pack: c::hqk_tq1_0_pack_avx2,
                    unpack: c::hqk_tq1_0_unpack_avx2,
                    dequantize: c::hqk_tq1_0_dequantize_avx2,
                },
                tq2_0: Format {
                    quantize: c::hqk_tq2_0_quantize_avx2,
                    pack: c::hqk_tq2_0_pack_avx2,
                    unpack: c::hqk_tq2_0_unpack_avx2,
                    dequantize: c::hqk_tq2_0_dequantize_avx2,
                },
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = GgufTernaryKernels {
                tq1_0: Format {
                    quantize: c::hqk_tq1_0_quantize_avx512,
                    pack: c::hqk_tq1_0_pack_avx512,
                    unpack: c::hqk_tq1_0_unpack_avx512,
                    dequantize: c::hqk_tq1_0_dequantize_avx512,
                },
                tq2_0: Format {
                    quantize: c::hqk_tq2_0_quantize_avx512,
                    pack: c::hqk_tq2_0_pack_avx512,
                    unpack: c::hqk_tq2_0_unpack_avx512,
                    dequantize: c::hqk_tq2_0_dequantize_avx512,
                },
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = GgufTernaryKernels {
                tq1_0: Format {
                    quantize: c::hqk_tq1_0_quantize_neon,
                    pack: c::hqk_tq1_0_pack_neon,
                    unpack: c::hqk_tq1_0_unpack_neon,
                    dequantize: c::hqk_tq1_0_dequantize_neon,
                },
                tq2_0: Format {
                    quantize: c::hqk_tq2_0_quantize_neon,
                    pack: c::hqk_tq2_0_pack_neon,
                    unpack: c::hqk_tq2_0_unpack_neon,
                    dequantize: c::hqk_tq2_0_dequantize_neon,
                },
            };
        }
        let _ = isa;
        kernels
    }

    fn of(&self, format: GgufTernary) -> &Format {
        match format {
            GgufTernary::Tq1_0 => &self.tq1_0,
            GgufTernary::Tq2_0 => &self.tq2_0,
        }
    }
}

/// The number of blocks of `values` values.
///
/// # Panics
/// If they are not whole blocks or `bytes` is not their packed form.
fn blocks_of(what: &str, format: GgufTernary, values: usize, bytes: usize) -> usize {
    assert!(values.is_multiple_of(GGUF_BLOCK), "{what}: {values} values are not whole blocks of {GGUF_BLOCK}");
    let blocks = values / GGUF_BLOCK;
    assert_eq!(bytes, blocks * format.block_bytes(), "{what}: bytes of {blocks} blocks");
    blocks
}

impl KernelTable {
    /// Blocks of 256 floats as llama.cpp quantizes them: `d = max|x|`, `q = round(x / d)`, ties away from zero; `d` is
    /// stored in half precision (infinite above 65,519).
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn gguf_ternary_quantize(&self, format: GgufTernary, x: &[f32], bytes: &mut [u8]) {
        let blocks = blocks_of("gguf_ternary_quantize", format, x.len(), bytes.len());
        // SAFETY: the lengths are `blocks` whole blocks.
        unsafe { (self.gguf_ternary.of(format).quantize)(x.as_ptr(), blocks, bytes.as_mut_ptr()) };
    }

    /// Blocks of 256 values (negative, zero, positive count as -1, 0, 1) under known scales: one for all blocks, or one
    /// a block; rounded to half precision.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn gguf_ternary_pack(&self, format: GgufTernary, trits: &[i8], scales: &[f32], bytes: &mut [u8]) {
        let blocks = blocks_of("gguf_ternary_pack", format, trits.len(), bytes.len());
        assert!(scales.len() == 1 || scales.len() == blocks, "gguf_ternary_pack: 1 or {blocks} scales");
        let (stride, scales) = ((scales.len() != 1) as usize, scales.as_ptr());
        // SAFETY: the lengths are `blocks` whole blocks, and a scale for each or one.
        unsafe { (self.gguf_ternary.of(format).pack)(trits.as_ptr(), scales, stride, blocks, bytes.as_mut_ptr()) };
    }

    /// The trits and scales of blocks. The code 3 of TQ2_0, which stands for no trit, gives 2.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn gguf_ternary_unpack(&self, format: GgufTernary, bytes: &[u8], trits: &mut [i8], scales: &mut [f32]) {
        let blocks = blocks_of("gguf_ternary_unpack", format, trits.len(), bytes.len());
        assert_eq!(scales.len(), blocks, "gguf_ternary_unpack: one scale a block");
        let (trits, scales) = (trits.as_mut_ptr(), scales.as_mut_ptr());
        // SAFETY: the lengths are `blocks` whole blocks.
        unsafe { (self.gguf_ternary.of(format).unpack)(bytes.as_ptr(), blocks, trits, scales) };
    }

    /// The values of blocks, bit for bit what llama.cpp gives.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn gguf_ternary_dequantize(&self, format: GgufTernary, bytes: &[u8], y: &mut [f32]) {
        let blocks = blocks_of("gguf_ternary_dequantize", format, y.len(), bytes.len());
        // SAFETY: the lengths are `blocks` whole blocks.
        unsafe { (self.gguf_ternary.of(format).dequantize)(bytes.as_ptr(), blocks, y.as_mut_ptr()) };
    }
}
