//! The kernels as their formulas read, in f64 and i64: slow, obvious, the oracle of the tests.
#![forbid(unsafe_code)]

mod ternary;

pub use ternary::*;
