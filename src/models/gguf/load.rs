//! GGUF files as models to compute with.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::metadata::config_of;
use super::names::{gguf_name, half_split, rotated_heads};
use super::rope_factors::scaling_of;
use crate::dispatch::Context;
use crate::formats::{GgmlType, GgufFile, GgufTensor};
use crate::kernels::GgufTernary;
use crate::models::layers::{Declaration, is_token_table};
use crate::models::{Model, ModelConfig};
use crate::nn::{ParamSpec, ParamStore, Precision};
use crate::quant::{GgufTernaryMatrix, PackedTernary, Q8Matrix, QuantizedWeight};
use crate::{Error, Result};

/// The divisors of rotary frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Model {
    /// Reads a GGUF file into a model to compute with: ternary layers at two bits a weight, embedding and head in Q8_0
    /// where the file has them so, all else in f32. The file's pages are given back as they are read.
    ///
    /// A model all of whose linear layers are ternary, with one scale a row at most, is a ternary model: its activations
    /// are rounded to int8 token by token. Any other is an f32 model.
    ///
    /// Errors: an unknown architecture, key, tensor or type; a missing tensor, another shape, damaged blocks, values that
    /// are not finite. Memory is asked for only after all shapes were found to fit.
    pub fn load_gguf(context: &Context, file: &GgufFile) -> Result<Self> {
        let (mut config, stated) = config_of(file)?;
        if let Some(tensor) = file.find(ROPE_FACTORS) {
            let mut factors = vec![0.0; file.tensor(ROPE_FACTORS, &[config.head_dim() / 2])?.elements()];
            file.read_f32(tensor, 0, &mut factors)?;
            let scaling = scaling_of(&config, stated, &factors);
            let unknown = || file.tensor_error(tensor, "expected the divisors of a llama3 rope_scaling");
            config.rope_scaling = Some(scaling.ok_or_else(unknown)?);
        }
        let ternary = ModelConfig { precision: Precision::Ternary, ..config.clone() };
        let mut linear = Model::declare(&ternary).parameters.into_iter();
        let is_ternary = |spec: ParamSpec| {
            if spec.precision != Precision::Ternary {
                return true;
            }
            let tensor = gguf_name(&spec.name).and_then(|name| file.find(&name));
            tensor.is_some_and(|tensor| ternary_format(tensor.kind).is_some())
        };
        if linear.all(is_ternary) {
            config.precision = Precision::Ternary;
            if let Some(model) = read(context, file, &config)? {
                return Ok(model);
            }
            config.precision = Precision::F32;
        }
        let model = read(context, file, &config)?;
        Ok(model.expect("only ternary layers can lack a scale"))
    }

    /// A model to train, with the weights that a packed one stands for: layers with one scale become latent weights of
    /// that very scale. If a layer has several, the model becomes an f32 model.
    pub fn into_trainable(self, context: &Context) -> Result<Self> {
        let mut config = self.config.clone();
        let one_scale = |form: Option<&QuantizedWeight>| form.is_none_or(|form| form.scales().len() < 2);
        if !self.store.ids().all(|id| one_scale(self.store.quantized(id))) {
            config.precision = Precision::F32;
        }
        let Declaration { plan, parameters, .. } = Model::declare(&config);
        let mut store = ParamStore::new(parameters)?;
        for id in self.store.ids() {
            let weight = store.weight_mut(id);
            match self.store.quantized(id) {
                Some(form) if !self.store.has_weights(id) => {
                    form.dequantize(context, weight);
                    if self.store.spec(id).precision == Precision::Ternary && config.precision == Precision::Ternary {
                        // The mean of the magnitudes, zeros too, is then the scale.
                        let kept = weight.iter().filter(|&&value| value != 0.0).count().max(1);
                        let factor = weight.len() as f64 / kept as f64;
                        weight.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
                    }
                }
                _ => weight.copy_from_slice(&self.store.weight_values(id)),
            }
        }
        Ok(Model { config, plan, store })
    }
}

fn ternary_format(kind: GgmlType) -> Option<GgufTernary> {
    match kind {
        GgmlType::TQ1_0 => Some(GgufTernary::Tq1_0),
        GgmlType::TQ2_0 => Some(GgufTernary::Tq2_0),
        _ => None,
    }
}

/// The tensor of each parameter, with a shape that fits; no other tensors are left.
fn find_tensors<'a>(file: &'a GgufFile, specs: &[ParamSpec]) -> Result<Vec<&'a GgufTensor>> {
    let mut known = BTreeSet::from([ROPE_FACTORS.to_string()]);
    let mut tensors = Vec::with_capacity(specs.len());
    for spec in specs {
        let name = gguf_name(&spec.name).ok_or_else(|| file.error(None, format!("{}: no GGUF name", spec.name)))?;
        tensors.push(file.tensor(&name, &spec.shape)?);
        known.insert(name);
    }
    match file.tensors().iter().find(|tensor| !known.contains(&tensor.name)) {
        Some(tensor) => Err(file.tensor_error(tensor, "not a tensor of this model")),
        None => Ok(tensors),
    }
}

/// The model with this configuration; `None` if it is ternary and a layer's blocks differ in scale within a row.
fn read(context: &Context, file: &GgufFile, config: &ModelConfig) -> Result<Option<Model>> {
    let Declaration { plan, parameters: specs, .. } = Model::declare(config);
    let tensors = find_tensors(file, &specs)?;
    let mut forms = Vec::with_capacity(specs.len());
    for (spec, tensor) in specs.iter().zip(&tensors) {
        let heads = rotated_heads(config, &spec.name);
        forms.push(match ternary_format(tensor.kind) {
            Some(format) if spec.precision == Precision::Ternary => {
                let Some(packed) = read_ternary(context, file, tensor, format, heads)? else { return Ok(None) };
                Some(QuantizedWeight::Packed(packed))
            }
            _ if tensor.kind == GgmlType::Q8_0 && is_token_table(spec) => {
                let bytes = file.take_bytes(tensor).into();
                let matrix = Q8Matrix::from_bytes(&tensor.name, bytes, spec.shape[0], spec.shape[1]);
                Some(QuantizedWeight::Q8(matrix.map_err(|error| damaged(file, tensor, &error))?))
            }
            _ => None,
        });
    }
    let mut store = ParamStore::packed(specs, forms)?;
    for (id, tensor) in store.ids().zip(&tensors).collect::<Vec<_>>() {
        if !store.has_weights(id) {
            continue;
        }
        let heads = rotated_heads(config, &store.spec(id).name);
        read_floats(context, file, tensor, heads, store.weight_mut(id))?;
    }
    Ok(Some(Model { config: config.clone(), plan, store }))
}

fn damaged(file: &GgufFile, tensor: &GgufTensor, error: &Error) -> Error {
    file.tensor_error(tensor, &error.to_string())
}

/// The blocks of a ternary tensor.
fn ternary_blocks(file: &GgufFile, tensor: &GgufTensor, format: GgufTernary) -> Result<GgufTernaryMatrix> {
    let [rows, cols] = tensor.shape[..] else {
        return Err(file.tensor_error(tensor, &format!("expected a matrix, found shape {:?}", tensor.shape)));
    };
    let matrix = GgufTernaryMatrix::from_bytes(&tensor.name, format, file.bytes(tensor), rows, cols);
    matrix.map_err(|error| damaged(file, tensor, &error))
}

fn read_ternary(
    context: &Context,
    file: &GgufFile,
    tensor: &GgufTensor,
    format: GgufTernary,
    heads: Option<usize>,
) -> Result<Option<PackedTernary>> {
    let matrix = ternary_blocks(file, tensor, format)?;
    file.release(tensor);
    let (rows, cols) = (matrix.rows, matrix.cols);
    let (mut trits, scales) = matrix.unpack(context);
    let Some(mut scales) = GgufTernaryMatrix::row_scales(&trits, &scales, cols) else { return Ok(None) };
    if let Some(heads) = heads {
        trits = half_split(&trits, heads, cols);
        if scales.len() > 1 {
            scales = half_split(&scales, heads, 1);
        }
    }
    PackedTernary::from_trits(context, &trits, rows, cols, scales).map(Some)
}

fn read_floats(
    context: &Context,
    file: &GgufFile,
    tensor: &GgufTensor,
    heads: Option<usize>,
    out: &mut [f32],
) -> Result<()> {
    match ternary_format(tensor.kind) {
        Some(format) => out.copy_from_slice(&ternary_blocks(file, tensor, format)?.dequantize(context)),
        None => file.read_f32(tensor, 0, out)?,
    }
    file.release(tensor);
    if let Some(heads) = heads {
        let cols = if tensor.shape.len() > 1 { tensor.shape[1] } else { 1 };
        out.copy_from_slice(&half_split(out, heads, cols));
    }
    match out.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let tensor = format!("{}: {}", file.path().display(), tensor.name);
            Err(Error::NonFinite { tensor, index, value: out[index] })
        }
    }
}
