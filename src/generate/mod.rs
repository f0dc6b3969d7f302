//! Text from a language model: sampling, and streaming that shows whole characters and no stop string.

mod continuation;
mod sampler;
mod seq2seq;
mod stop_filter;

pub use continuation::{Continuation, GenerateOptions, StopReason, generate};
pub use sampler::{Sampler, SamplerOptions};
pub use seq2seq::{BeamOptions, Target, translate};
