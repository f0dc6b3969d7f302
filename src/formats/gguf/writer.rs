//! Writing: the header first, then tensor after tensor, each made when its turn comes.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::Path;

use super::tensor_type::GgmlType;
use super::value::{GgufValue, encode_string};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, NAME_BYTES, VERSION};
use crate::formats::atomic_write;
use crate::{Error, Result};

/// A tensor to write.
pub struct GgufTensorData<'a> {
    name: String,
    kind: GgmlType,
    shape: Vec<usize>,
    make: Box<dyn Fn() -> Result<Vec<u8>> + 'a>,
}

impl<'a> GgufTensorData<'a> {
    /// A tensor (dimensions outermost first) whose bytes `make` gives: as many as type and shape ask for.
    pub fn new(
        name: impl Into<String>,
        kind: GgmlType,
        shape: &[usize],
        make: impl Fn() -> Result<Vec<u8>> + 'a,
    ) -> Self {
        GgufTensorData { name: name.into(), kind, shape: shape.to_vec(), make: Box::new(make) }
    }

    /// Bytes of the tensor; `None` where rows are not whole blocks, or on overflow.
    fn bytes(&self) -> Option<u64> {
        let row = *self.shape.last()? as u64;
        let elements = self.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64))?;
        let whole = row.is_multiple_of(self.kind.block()) && self.shape.len() <= MAX_DIMENSIONS as usize;
        whole.then(|| (elements / self.kind.block()).checked_mul(self.kind.block_bytes())).flatten()
    }
}

/// Writes metadata and tensors in the order given to `path`, through [`atomic_write`]. Gives the size of the file in
/// bytes. Errors: a name that occurs twice or is too long for ggml, rows that are not whole blocks of the type, `make`'s,
/// the system's.
pub fn write_gguf(
    path: impl AsRef<Path>,
    metadata: &[(String, GgufValue)],
    tensors: &[GgufTensorData<'_>],
) -> Result<u64> {
    let path = path.as_ref();
    let fail = |message: String| Err(Error::format(path, None, message));
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    let mut names = BTreeSet::new();
    for (key, value) in metadata {
        if !names.insert(key.as_str()) || key == ALIGNMENT_KEY {
            return fail(format!("metadata {key:?} is reserved or occurs twice"));
        }
        encode_string(key, &mut header);
        header.extend(value.kind().to_le_bytes());
        value.encode(&mut header);
    }
    names.clear();
    let mut end = 0u64;
    for tensor in tensors {
        let GgufTensorData { name, kind, shape, .. } = tensor;
        if name.len() >= NAME_BYTES || !names.insert(name.as_str()) {
            return fail(format!("tensor name {name:?} is longer than {} bytes or occurs twice", NAME_BYTES - 1));
        }
        let Some(bytes) = tensor.bytes() else {
            return fail(format!("tensor {name:?}: {kind} {shape:?}: rows must be whole blocks of {}", kind.block()));
        };
        encode_string(name, &mut header);
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&size| header.extend((size as u64).to_le_bytes()));
        header.extend(kind.number().to_le_bytes());
        header.extend(end.to_le_bytes());
        end = (end + bytes).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    atomic_write(path, |file| {
        file.write(&header)?;
        for tensor in tensors {
            let bytes = (tensor.make)()?;
            if Some(bytes.len() as u64) != tensor.bytes() {
                let GgufTensorData { name, kind, shape, .. } = tensor;
                return fail(format!("tensor {name:?}: {kind} {shape:?} does not have {} bytes", bytes.len()));
            }
            file.write(&bytes)?;
            let padding = bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize) - bytes.len();
            file.write(&[0; DEFAULT_ALIGNMENT as usize][..padding])?;
        }
        Ok(header.len() as u64 + end)
    })
}
