//! What a file or folder of tensors holds.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::gguf::GgufFile;
use super::safetensors::{PACKED_KEY, PackedTensors, SafetensorsFile};
use crate::{Error, Result};

/// Bytes of an f32 element, the measure of compression.
const F32_BYTES: u64 = 4;

/// One tensor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InspectedTensor {
    /// Name.
    pub name: String,
    /// Element type, as its format names it; how a packed tensor is packed.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub elements: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InspectedFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size, header included.
    pub bytes: u64,
    /// The string metadata of its header.
    pub metadata: BTreeMap<String, String>,
    /// Its tensors, in file order.
    pub tensors: Vec<InspectedTensor>,
}

/// The result of [`inspect`].
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Inspection {
    /// The files, sorted by path.
    pub files: Vec<InspectedFile>,
    /// Elements of all tensors.
    pub elements: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// How many times larger the elements would be as f32: `4 * elements / bytes`.
    pub ratio_to_f32: f64,
}

/// Lists the tensors of a safetensors file (a checkpoint is one), of a GGUF file, or of all safetensors files in a model folder. Every
/// header is checked; tensor data is not read. Errors: what cannot be read, a folder without safetensors files.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection> {
    let path = path.as_ref();
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
    let paths = if metadata.is_dir() { safetensors_in(path)? } else { vec![path.to_path_buf()] };
    let files: Vec<InspectedFile> = paths.iter().map(|path| inspect_file(path)).collect::<Result<_>>()?;
    let elements =
        files.iter().flat_map(|file| &file.tensors).fold(0u64, |sum, tensor| sum.saturating_add(tensor.elements));
    let bytes = files.iter().map(|file| file.bytes).sum::<u64>();
    let ratio_to_f32 = F32_BYTES as f64 * elements as f64 / bytes as f64;
    Ok(Inspection { files, elements, bytes, ratio_to_f32 })
}

fn safetensors_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
        let path = entry.map_err(|error| Error::io(folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Error::format(folder, None, "folder without .safetensors files"));
    }
    Ok(paths)
}

fn inspect_file(path: &Path) -> Result<InspectedFile> {
    if GgufFile::is_at(path) {
        return inspect_gguf(path);
    }
    let file = SafetensorsFile::open(path)?;
    let packed = match file.metadata().get(PACKED_KEY) {
        None => PackedTensors::default(),
        Some(text) => PackedTensors::from_json(text)
            .map_err(|error| Error::format(path, None, format!("{PACKED_KEY}: {error}")))?,
    };
    let tensors = file.tensors().iter().map(|tensor| {
        let (dtype, shape) = match packed.tensors.get(&tensor.name) {
            Some(packed) => (packed.form.clone(), packed.shape.clone()),
            None => (tensor.dtype.to_string(), tensor.shape.clone()),
        };
        let elements = shape.iter().fold(1u64, |product, &size| product.saturating_mul(size as u64));
        InspectedTensor { name: tensor.name.clone(), dtype, shape, elements, bytes: tensor.bytes() as u64 }
    });
    Ok(InspectedFile {
        path: path.to_path_buf(),
        bytes: file.file_bytes(),
        metadata: file.metadata().clone(),
        tensors: tensors.collect(),
    })
}

fn inspect_gguf(path: &Path) -> Result<InspectedFile> {
    let file = GgufFile::open(path)?;
    let tensors = file.tensors().iter().map(|tensor| InspectedTensor {
        name: tensor.name.clone(),
        dtype: tensor.kind.to_string(),
        shape: tensor.shape.clone(),
        elements: tensor.elements() as u64,
        bytes: tensor.range.len() as u64,
    });
    Ok(InspectedFile {
        path: path.to_path_buf(),
        bytes: file.file_bytes(),
        metadata: file.metadata().iter().map(|(key, value)| (key.clone(), value.to_string())).collect(),
        tensors: tensors.collect(),
    })
}
