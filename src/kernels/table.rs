//! The kernel table: one version of each kernel, filled from the portable one upwards.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use super::activation::ActivationKernels;
use super::activation_quant::ActivationQuantKernels;
use super::adamw::AdamWKernels;
use super::attention::AttentionKernels;
use super::bf16::Bf16Kernels;
use super::ceiling::CeilingKernels;
use super::dropout::DropoutKernels;
use super::five_level::FiveLevelKernels;
use super::gguf_ternary::GgufTernaryKernels;
use super::int8::Int8Kernels;
use super::isa::Isa;
use super::kmeans::KMeansKernels;
use super::matvec::MatvecKernels;
use super::newton_schulz::NewtonSchulzKernels;
use super::norm::NormKernels;
use super::optimizer_state::StateKernels;
use super::pack5::Pack5Kernels;
use super::q8_0::Q8Kernels;
use super::row_norm::RowNormKernels;
use super::sgd::SgdKernels;
use super::softmax::SoftmaxKernels;
use super::steepest::SteepestKernels;
use super::ternary::TernaryKernels;
use super::ternary_pack::TernaryPackKernels;
use crate::{Error, Result};

/// One version of every kernel, chosen for an instruction set level. Where a level has no version of its own, the
/// next lower one serves.
#[derive(Debug)]
pub struct KernelTable {
    isa: Isa,
    pub(super) activation: ActivationKernels,
    pub(super) adamw: AdamWKernels,
    pub(super) attention: AttentionKernels,
    pub(super) activation_quant: ActivationQuantKernels,
    pub(super) bf16: Bf16Kernels,
    pub(super) ceiling: CeilingKernels,
    pub(super) dropout: DropoutKernels,
    pub(super) five_level: FiveLevelKernels,
    pub(super) gguf_ternary: GgufTernaryKernels,
    pub(super) newton_schulz: NewtonSchulzKernels,
    pub(super) norm: NormKernels,
    pub(super) row_norm: RowNormKernels,
    pub(super) int8: Int8Kernels,
    pub(super) kmeans: KMeansKernels,
    pub(super) matvec: MatvecKernels,
    pub(super) pack5: Pack5Kernels,
    pub(super) q8_0: Q8Kernels,
    pub(super) sgd: SgdKernels,
    pub(super) steepest: SteepestKernels,
    pub(super) state: StateKernels,
    pub(super) ternary: TernaryKernels,
    pub(super) ternary_pack: TernaryPackKernels,
    pub(super) softmax: SoftmaxKernels,
}

/// The families whose level the dispatcher may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelFamily {
    /// Floats to int8.
    ActivationQuant,
    /// int8 x int8 products.
    Int8,
    /// Nearest centroids and sums.
    KMeans,
    /// Sums and scaling.
    Norm,
    /// Packing and unpacking of five levels.
    FiveLevel,
    /// GGUF's ternary blocks.
    GgufTernary,
    /// Packed ternary weights times many tokens.
    Ternary,
    /// Packing and unpacking of ternary weights.
    TernaryPack,
    /// Packed ternary weights times one token.
    Matvec,
}

impl KernelTable {
    /// Whether both tables hold the very same kernels of a family: then there is nothing to choose.
    pub fn shares_kernels(&self, other: &KernelTable, family: KernelFamily) -> bool {
        // Functions print as their addresses.
        let addresses = |table: &KernelTable| match family {
            KernelFamily::ActivationQuant => format!("{:?}", table.activation_quant),
            KernelFamily::Int8 => format!("{:?}", table.int8),
            KernelFamily::KMeans => format!("{:?}", table.kmeans),
            KernelFamily::Norm => format!("{:?}", table.norm),
            KernelFamily::FiveLevel => format!("{:?}", table.five_level),
            KernelFamily::GgufTernary => format!("{:?}", table.gguf_ternary),
            KernelFamily::Ternary => format!("{:?}", table.ternary),
            KernelFamily::TernaryPack => format!("{:?}", (table.ternary_pack, table.pack5)),
            KernelFamily::Matvec => format!("{:?}", table.matvec),
        };
        addresses(self) == addresses(other)
    }

    /// The table for `isa`; an error if this CPU or this build lacks it (never a silent fall-back).
    pub fn for_isa(isa: Isa) -> Result<&'static KernelTable> {
        Self::available().iter().find(|table| table.isa == isa).ok_or_else(|| {
            let names: Vec<_> = Self::available().iter().map(|table| table.isa.name()).collect();
            let expected = format!("a level of this CPU and build ({})", names.join(", "));
            Error::invalid("HYBRIDQ_ISA", expected, isa.name())
        })
    }

    /// The best table of this CPU and build, or the one `HYBRIDQ_ISA` names.
    pub fn best() -> Result<&'static KernelTable> {
        match std::env::var("HYBRIDQ_ISA") {
            Ok(name) if !name.is_empty() => Self::for_isa(Isa::from_name(&name)?),
            _ => Ok(Self::available().last().expect("the portable table is always there")),
        }
    }

    /// Every table this CPU and build can run, weakest first. Always begins with the portable one.
    pub fn available() -> &'static [KernelTable] {
        static TABLES: OnceLock<Vec<KernelTable>> = OnceLock::new();
        TABLES.get_or_init(|| {
            Isa::ALL
                .into_iter()
                .filter(|isa| isa.is_built() && isa.is_supported_by_cpu())
                .map(KernelTable::fill)
                .collect()
        })
    }

    /// The level this table was filled for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn fill(isa: Isa) -> Self {
        KernelTable {
            isa,
            activation_quant: ActivationQuantKernels::for_isa(isa),
            activation: ActivationKernels::for_isa(isa),
            adamw: AdamWKernels::for_isa(isa),
            attention: AttentionKernels::for_isa(isa),
            bf16: Bf16Kernels::for_isa(isa),
            ceiling: CeilingKernels::for_isa(isa),
            dropout: DropoutKernels::for_isa(isa),
            five_level: FiveLevelKernels::for_isa(isa),
            gguf_ternary: GgufTernaryKernels::for_isa(isa),
            newton_schulz: NewtonSchulzKernels::for_isa(isa),
            norm: NormKernels::for_isa(isa),
            row_norm: RowNormKernels::for_isa(isa),
            int8: Int8Kernels::for_isa(isa),
            kmeans: KMeansKernels::for_isa(isa),
            matvec: MatvecKernels::for_isa(isa),
            pack5: Pack5Kernels::for_isa(isa),
            q8_0: Q8Kernels::for_isa(isa),
            sgd: SgdKernels::for_isa(isa),
            steepest: SteepestKernels::for_isa(isa),
            state: StateKernels::for_isa(isa),
            ternary: TernaryKernels::for_isa(isa),
            ternary_pack: TernaryPackKernels::for_isa(isa),
            softmax: SoftmaxKernels::for_isa(isa),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_levels_are_available() {
        let required = std::env::var("HYBRIDQ_REQUIRE").unwrap_or_default();
        for isa in required.split(',').filter_map(|name| Isa::from_name(name).ok()) {
            assert!(KernelTable::for_isa(isa).is_ok(), "HYBRIDQ_REQUIRE names {}, not available", isa.name());
        }
    }
}
