//! Reading tensors in place.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;

use super::header::Header;
use crate::formats::MappedFile;
use crate::{Error, Result};

/// A tensor of a file: what its header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorEntry {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; none for a scalar.
    pub shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub range: Range<usize>,
}

impl TensorEntry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }
}

/// An open safetensors file. The header was checked: every tensor lies inside the file and has the bytes its shape asks
/// for; names are unique. Tensor data is not read before it is asked for.
#[derive(Debug)]
pub struct SafetensorsFile {
    file: MappedFile,
    metadata: BTreeMap<String, String>,
    tensors: Vec<TensorEntry>,
    by_name: BTreeMap<String, usize>,
}

impl AsRef<[u8]> for SafetensorsFile {
    fn as_ref(&self) -> &[u8] {
        self.file.bytes()
    }
}

impl SafetensorsFile {
    /// Opens and checks `path`. Errors name the file, the byte offset and the tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let (header, data_start) = Header::parse(file.path(), file.bytes())?;
        let entry = |(name, info): (String, safetensors::tensor::TensorInfo)| TensorEntry {
            name,
            dtype: info.dtype,
            shape: info.shape,
            range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        };
        let tensors: Vec<TensorEntry> = header.tensors.into_iter().map(entry).collect();
        let by_name = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Ok(SafetensorsFile { file, metadata: header.metadata, tensors, by_name })
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.bytes().len() as u64
    }

    /// The string metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&TensorEntry> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// The tensor called `name`. Error: there is none.
    pub fn tensor(&self, name: &str) -> Result<&TensorEntry> {
        self.find(name).ok_or_else(|| self.error(name, "missing"))
    }

    /// The raw bytes of a tensor. Error: there is none of this name.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(self.bytes_of(self.tensor(name)?))
    }

    fn bytes_of(&self, tensor: &TensorEntry) -> &[u8] {
        &self.file.bytes()[tensor.range.clone()]
    }

    /// The elements as `T` (`u8`, `i8`, `u32`, `f32` ...): in place where their address allows it, else copied. Errors:
    /// no tensor of this name, another element type, another shape.
    pub fn elements<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [T]>> {
        let tensor = self.tensor(name)?;
        if tensor.dtype != T::DTYPE {
            return Err(self.error(name, &format!("expected {}, found {}", T::DTYPE, tensor.dtype)));
        }
        self.check_shape(tensor, shape)?;
        Ok(cast(self.bytes_of(tensor)))
    }

    /// Converts a tensor of F32, F16, BF16 or F64 (rounded to nearest) to f32 into `out`. Errors: no tensor of this name,
    /// another shape, another element type.
    ///
    /// # Panics
    /// If `out` does not have as many elements as `shape`.
    pub fn read_f32(&self, name: &str, shape: &[usize], out: &mut [f32]) -> Result<()> {
        let tensor = self.tensor(name)?;
        self.check_shape(tensor, shape)?;
        assert_eq!(out.len(), tensor.elements(), "elements of `out` for shape {shape:?}");
        let bytes = self.bytes_of(tensor);
        match tensor.dtype {
            Dtype::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
            Dtype::F16 => convert(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => convert(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => convert(bytes, out, |b| f64::from_le_bytes(b) as f32),
            other => return Err(self.error(name, &format!("expected F32, F16, BF16 or F64, found {other}"))),
        }
        Ok(())
    }

    fn check_shape(&self, tensor: &TensorEntry, shape: &[usize]) -> Result<()> {
        if tensor.shape != shape {
            return Err(self.error(&tensor.name, &format!("expected shape {shape:?}, found {:?}", tensor.shape)));
        }
        Ok(())
    }

    fn error(&self, name: &str, message: &str) -> Error {
        let offset = self.find(name).map(|tensor| tensor.range.start as u64);
        Error::format(self.path(), offset, format!("tensor {name:?}: {message}"))
    }
}

/// Element types that have the same form in memory and in a file.
pub trait Element: bytemuck::Pod {
    /// The type's name in a file.
    const DTYPE: Dtype;
}

macro_rules! element {
    ($($type:ty => $dtype:ident),*) => {
        $(impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        })*
    };
}

element!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64, f32 => F32, f64 => F64);

fn cast<T: bytemuck::Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    if let Ok(elements) = bytemuck::try_cast_slice(bytes) {
        return Cow::Borrowed(elements);
    }
    let mut elements = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut elements).copy_from_slice(bytes);
    Cow::Owned(elements)
}

fn convert<const N: usize>(bytes: &[u8], out: &mut [f32], to_f32: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.chunks_exact(N).zip(out) {
        *out = to_f32(bytes.try_into().expect("chunks of N bytes"));
    }
}
