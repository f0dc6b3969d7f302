//! Operations, one a file: the layer's forward and backward side by side, and the builder method that adds it.

mod activation;
mod add;
mod attention;
mod classification;
mod cross_entropy;
mod dropout;
mod embedding;
mod first_token;
mod gate;
mod language_model_head;
mod layer_norm;
mod linear;
mod output;
mod position_embedding;
mod quantize_rows;
mod recurrent;
mod rms_norm;
mod rope;
mod row_blocks;

pub use activation::Activation;
pub use add::Add;
pub use attention::{Attention, AttentionShape};
pub use classification::Classification;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use first_token::FirstToken;
pub use gate::Gate;
pub use language_model_head::{HeadPrecision, LanguageModelHead};
pub use layer_norm::LayerNorm;
pub use linear::{GradPrecision, Linear};
pub use output::Output;
pub use position_embedding::PositionEmbedding;
pub use quantize_rows::QuantizeRows;
pub use recurrent::{Cell, Recurrent};
pub use rms_norm::RmsNorm;
pub use rope::{Rope, RopeScaling, RotaryTable};
