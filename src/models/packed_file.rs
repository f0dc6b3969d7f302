//! A model in one file at 1.6 bits a weight: a safetensors file whose ternary layers are five trits a byte.
//!
//! | tensor | type | content |
//! |---|---|---|
//! | a ternary layer `[rows, cols]` | `U8 [ceil(rows / 64), ceil(cols / 20) * 256]` | five trits a byte (csrc/README.md) |
//! | its scales, `NAME_scale` | `F32 [1]` or `[rows]` | |
//! | embedding and head `[rows, cols]` | `U8 [rows, cols / 32 * 34]` | Q8_0 blocks, where `cols` is a multiple of 32 |
//! | the rest | `F32` | |
//!
//! The metadata holds `config` (a `config.json`), what stands behind each packed tensor ([`PACKED_KEY`]) and whatever the
//! caller adds. Layers are used where they lie in the mapped file.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::config::ModelConfig;
use super::files::scale_name;
use super::layers::{Declaration, is_token_table};
use super::model::Model;
use crate::dispatch::Context;
use crate::formats::{
    Dtype, PACKED_KEY, PackedTensor, PackedTensors, SafetensorsFile, TensorData, q8_0_bytes, write_safetensors,
};
use crate::kernels::{KernelTable, Q8_0_BLOCK, Q8_0_BYTES, TERNARY_BLOCK_ROWS};
use crate::nn::{ParamId, ParamKind, ParamSpec, ParamStore, Precision};
use crate::quant::{PackedFiveTrits, Q8Matrix, QuantizedWeight};
use crate::tensor::SharedBytes;
use crate::{Error, Result};

/// Metadata of a packed file.
const CONFIG_KEY: &str = "config";
/// What packed tensors are called in [`PACKED_KEY`].
const FIVE_TRITS: &str = "five-trits";
const Q8_0: &str = "q8_0";

impl Model {
    /// Whether the file at `path` is a packed model.
    pub fn is_packed_file(path: &Path) -> bool {
        path.is_file() && SafetensorsFile::open(path).is_ok_and(|file| file.metadata().contains_key(PACKED_KEY))
    }

    /// Writes the model to one file; gives its size in bytes. Quantized layers must be up to date
    /// ([`ParamStore::quantize`]). `extra` goes into the metadata.
    ///
    /// Errors: a model whose linear layers are not ternary (or binary); the system's.
    pub fn save_packed(&self, context: &Context, path: &Path, extra: BTreeMap<String, String>) -> Result<u64> {
        let mut tensors = Vec::new();
        let mut described = PackedTensors::default();
        for id in self.store.ids() {
            let spec = self.store.spec(id);
            let (name, shape) = (spec.name.as_str(), spec.shape.clone());
            let label = match spec.kind {
                ParamKind::Linear => {
                    tensors.extend(self.five_trits(context, id, spec)?);
                    FIVE_TRITS
                }
                ParamKind::Embedding if is_packed(spec) => {
                    let make = move || match self.store.quantized(id) {
                        Some(QuantizedWeight::Q8(matrix)) => matrix.data.to_vec(),
                        _ => q8_0_bytes(self.store.weight(id)),
                    };
                    tensors.push(TensorData::made(name, Dtype::U8, &q8_shape(&shape), make));
                    Q8_0
                }
                _ => {
                    tensors.push(TensorData::new(name, &shape, self.store.weight(id)));
                    continue;
                }
            };
            described.tensors.insert(name.into(), PackedTensor { form: label.into(), shape });
        }
        let mut metadata = extra;
        metadata.insert(CONFIG_KEY.into(), self.config.to_json());
        metadata.insert(PACKED_KEY.into(), described.to_json());
        write_safetensors(path, &metadata, &tensors)
    }

    fn five_trits<'a>(&'a self, context: &'a Context, id: ParamId, spec: &ParamSpec) -> Result<[TensorData<'a>; 2]> {
        let form = (spec.precision != Precision::F32).then(|| self.store.quantized_or_error(id)).transpose()?;
        let scales = match form {
            Some(QuantizedWeight::Packed(packed)) => &packed.scales,
            Some(QuantizedWeight::FiveTrits(packed)) => &packed.scales,
            _ => {
                let message = format!("no packed file: {} is in {}, not ternary", spec.name, spec.precision);
                return Err(Error::Unsupported(message));
            }
        };
        let make = move || match form {
            Some(QuantizedWeight::Packed(packed)) => {
                PackedFiveTrits::from_packed_ternary(context, packed).data.to_vec()
            }
            Some(QuantizedWeight::FiveTrits(packed)) => packed.data.to_vec(),
            _ => Vec::new(),
        };
        Ok([
            TensorData::made(spec.name.as_str(), Dtype::U8, &five_trits_shape(&spec.shape), make),
            TensorData::new(scale_name(&spec.name), &[scales.len()], scales),
        ])
    }

    /// Opens a packed file to compute with: layers and tables stay in the file and are read as they are used, norms and
    /// biases are copied.
    ///
    /// Errors: a file that is not packed, or by a later version; a missing or surplus tensor, another shape or type; scales
    /// that are not finite.
    pub fn load_packed(file: &Arc<SafetensorsFile>) -> Result<Self> {
        let fail = |message: String| Error::format(file.path(), None, message);
        let entry = |key: &str| file.metadata().get(key).ok_or_else(|| fail(format!("not a packed model: no {key}")));
        PackedTensors::from_json(entry(PACKED_KEY)?).map_err(|error| fail(format!("{PACKED_KEY}: {error}")))?;
        let config = ModelConfig::from_json(entry(CONFIG_KEY)?, file.path())?;
        let Declaration { plan, parameters: specs, .. } = Model::declare(&config);
        let mut expected = specs.len();
        for spec in &specs {
            let dtype = if is_packed(spec) { Dtype::U8 } else { Dtype::F32 };
            let tensor = file.tensor(&spec.name)?;
            if (tensor.dtype, &tensor.shape) != (dtype, &stored_shape(spec)) {
                let (wanted, found) = (stored_shape(spec), &tensor.shape);
                let message = format!("expected {dtype} {wanted:?}, found {} {found:?}", tensor.dtype);
                return Err(fail(format!("tensor {:?}: {message}", spec.name)));
            }
            if spec.kind == ParamKind::Linear {
                file.tensor(&scale_name(&spec.name))?;
                expected += 1;
            }
        }
        if file.tensors().len() != expected {
            return Err(fail(format!("{} tensors, expected {expected}", file.tensors().len())));
        }
        let forms = specs.iter().map(|spec| packed_form(file, spec)).collect::<Result<Vec<_>>>()?;
        let mut store = ParamStore::packed(specs, forms)?;
        for id in store.ids().filter(|&id| store.has_weights(id)).collect::<Vec<_>>() {
            let (name, shape) = (store.spec(id).name.clone(), store.spec(id).shape.clone());
            file.read_f32(&name, &shape, store.weight_mut(id))?;
            check_finite(file, &name, store.weight(id))?;
        }
        Ok(Model { config, plan, store })
    }
}

fn is_packed(spec: &ParamSpec) -> bool {
    spec.kind == ParamKind::Linear || is_token_table(spec) && spec.shape[1].is_multiple_of(Q8_0_BLOCK)
}

fn five_trits_shape(shape: &[usize]) -> [usize; 2] {
    let (rows, cols) = (shape[0], shape[1]);
    [rows.div_ceil(TERNARY_BLOCK_ROWS), KernelTable::pack5_bytes(1, cols)]
}

fn q8_shape(shape: &[usize]) -> [usize; 2] {
    [shape[0], shape[1] / Q8_0_BLOCK * Q8_0_BYTES]
}

fn stored_shape(spec: &ParamSpec) -> Vec<usize> {
    match spec.kind {
        ParamKind::Linear => five_trits_shape(&spec.shape).to_vec(),
        ParamKind::Embedding if is_packed(spec) => q8_shape(&spec.shape).to_vec(),
        _ => spec.shape.clone(),
    }
}

/// The packed form of a parameter, lent by the file.
fn packed_form(file: &Arc<SafetensorsFile>, spec: &ParamSpec) -> Result<Option<QuantizedWeight>> {
    if !is_packed(spec) {
        return Ok(None);
    }
    let (rows, cols) = (spec.shape[0], spec.shape[1]);
    let data = SharedBytes::lent(file.clone(), file.tensor(&spec.name)?.range.clone());
    let damaged = |error: Error| Error::format(file.path(), None, error.to_string());
    if spec.kind == ParamKind::Embedding {
        let matrix = Q8Matrix::from_bytes(&spec.name, data, rows, cols);
        return matrix.map(|matrix| Some(QuantizedWeight::Q8(matrix))).map_err(damaged);
    }
    let name = scale_name(&spec.name);
    let count = if file.tensor(&name)?.shape == [1] { 1 } else { rows };
    let scales = file.elements::<f32>(&name, &[count])?.into_owned();
    let packed = PackedFiveTrits::from_bytes(&spec.name, data, rows, cols, scales);
    packed.map(|packed| Some(QuantizedWeight::FiveTrits(packed))).map_err(damaged)
}

fn check_finite(file: &SafetensorsFile, name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let tensor = format!("{}: {name}", file.path().display());
            Err(Error::NonFinite { tensor, index, value: values[index] })
        }
    }
}
