//! GGUF, the file format of llama.cpp: a header of typed metadata and tensor descriptions, then aligned tensors
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). Versions 2 and 3, little-endian.

mod cursor;
mod floats;
mod reader;
mod tensor_type;
mod value;
mod writer;

pub use floats::q8_0_bytes;
pub use reader::{GgufFile, GgufTensor};
pub use tensor_type::GgmlType;
pub use value::{GgufArray, GgufValue};
pub use writer::{GgufTensorData, write_gguf};

/// First bytes of a file.
const MAGIC: [u8; 4] = *b"GGUF";
/// The version written; the one before differs in nothing that is read here.
const VERSION: u32 = 3;
/// The key that sets the tensors' alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment where no key sets it.
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml has at most this many dimensions.
const MAX_DIMENSIONS: u32 = 4;
/// ggml's names are shorter than this.
const NAME_BYTES: usize = 64;
