//! Where work runs: the context with its threads and kernels, and the dispatcher that chooses between them.
//!
//! Every operation of a [`Context`] chooses, call by call: the calling thread or all threads, an instruction set level,
//! and for ternary products whether packed weights are read as they are or unpacked into panels. The choice compares the
//! call's work with thresholds ([`DispatchConfig`]): defaults, or what [`calibrate`] learned on this machine and a cache
//! file keeps ([`cache_path`]). Products of many tokens and nearest centroids may go to a CUDA device as well, where one was
//! learned and the call is worth its copies ([`CudaDevice`]). No choice changes a bit of a result.

mod activation_quant;
mod advice;
mod backend;
mod bf16;
mod cache;
mod calibration;
mod config;
mod context;
mod cuda;
mod cuda_calibration;
#[cfg(test)]
mod cuda_tests;
mod dense;
mod five_level;
mod gguf_ternary;
mod int8;
mod kmeans;
mod lloyd;
mod matvec;
mod metrics;
mod norm;
mod operation;
mod parallel;
mod ternary;
mod ternary_pack;
mod timing;
mod workload;

pub use crate::kernels::StochasticRounding;
pub use activation_quant::Gradient;
pub use backend::Backend;
pub use cache::{CACHE_VARIABLE, CacheKey, ConfigSource, cache_path, load_cached, store_cached};
pub use calibration::{CALIBRATION_PASSES, calibrate};
pub use config::{DispatchConfig, NEVER, Thresholds};
pub use context::{Context, ContextOptions};
pub use cuda::CudaDevice;
pub use int8::Int8Matrix;
pub use lloyd::Lloyd;
pub use metrics::BackendMetrics;
pub use operation::Operation;
pub use ternary_pack::TernaryRepack;
pub use timing::{Caller, Candidate, Comparison, Times};
pub use workload::{Size, Workload};
