//! Operations, one a file: the layer's forward and backward side by side, and the builder method that adds it.

mod activation;
mod add;
mod dropout;
mod gate;
mod layer_norm;
mod linear;
mod rms_norm;
mod row_blocks;

pub use activation::Activation;
pub use add::Add;
pub use dropout::Dropout;
pub use gate::Gate;
pub use layer_norm::LayerNorm;
pub use linear::GradPrecision;
pub use rms_norm::RmsNorm;
