//! The kernels as their formulas read, in f64 and i64: slow, obvious, the oracle of the tests.
#![forbid(unsafe_code)]

mod five_level;
mod gguf_ternary;
mod ternary;

pub use five_level::*;
pub use gguf_ternary::*;
pub use ternary::*;
