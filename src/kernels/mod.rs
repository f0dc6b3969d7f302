//! Safe wrappers over the C kernels in `csrc`: every wrapper checks sizes, then calls through a [`KernelTable`].
//!
//! A table holds one version of each kernel. [`KernelTable::best`] is the fastest this CPU runs, capped by the
//! environment variable `HYBRIDQ_ISA`; [`KernelTable::available`] lists all of them, for tests and benchmarks.
//! All `unsafe` of the CPU kernels is in this folder.

mod adamw;
#[rustfmt::skip]
#[allow(dead_code, missing_docs)] // a version no ISA has written is declared all the same
mod bindings;
mod dense;
mod isa;
mod norm;
mod sgd;
mod table;

pub use adamw::{AdamWSettings, UpdateSums};
pub use dense::{DenseMatrix, dense_matmul};
pub use isa::Isa;
pub use sgd::SgdSettings;
pub use table::KernelTable;
