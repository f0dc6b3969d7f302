//! Train, fine-tune, evaluate and run ternary (1.58-bit) language models on the hardware people own.
//!
//! The modules form floors; a file imports from lower floors only (`tests/layering.rs` proves it):
//!
//! | floor | modules |
//! |---|---|
//! | 1 | [`kernels`]: safe wrappers over the hand-written C kernels; [`gpu`]: NVIDIA GPUs |
//! | 2 | [`tensor`]: aligned buffers, random numbers; [`dispatch`]: threads and backends |
//! | 3 | [`quant`], [`cluster`], [`formats`] |
//! | 4 | [`nn`]: parameters, operations, plans, the executor |
//! | 5 | [`models`], [`optim`], [`data`], [`generate`] |
//! | 6 | [`eval`] |
//! | 7 | [`train`] |
//! | 8 | [`capi`] and the program `hybridq` |
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod capi;
pub mod cluster;
pub mod data;
pub mod dispatch;
mod error;
pub mod eval;
pub mod formats;
pub mod generate;
pub mod gpu;
pub mod kernels;
pub mod models;
pub mod nn;
pub mod optim;
pub mod quant;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};

/// The README's Rust code runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
