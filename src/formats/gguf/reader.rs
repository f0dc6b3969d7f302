//! Reading GGUF in place.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::cursor::Cursor;
use super::floats;
use super::tensor_type::GgmlType;
use super::value::GgufValue;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, NAME_BYTES, VERSION};
use crate::formats::MappedFile;
use crate::tensor::AlignedBuffer;
use crate::{Error, Result};

/// The fewest bytes of a metadata entry (an empty key, a type, a byte) and of a tensor's description.
const LEAST_ENTRY: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// Bytes copied before their pages are given back.
const TAKEN_PART: usize = 1 << 22;

/// A tensor of a file: what its header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GgufTensor {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub kind: GgmlType,
    /// Dimensions, outermost first (in the file they stand the other way round).
    pub shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub range: Range<usize>,
}

impl GgufTensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An open GGUF file. The header was checked: every tensor lies inside the file where llama.cpp would look for it, with
/// the bytes its type and shape ask for; names are unique. Tensor data is not read before it is asked for.
#[derive(Debug)]
pub struct GgufFile {
    file: MappedFile,
    metadata: BTreeMap<String, GgufValue>,
    tensors: Vec<GgufTensor>,
    by_name: BTreeMap<String, usize>,
}

impl GgufFile {
    /// Whether there is a file at `path` that is called `.gguf` or begins as a GGUF file does.
    pub fn is_at(path: &Path) -> bool {
        use std::io::Read;
        let mut start = [0; MAGIC.len()];
        let mut begins_so =
            || std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == MAGIC;
        path.is_file() && (path.extension().is_some_and(|extension| extension == "gguf") || begins_so())
    }

    /// Opens and checks `path`. Errors name the file, the byte offset, and the key or tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let mut cursor = Cursor::new(file.path(), file.bytes());
        let metadata = read_metadata(&mut cursor)?;
        let alignment = match metadata.1.get(ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some(value) => {
                value.as_u64().filter(|value| value.is_power_of_two() && *value <= 1 << 20).ok_or_else(|| {
                    cursor.error_at(0, format!("{ALIGNMENT_KEY}: expected a power of two up to 2^20, found {value}"))
                })?
            }
        };
        let (tensors, by_name) = read_tensors(&mut cursor, metadata.0, alignment, file.bytes().len() as u64)?;
        Ok(GgufFile { metadata: metadata.1, tensors, by_name, file })
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.bytes().len() as u64
    }

    /// The metadata.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&GgufTensor> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// The tensor called `name` of the given shape. Errors: there is none, another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<&GgufTensor> {
        let tensor = self.find(name).ok_or_else(|| self.error(None, format!("tensor {name:?}: missing")))?;
        if tensor.shape != shape {
            return Err(self.tensor_error(tensor, &format!("expected shape {shape:?}, found {:?}", tensor.shape)));
        }
        Ok(tensor)
    }

    /// The raw bytes of a tensor of this file.
    ///
    /// # Panics
    /// If `tensor` is of another file.
    pub fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.file.bytes()[tensor.range.clone()]
    }

    /// Converts elements of a tensor of F32, F16, BF16 or Q8_0 to f32: as many as `out` holds, from element `first` on.
    /// Error: another type.
    ///
    /// # Panics
    /// If the tensor has not as many elements, or `first` is not at a block's start.
    pub fn read_f32(&self, tensor: &GgufTensor, first: usize, out: &mut [f32]) -> Result<()> {
        let (block, size) = (tensor.kind.block() as usize, tensor.kind.block_bytes() as usize);
        assert!(first.is_multiple_of(block), "read_f32: whole blocks");
        let bytes = &self.bytes(tensor)[first / block * size..][..out.len().div_ceil(block) * size];
        if floats::to_f32(tensor.kind, bytes, out) {
            return Ok(());
        }
        Err(self.tensor_error(tensor, &format!("expected F32, F16, BF16 or Q8_0, found {}", tensor.kind)))
    }

    /// A copy of a tensor's raw bytes. The file's pages are given back part by part: the tensor is never in memory twice.
    pub fn take_bytes(&self, tensor: &GgufTensor) -> AlignedBuffer<u8> {
        let mut copy = AlignedBuffer::zeroed(tensor.range.len());
        let starts = tensor.range.clone().step_by(TAKEN_PART);
        for (start, copy) in starts.zip(copy.chunks_mut(TAKEN_PART)) {
            let range = start..start + copy.len();
            copy.copy_from_slice(&self.file.bytes()[range.clone()]);
            self.file.release(range);
        }
        copy
    }

    /// Tells the system that a tensor was read for the last time: its pages need not stay in memory.
    pub fn release(&self, tensor: &GgufTensor) {
        self.file.release(tensor.range.clone());
    }

    /// An error on a tensor of this file.
    pub fn tensor_error(&self, tensor: &GgufTensor, message: &str) -> Error {
        self.error(Some(tensor.range.start as u64), format!("tensor {:?}: {message}", tensor.name))
    }

    /// An error on this file.
    pub fn error(&self, offset: Option<u64>, message: impl Into<String>) -> Error {
        Error::format(self.path(), offset, message)
    }
}

/// The number of tensors, and the metadata.
fn read_metadata(cursor: &mut Cursor<'_>) -> Result<(u64, BTreeMap<String, GgufValue>)> {
    let magic = cursor.take(MAGIC.len() as u64, "magic")?;
    if magic != MAGIC {
        return Err(cursor.error_at(0, "not a GGUF file".into()));
    }
    let version = cursor.u32("version")?;
    if version != VERSION && version != VERSION - 1 {
        let hint = if version.swap_bytes() == VERSION { " (a big-endian file)" } else { "" };
        return Err(cursor.error_at(4, format!("GGUF version: expected 2 or 3, found {version}{hint}")));
    }
    let tensors = cursor.count(LEAST_TENSOR, "number of tensors")?;
    let entries = cursor.count(LEAST_ENTRY, "number of metadata entries")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let at = cursor.at();
        let key = cursor.string("metadata key")?;
        let value = cursor.value(&key)?;
        if metadata.contains_key(&key) {
            return Err(cursor.error_at(at, format!("metadata {key:?} occurs twice")));
        }
        metadata.insert(key, value);
    }
    Ok((tensors, metadata))
}

type Tensors = (Vec<GgufTensor>, BTreeMap<String, usize>);

fn read_tensors(cursor: &mut Cursor<'_>, count: u64, alignment: u64, file_bytes: u64) -> Result<Tensors> {
    let mut tensors = Vec::new();
    let mut by_name = BTreeMap::new();
    let mut positions = Vec::new();
    let mut end = 0u64; // of the tensors so far, within the data
    for _ in 0..count {
        let at = cursor.at();
        let name = cursor.string("tensor name")?;
        let fail =
            |cursor: &Cursor<'_>, message: String| Err(cursor.error_at(at, format!("tensor {name:?}: {message}")));
        if name.len() >= NAME_BYTES {
            return fail(cursor, format!("a name of {} bytes, at most {} are allowed", name.len(), NAME_BYTES - 1));
        }
        let dimensions = cursor.u32("number of dimensions")?;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return fail(cursor, format!("{dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}"));
        }
        let mut shape = (0..dimensions).map(|_| cursor.u64("dimension")).collect::<Result<Vec<u64>>>()?;
        let number = cursor.u32("tensor type")?;
        let offset = cursor.u64("tensor offset")?;
        let Some(kind) = GgmlType::from_number(number) else {
            return fail(cursor, format!("unknown type {number}"));
        };
        if !shape[0].is_multiple_of(kind.block()) {
            return fail(cursor, format!("rows of {} elements, {kind} has blocks of {}", shape[0], kind.block()));
        }
        shape.reverse();
        let bytes = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
        let bytes = bytes.and_then(|elements| (elements / kind.block()).checked_mul(kind.block_bytes()));
        let Some(bytes) = bytes.filter(|&bytes| bytes <= file_bytes) else {
            return fail(cursor, format!("{kind} {shape:?} is larger than the file"));
        };
        if offset != end {
            return fail(cursor, format!("expected at offset {end} of the data, found at {offset}"));
        }
        end = (end + bytes).next_multiple_of(alignment);
        if end > file_bytes + alignment {
            return fail(cursor, "lies behind the end of the file".into());
        }
        if by_name.insert(name.clone(), tensors.len()).is_some() {
            return fail(cursor, "occurs twice".into());
        }
        positions.push((offset, bytes, at));
        let shape = shape.into_iter().map(|dimension| dimension as usize).collect();
        tensors.push(GgufTensor { name, kind, shape, range: 0..0 });
    }
    let data = (cursor.at() as u64).next_multiple_of(alignment);
    for (tensor, (offset, bytes, at)) in tensors.iter_mut().zip(positions) {
        let start = data + offset;
        if start + bytes > file_bytes {
            let message = format!("ends at byte {}, the file has {file_bytes}", start + bytes);
            return Err(cursor.error_at(at, format!("tensor {:?}: {message}", tensor.name)));
        }
        tensor.range = start as usize..(start + bytes) as usize;
    }
    Ok((tensors, by_name))
}
