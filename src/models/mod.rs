//! Decoder language models: configurations, presets, and the plans they stand for.

mod config;
mod gated;
mod layers;
mod model;
mod plain;
mod presets;

pub use config::{Activation, ModelConfig, ModelType};
pub use model::Model;
pub use presets::{PRESETS, preset};
