//! Where work runs: the context with its threads and kernels.

mod context;
mod dense;
mod ternary;

pub use context::{Context, ContextOptions};
