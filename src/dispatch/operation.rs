//! The operations whose backend is chosen call by call.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::kernels::KernelFamily;

/// An operation of a [`super::Context`] that has several backends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Floats to int8, one scale a row.
    QuantizeRows,
    /// The same with stochastic rounding.
    QuantizeRowsStochastic,
    /// Floats to int8, one scale a column, stochastic rounding.
    QuantizeColumnsStochastic,
    /// Dense f32 product.
    DenseMatmul,
    /// int8 x int8 summed over tokens.
    Int8Matmul,
    /// Nearest centroids.
    KmeansAssign,
    /// Nearest centroids and the sums of their points: an iteration of Lloyd's.
    KmeansIteration,
    /// Sums of absolute values, squares, products.
    Norm,
    /// Scaling in place.
    Scale,
    /// Floats to packed weights: ternary, five-level, GGUF's blocks.
    TernaryQuantizePack,
    /// Trits or levels to packed weights.
    TernaryPack,
    /// Packed weights to trits or levels.
    TernaryUnpack,
    /// Ternary weights times one token.
    TernaryMatvec,
    /// Ternary weights times several tokens.
    TernaryMatmul,
    /// The transposed product.
    TernaryMatmulTransposed,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Operation; 15] = [
        Operation::QuantizeRows,
        Operation::QuantizeRowsStochastic,
        Operation::QuantizeColumnsStochastic,
        Operation::DenseMatmul,
        Operation::Int8Matmul,
        Operation::KmeansAssign,
        Operation::KmeansIteration,
        Operation::Norm,
        Operation::Scale,
        Operation::TernaryQuantizePack,
        Operation::TernaryPack,
        Operation::TernaryUnpack,
        Operation::TernaryMatvec,
        Operation::TernaryMatmul,
        Operation::TernaryMatmulTransposed,
    ];

    /// Its name in configurations, metrics and the C library.
    pub fn name(self) -> &'static str {
        match self {
            Operation::QuantizeRows => "quantize_rows",
            Operation::QuantizeRowsStochastic => "quantize_rows_stochastic",
            Operation::QuantizeColumnsStochastic => "quantize_columns_stochastic",
            Operation::DenseMatmul => "dense_matmul",
            Operation::Int8Matmul => "int8_matmul",
            Operation::KmeansAssign => "kmeans_assign",
            Operation::KmeansIteration => "kmeans_iteration",
            Operation::Norm => "norm",
            Operation::Scale => "scale",
            Operation::TernaryQuantizePack => "ternary_quantize_pack",
            Operation::TernaryPack => "ternary_pack",
            Operation::TernaryUnpack => "ternary_unpack",
            Operation::TernaryMatvec => "ternary_matvec",
            Operation::TernaryMatmul => "ternary_matmul",
            Operation::TernaryMatmulTransposed => "ternary_matmul_transposed",
        }
    }

    /// The operation called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Operation::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// What its work is counted in; see [`Size::work`](super::Size::work) for what int8 products and k-means count beside it.
    pub fn unit(self) -> &'static str {
        if self.multiplies() { "multiply-adds" } else { "elements" }
    }

    /// Whether its work is counted in multiply-adds rather than in elements.
    pub(super) fn multiplies(self) -> bool {
        matches!(
            self,
            Operation::DenseMatmul
                | Operation::Int8Matmul
                | Operation::KmeansAssign
                | Operation::KmeansIteration
                | Operation::TernaryMatvec
                | Operation::TernaryMatmul
                | Operation::TernaryMatmulTransposed
        )
    }

    /// Work below which a call stays on the calling thread unless a configuration says otherwise: about what a core with
    /// AVX-512 does in the twenty microseconds below which sharing it with another one, which takes ten, does not pay.
    pub fn default_serial_below(self) -> u64 {
        match self {
            Operation::QuantizeRowsStochastic | Operation::QuantizeColumnsStochastic => 1 << 15,
            Operation::QuantizeRows | Operation::Norm | Operation::Scale | Operation::TernaryQuantizePack => 1 << 18,
            Operation::TernaryPack | Operation::TernaryUnpack => 1 << 20,
            Operation::KmeansAssign | Operation::KmeansIteration => 1 << 20,
            Operation::DenseMatmul => 1 << 21,
            Operation::Int8Matmul | Operation::TernaryMatmul | Operation::TernaryMatmulTransposed => 1 << 22,
            Operation::TernaryMatvec => 1 << 23,
        }
    }

    /// The kernels it runs on; None for the dense product, which is not ours.
    pub fn family(self) -> Option<KernelFamily> {
        Some(match self {
            Operation::QuantizeRows | Operation::QuantizeRowsStochastic | Operation::QuantizeColumnsStochastic => {
                KernelFamily::ActivationQuant
            }
            Operation::DenseMatmul => return None,
            Operation::Int8Matmul => KernelFamily::Int8,
            Operation::KmeansAssign | Operation::KmeansIteration => KernelFamily::KMeans,
            Operation::Norm | Operation::Scale => KernelFamily::Norm,
            Operation::TernaryQuantizePack | Operation::TernaryPack | Operation::TernaryUnpack => {
                KernelFamily::TernaryPack
            }
            Operation::TernaryMatvec => KernelFamily::Matvec,
            Operation::TernaryMatmul | Operation::TernaryMatmulTransposed => KernelFamily::Ternary,
        })
    }
}
