//! Decoder language models: configurations, presets, and the plans they stand for.

mod config;
mod model;
mod presets;

pub use config::{Activation, ModelConfig, ModelType};
pub use model::Model;
pub use presets::{PRESETS, preset};
