//! Operations, one a file: the layer's forward and backward side by side, and the builder method that adds it.

mod add;

pub use add::Add;
