//! Models as GGUF files: what llama.cpp runs, and what others made for it.
//!
//! llama.cpp computes each architecture in one way. What it would compute differently is refused at export
//! ([`ModelConfig::llama_cpp_obstacle`]), and metadata that says something unknown about the computation is refused at
//! import.

mod encoder;
mod export;
mod load;
mod metadata;
mod names;
mod obstacle;
mod rope_factors;

pub use export::GgufExportType;
