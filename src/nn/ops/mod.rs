//! Operations, one a file: the layer's forward and backward side by side, and the builder method that adds it.

mod add;
mod linear;

pub use add::Add;
pub use linear::GradPrecision;
