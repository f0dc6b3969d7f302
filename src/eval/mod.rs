//! What a model is worth: tasks and their metrics.

mod language_model;

pub use language_model::{LanguageModelReport, language_model, language_model_bytes};
