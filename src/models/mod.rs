//! Models: configurations, presets, and the plans they stand for.

mod bart;
mod bart_json;
mod bert;
mod config;
mod config_json;
mod encoder_json;
mod export;
mod files;
mod gated;
mod gguf;
mod head;
mod json_fields;
mod layers;
mod model;
mod packed_file;
mod packed_rows;
mod plain;
mod presets;
mod quantization_json;
mod recurrent;
mod recurrent_json;
mod sharing;

pub use config::{Activation, DecoderSizes, ModelConfig, ModelType, WeightForm};
pub use export::ExportType;
pub use gguf::GgufExportType;
pub use head::{Head, default_labels};
pub use model::Model;
pub use presets::{PRESETS, preset};
pub use sharing::{BlockPart, SharedTensor, Sharing, SharingInfo, SharingRule};
