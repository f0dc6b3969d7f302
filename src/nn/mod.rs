//! Neural networks as plans: parameters in a store, operations over buffer ids, an executor that walks them.
//!
//! A model is a list of [`Operation`]s over [`ParamId`]s and [`BufferId`]s. The [`Executor`] walks the list forward
//! and back. Every buffer is written by exactly one operation, so lifetimes are known before the first step and the
//! memory of a step is planned once.

mod buffers;
mod executor;
mod key_value_cache;
mod numbers;
pub mod ops;
mod param_store;
mod plan;
mod quantize;
mod schedule;
mod workspace;

pub use buffers::Buffers;
pub use executor::{AttentionWeights, Batch, Executor, GradientErrors, IGNORED, Mode, Pass, StepRandomness};
pub use key_value_cache::KeyValueCache;
pub use numbers::KeptPrecision;
pub use ops::{GradPrecision, HeadPrecision};
pub use param_store::{Init, ParamId, ParamKind, ParamSpec, ParamStore, Precision};
pub use plan::{BufferId, BufferKind, BufferSpec, Operation, Plan, PlanBuilder, Products, Rows, Scratch};
pub use quantize::QuantizeReport;
pub use workspace::Workspace;
