//! What a core can do at best: register-only loops and streams, for benchmarks (csrc/README.md, "ceiling").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type Loop = unsafe extern "C" fn(usize, *mut u64);

/// The ceiling family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct CeilingKernels {
    int8: Loop,
    int8_widened: Loop,
    f32: Loop,
    read: unsafe extern "C" fn(*const u8, usize, *mut u64),
    update: unsafe extern "C" fn(*mut u8, usize),
}

impl CeilingKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = CeilingKernels {
            int8: c::hqk_ceiling_int8_portable,
            int8_widened: c::hqk_ceiling_int8_widened_portable,
            f32: c::hqk_ceiling_f32_portable,
            read: c::hqk_ceiling_read_portable,
            update: c::hqk_ceiling_update_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = CeilingKernels {
                int8: c::hqk_ceiling_int8_avx2,
                int8_widened: c::hqk_ceiling_int8_widened_avx2,
                f32: c::hqk_ceiling_f32_avx2,
                read: c::hqk_ceiling_read_avx2,
                update: c::hqk_ceiling_update_avx2,
            };
        }
        #[cfg(hqk_avxvnni)]
        if isa.includes(Isa::AvxVnni) {
            kernels = CeilingKernels {
                int8: c::hqk_ceiling_int8_avxvnni,
                int8_widened: c::hqk_ceiling_int8_widened_avxvnni,
                ..kernels
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = CeilingKernels {
                int8: c::hqk_ceiling_int8_avx512,
                int8_widened: c::hqk_ceiling_int8_widened_avx512,
                f32: c::hqk_ceiling_f32_avx512,
                read: c::hqk_ceiling_read_avx512,
                update: c::hqk_ceiling_update_avx512,
            };
        }
        #[cfg(hqk_avx512vnni)]
        if isa.includes(Isa::Avx512Vnni) {
            kernels = CeilingKernels {
                int8: c::hqk_ceiling_int8_avx512vnni,
                int8_widened: c::hqk_ceiling_int8_widened_avx512vnni,
                ..kernels
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = CeilingKernels {
                int8: c::hqk_ceiling_int8_neon,
                int8_widened: c::hqk_ceiling_int8_widened_neon,
                f32: c::hqk_ceiling_f32_neon,
                read: c::hqk_ceiling_read_neon,
                update: c::hqk_ceiling_update_neon,
            };
        }
        #[cfg(hqk_neondotprod)]
        if isa.includes(Isa::NeonDotprod) {
            kernels = CeilingKernels {
                int8: c::hqk_ceiling_int8_neondotprod,
                int8_widened: c::hqk_ceiling_int8_widened_neondotprod,
                ..kernels
            };
        }
        #[cfg(hqk_neoni8mm)]
        if isa.includes(Isa::NeonI8mm) {
            kernels = CeilingKernels {
                int8: c::hqk_ceiling_int8_neoni8mm,
                int8_widened: c::hqk_ceiling_int8_widened_neoni8mm,
                ..kernels
            };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// Runs `rounds` of int8 products on registers, sums kept as narrow as an exact kernel may for a while (16 bits without
    /// VNNI); gives the operations done, two a product.
    pub fn ceiling_int8(&self, rounds: usize) -> u64 {
        run(self.ceiling.int8, rounds)
    }

    /// As [`KernelTable::ceiling_int8`] with every product widened to 32 bits at once.
    pub fn ceiling_int8_widened(&self, rounds: usize) -> u64 {
        run(self.ceiling.int8_widened, rounds)
    }

    /// Runs `rounds` of f32 multiply-adds on registers (fused where the level has that); gives the operations done.
    pub fn ceiling_f32(&self, rounds: usize) -> u64 {
        run(self.ceiling.f32, rounds)
    }

    /// Reads every byte once; gives a sum of them.
    pub fn ceiling_read(&self, bytes: &[u8]) -> u64 {
        let mut sum = 0;
        // SAFETY: the kernel reads `bytes.len()` bytes and writes one number.
        unsafe { (self.ceiling.read)(bytes.as_ptr(), bytes.len(), &mut sum) };
        sum
    }

    /// Reads and rewrites every byte (of whole 256-byte pieces) with what it was.
    pub fn ceiling_update(&self, bytes: &mut [u8]) {
        // SAFETY: the kernel reads and writes inside `bytes`.
        unsafe { (self.ceiling.update)(bytes.as_mut_ptr(), bytes.len()) };
    }
}

fn run(kernel: Loop, rounds: usize) -> u64 {
    let mut operations = 0;
    // SAFETY: the kernel writes one number.
    unsafe { kernel(rounds, &mut operations) };
    operations
}
