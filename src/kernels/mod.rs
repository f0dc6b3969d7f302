//! Safe wrappers over the C kernels in `csrc`: every wrapper checks sizes, then calls through a [`KernelTable`].
//!
//! A table holds one version of each kernel. [`KernelTable::best`] is the fastest this CPU runs, capped by the
//! environment variable `HYBRIDQ_ISA`; [`KernelTable::available`] lists all of them, for tests and benchmarks.
//! All `unsafe` of the CPU kernels is in this folder.

mod activation;
mod activation_quant;
mod adamw;
mod attention;
mod bf16;
#[rustfmt::skip]
#[allow(dead_code, missing_docs)] // a version no ISA has written is declared all the same
mod bindings;
mod ceiling;
mod dense;
mod dropout;
mod five_level;
mod gguf_ternary;
mod int8;
mod isa;
mod kmeans;
mod matrix_mut;
mod matvec;
mod newton_schulz;
mod norm;
mod optimizer_state;
mod pack5;
mod q8_0;
pub mod reference;
mod row_norm;
mod sgd;
mod softmax;
mod steepest;
mod table;
mod ternary;
mod ternary_pack;

pub use activation_quant::StochasticRounding;
pub use adamw::{AdamWSettings, UpdateSums};
pub use attention::{HeadRows, HeadShape, ProbabilityDropout};
pub use bf16::Bf16Panels;
pub use dense::{DenseMatrix, dense_matmul, dense_packing_bytes};
pub use five_level::{FiveLevelLimits, five_level_packed_len};
pub use gguf_ternary::{GGUF_BLOCK, GgufTernary};
pub use int8::Int8Panels;
pub use isa::Isa;
pub use kmeans::{DistanceBounds, MAX_GROUPS, NO_LABEL, PackedCentroids};
pub use matrix_mut::MatrixMut;
pub use newton_schulz::SymmetricFactor;
pub use q8_0::{Q8_0_BLOCK, Q8_0_BYTES};
pub use sgd::SgdSettings;
pub use table::{KernelFamily, KernelTable};
pub use ternary::{Activations, TERNARY_BLOCK_ROWS, TERNARY_MAX_K, panels_len, ternary_block_len, ternary_packed_len};
