//! Files: mapped reading, atomic writing, safetensors.

mod atomic_write;
mod inspect;
mod mapped_file;
mod safetensors;

pub use ::safetensors::Dtype;
pub use atomic_write::{AtomicWriter, atomic_write, remove_unfinished};
pub use inspect::{InspectedFile, InspectedTensor, Inspection, inspect};
pub use mapped_file::MappedFile;
pub use safetensors::{Element, SafetensorsFile, SafetensorsFolder, TensorData, TensorEntry, write_safetensors};
