//! Where work runs: the context with its threads and kernels.

mod activation_quant;
mod context;
mod dense;
mod five_level;
mod gguf_ternary;
mod int8;
mod kmeans;
mod lloyd;
mod matvec;
mod norm;
mod ternary;
mod ternary_pack;

pub use crate::kernels::StochasticRounding;
pub use context::{Context, ContextOptions};
pub use lloyd::Lloyd;
pub use ternary_pack::TernaryRepack;
