//! Files: mapped reading, atomic writing, safetensors, GGUF.

mod atomic_write;
mod gguf;
mod inspect;
mod mapped_file;
mod safetensors;

pub use ::safetensors::Dtype;
pub use atomic_write::{AtomicWriter, atomic_write, remove_unfinished};
pub use gguf::{GgmlType, GgufArray, GgufFile, GgufTensor, GgufTensorData, GgufValue, q8_0_bytes, write_gguf};
pub use inspect::{InspectedFile, InspectedTensor, Inspection, inspect};
pub use mapped_file::MappedFile;
pub use safetensors::{
    Element, PACKED_KEY, PackedTensor, PackedTensors, SafetensorsFile, SafetensorsFolder, TensorData, TensorEntry,
    write_safetensors,
};
