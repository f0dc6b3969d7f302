//! safetensors: eight bytes of header length, a JSON header, raw little-endian tensors
//! (<https://huggingface.co/docs/safetensors>).
//!
//! The wire types are those of the crate `safetensors`. Header and checks are ours: an error must name the file and the
//! tensor, a name given twice must not pass, and the same tensors must give the same bytes (the crate keeps metadata in
//! a hash map).

mod folder;
mod header;
mod packed;
mod reader;
mod writer;

pub use folder::SafetensorsFolder;
pub use packed::{PACKED_KEY, PackedTensor, PackedTensors};
pub use reader::{Element, SafetensorsFile, TensorEntry};
pub use writer::{TensorData, write_safetensors};
