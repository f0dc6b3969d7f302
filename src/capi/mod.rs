//! The C library: `include/hybridq.h` is generated from this folder by cbindgen.
//!
//! Every function converts its arguments, calls the Rust API, converts back, and returns an [`hq_status`]. Panics stop
//! at the boundary. Handles carry a tag, so a handle of another type is an error instead of undefined behaviour.
//! Outputs are written on success only, where a function does not say otherwise.
//!
//! # Safety
//! What every function demands of its pointers: an array is valid for as many elements as the arguments say (which
//! arguments: its documentation), an output overlaps no other argument, a string ends with NUL, a handle came from this
//! library and was not freed, a struct has as many bytes as its `struct_size` says, a callback may be called with its user
//! data. NULL is an error where it is not said to be fine.
#![allow(non_camel_case_types)]

mod arguments;
mod boundary;

mod status;

mod context;
mod log;

mod vectors;

mod activation;
mod five_level;
mod gguf_ternary;
mod products;
mod rows;
mod ternary;

mod quantizer;

mod kmeans;

mod clustering;

mod parameters;

mod optimizer;

mod auxiliary;

mod batch;
mod generate;
mod head;
mod model;
mod model_files;

mod decoder;
mod seq2seq;

mod dispatch;

mod gpu;
mod gpu_operations;

mod objective;
mod progress;
mod step_report;
mod trainer;

pub use activation::*;
pub use auxiliary::*;
pub use batch::*;
pub use clustering::*;
pub use context::*;
pub use decoder::*;
pub use dispatch::*;
pub use five_level::*;
pub use generate::*;
pub use gguf_ternary::*;
pub use gpu::*;
pub use gpu_operations::*;
pub use head::*;
pub use kmeans::*;
pub use log::*;
pub use model::*;
pub use model_files::*;
pub use objective::*;
pub use optimizer::*;
pub use parameters::*;
pub use products::*;
pub use progress::*;
pub use quantizer::*;
pub use rows::*;
pub use seq2seq::*;
pub use status::*;
pub use step_report::*;
pub use ternary::*;
pub use trainer::*;
pub use vectors::*;
