//! Instruction set levels: names, detection, order.
#![forbid(unsafe_code)]

use crate::{Error, Result};

/// An instruction set level a kernel can be written for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// Plain C11, on every machine.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// AVX2 with 256-bit VEX `vpdpbusd`.
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX-512 with `vpdpbusd`.
    Avx512Vnni,
    /// AVX-512 with `vpdpbusd` and `vdpbf16ps`.
    Avx512Bf16,
    /// aarch64 NEON.
    Neon,
    /// NEON with `sdot`.
    #[serde(rename = "neon-dotprod")]
    NeonDotprod,
    /// NEON with `smmla`.
    #[serde(rename = "neon-i8mm")]
    NeonI8mm,
}

impl Isa {
    /// All levels, weakest first.
    pub const ALL: [Isa; 9] = [
        Isa::Portable,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Bf16,
        Isa::Neon,
        Isa::NeonDotprod,
        Isa::NeonI8mm,
    ];

    /// The name used in `HYBRIDQ_ISA`, file names and logs.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::NeonI8mm => "neon-i8mm",
        }
    }

    /// The level called `name`.
    pub fn from_name(name: &str) -> Result<Self> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<_> = Isa::ALL.iter().map(|isa| isa.name()).collect();
            Error::invalid("HYBRIDQ_ISA", format!("one of {}", names.join("|")), name)
        })
    }

    /// Whether this CPU runs the level (nothing is said about the build: see [`Isa::is_built`]).
    pub fn is_supported_by_cpu(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("popcnt");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match self {
                Isa::Portable => true,
                Isa::Avx2 => avx2,
                Isa::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
                Isa::Avx512 => avx512,
                Isa::Avx512Vnni => avx512 && is_x86_feature_detected!("avx512vnni"),
                Isa::Avx512Bf16 => {
                    avx512 && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bf16")
                }
                _ => false,
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected;
            match self {
                Isa::Portable | Isa::Neon => true,
                Isa::NeonDotprod => is_aarch64_feature_detected!("dotprod"),
                Isa::NeonI8mm => is_aarch64_feature_detected!("dotprod") && is_aarch64_feature_detected!("i8mm"),
                _ => false,
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Isa::Portable
        }
    }

    /// Whether kernels for the level were compiled into this build.
    pub fn is_built(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => cfg!(hqk_avx2),
            Isa::AvxVnni => cfg!(hqk_avxvnni),
            Isa::Avx512 => cfg!(hqk_avx512),
            Isa::Avx512Vnni => cfg!(hqk_avx512vnni),
            Isa::Avx512Bf16 => cfg!(hqk_avx512bf16),
            Isa::Neon => cfg!(hqk_neon),
            Isa::NeonDotprod => cfg!(hqk_neondotprod),
            Isa::NeonI8mm => cfg!(hqk_neoni8mm),
        }
    }

    /// Whether a table capped at `self` may use kernels of `lower`.
    pub fn includes(self, lower: Isa) -> bool {
        let chain: &[Isa] = match self {
            Isa::Portable => &[Isa::Portable],
            Isa::Avx2 => &[Isa::Portable, Isa::Avx2],
            Isa::AvxVnni => &[Isa::Portable, Isa::Avx2, Isa::AvxVnni],
            Isa::Avx512 => &[Isa::Portable, Isa::Avx2, Isa::Avx512],
            Isa::Avx512Vnni => &[Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni],
            Isa::Avx512Bf16 => &[Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni, Isa::Avx512Bf16],
            Isa::Neon => &[Isa::Portable, Isa::Neon],
            Isa::NeonDotprod => &[Isa::Portable, Isa::Neon, Isa::NeonDotprod],
            Isa::NeonI8mm => &[Isa::Portable, Isa::Neon, Isa::NeonDotprod, Isa::NeonI8mm],
        };
        chain.contains(&lower)
    }
}
