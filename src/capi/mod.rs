//! The C library: `include/hybridq.h` is generated from this folder by cbindgen.
//!
//! Every function converts its arguments, calls the Rust API, converts back, and returns an [`hq_status`]. Panics stop
//! at the boundary. Handles carry a tag, so a handle of another type is an error instead of undefined behaviour.
//! Outputs are written on success only.
#![allow(non_camel_case_types)]

mod boundary;
mod context;
mod kmeans;
mod quantizer;
mod status;
mod ternary;
mod trainer;
mod vectors;

pub use context::*;
pub use kmeans::*;
pub use quantizer::*;
pub use status::*;
pub use ternary::*;
pub use trainer::*;
pub use vectors::*;
