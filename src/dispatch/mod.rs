//! Where work runs: the context with its threads and kernels.

mod context;
mod dense;

pub use context::{Context, ContextOptions};
