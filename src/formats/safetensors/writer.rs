//! Writing: the header first, then tensor after tensor straight from the caller's memory.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::header::{Header, tensor_bytes};
use super::reader::Element;
use crate::formats::atomic_write;
use crate::{Error, Result};

/// A tensor to write: borrowed, or made when its turn comes, so writing a model needs no second copy of it.
pub struct TensorData<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    content: Content<'a>,
}

enum Content<'a> {
    Borrowed(&'a [u8]),
    Made(Box<dyn Fn() -> Vec<u8> + 'a>),
}

impl<'a> TensorData<'a> {
    /// A tensor of plain elements (`f32`, `u8`, `i8`, `u32` ...), row-major.
    pub fn new<T: Element>(name: impl Into<String>, shape: &[usize], elements: &'a [T]) -> Self {
        TensorData::raw(name, T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A tensor of any type from its little-endian bytes.
    pub fn raw(name: impl Into<String>, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Self {
        TensorData { name: name.into(), dtype, shape: shape.to_vec(), content: Content::Borrowed(bytes) }
    }

    /// A tensor whose little-endian bytes `make` gives: as many as type and shape ask for.
    pub fn made(name: impl Into<String>, dtype: Dtype, shape: &[usize], make: impl Fn() -> Vec<u8> + 'a) -> Self {
        TensorData { name: name.into(), dtype, shape: shape.to_vec(), content: Content::Made(Box::new(make)) }
    }
}

/// Writes `tensors` with `metadata` to `path`, through [`atomic_write`]. Gives the size of the file in bytes.
///
/// Tensors are stored by falling element size (so that each is aligned), those of one size in the order given; the same
/// input gives the same bytes. Errors: a name that occurs twice or is reserved, a shape that does not fit its data, the
/// system's.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    metadata: &BTreeMap<String, String>,
    tensors: &[TensorData<'_>],
) -> Result<u64> {
    let path = path.as_ref();
    let mut sorted: Vec<&TensorData<'_>> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bitsize()));
    let mut header = Header { metadata: metadata.clone(), tensors: Vec::with_capacity(sorted.len()) };
    let mut end = 0;
    for tensor in &sorted {
        let start = end;
        let mut info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (0, 0) };
        let size = tensor_bytes(&info);
        if let Content::Borrowed(bytes) = &tensor.content
            && size != Some(bytes.len())
        {
            return Err(misfit(path, tensor, bytes.len()));
        }
        end += size.ok_or_else(|| misfit(path, tensor, 0))?;
        info.data_offsets = (start, end);
        header.tensors.push((tensor.name.clone(), info));
    }
    check_names(path, &header)?;
    let encoded = header.encode(path)?;
    atomic_write(path, |file| {
        file.write(&encoded)?;
        for (tensor, (_, info)) in sorted.iter().zip(&header.tensors) {
            match &tensor.content {
                Content::Borrowed(bytes) => file.write(bytes)?,
                Content::Made(make) => {
                    let bytes = make();
                    if bytes.len() != info.data_offsets.1 - info.data_offsets.0 {
                        return Err(misfit(path, tensor, bytes.len()));
                    }
                    file.write(&bytes)?;
                }
            }
        }
        Ok(())
    })?;
    Ok((encoded.len() + end) as u64)
}

fn misfit(path: &Path, tensor: &TensorData<'_>, found: usize) -> Error {
    let TensorData { name, dtype, shape, .. } = tensor;
    Error::format(path, None, format!("tensor {name:?}: {dtype} {shape:?} does not have {found} bytes"))
}

fn check_names(path: &Path, header: &Header) -> Result<()> {
    let mut names: Vec<&str> = header.tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    let reserved = names.iter().copied().find(|name| *name == super::header::METADATA_KEY);
    match twice.or(reserved) {
        Some(name) => Err(Error::format(path, None, format!("tensor name {name:?} is reserved or occurs twice"))),
        None => Ok(()),
    }
}
