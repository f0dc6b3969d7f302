//! Models for llama.cpp.
#![forbid(unsafe_code)]

use std::path::Path;

use half::f16;

use super::metadata::{check_obstacles, metadata_of};
use super::names::{CLASSIFIER, gguf_name, interleaved, rotated_heads};
use super::rope_factors::rope_factors;
use crate::dispatch::Context;
use crate::formats::{GgmlType, GgufTensorData, GgufValue, q8_0_bytes, write_gguf};
use crate::kernels::{GGUF_BLOCK, GgufTernary, Q8_0_BLOCK};
use crate::models::layers::is_token_table;
use crate::models::sharing::Sharing;
use crate::models::{Head, Model, ModelConfig, ModelType};
use crate::nn::{ParamId, ParamKind, ParamSpec, Precision};
use crate::quant::{GgufTernaryMatrix, PackedTernary, QuantizedWeight};
use crate::{Error, Result};

/// How the linear layers of an export are stored. Norms, biases, tables of positions and segments and a classification's
/// two layers are always F32; embedding and head have the layers' type, or Q8_0 beside ternary layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GgufExportType {
    /// As computed with.
    F32,
    /// Half precision.
    F16,
    /// int8 with a scale for each 32.
    Q8_0,
    /// Ternary at 1.6875 bits.
    Tq1_0,
    /// Ternary at 2.0625 bits.
    Tq2_0,
}

impl GgufExportType {
    /// The name in flags.
    pub fn name(self) -> &'static str {
        match self {
            GgufExportType::F32 => "f32",
            GgufExportType::F16 => "f16",
            GgufExportType::Q8_0 => "q8_0",
            GgufExportType::Tq1_0 => "tq1_0",
            GgufExportType::Tq2_0 => "tq2_0",
        }
    }

    fn ternary(self) -> Option<GgufTernary> {
        match self {
            GgufExportType::Tq1_0 => Some(GgufTernary::Tq1_0),
            GgufExportType::Tq2_0 => Some(GgufTernary::Tq2_0),
            _ => None,
        }
    }

    /// The type of a parameter's tensor.
    fn of(self, spec: &ParamSpec, gguf_name: &str) -> GgmlType {
        let table = is_token_table(spec);
        let linear = spec.kind == ParamKind::Linear && !gguf_name.starts_with(CLASSIFIER);
        match self {
            GgufExportType::F16 if table || linear => GgmlType::F16,
            GgufExportType::Q8_0 if table || linear => GgmlType::Q8_0,
            GgufExportType::Tq1_0 if linear => GgmlType::TQ1_0,
            GgufExportType::Tq2_0 if linear => GgmlType::TQ2_0,
            GgufExportType::Tq1_0 | GgufExportType::Tq2_0 if table => GgmlType::Q8_0,
            _ => GgmlType::F32,
        }
    }

    /// llama.cpp's number for a file whose linear layers are of this type.
    fn file_type(self) -> u32 {
        match self {
            GgufExportType::F32 => 0,
            GgufExportType::F16 => 1,
            GgufExportType::Q8_0 => 7,
            GgufExportType::Tq1_0 => 36,
            GgufExportType::Tq2_0 => 37,
        }
    }
}

impl Model {
    /// Writes a GGUF file that llama.cpp runs; gives its size in bytes. `tokenizer`: the metadata of the tokenizer
    /// ([`crate::data::Tokenizer::gguf_metadata`]). Quantized layers must be up to date
    /// ([`crate::nn::ParamStore::quantize`]); in a type that is not ternary they are written as the values they stand for,
    /// which llama.cpp then multiplies with activations that are not rounded to int8.
    ///
    /// BERT is written for embeddings or, where it has such a head, for classification (llama.cpp's `rank` pooling). A head for
    /// masked tokens is left out, and a warning says so. llama.cpp computes GELU by its tanh form, whichever the model has:
    /// hidden states then differ by a thousandth.
    ///
    /// Errors: what llama.cpp would compute differently ([`ModelConfig::llama_cpp_obstacle`]); a ternary type for layers
    /// that are not ternary, or with rows that are not whole blocks; a value beyond half precision; the system's.
    pub fn export_gguf(
        &self,
        context: &Context,
        path: &Path,
        kind: GgufExportType,
        tokenizer: Vec<(String, GgufValue)>,
    ) -> Result<u64> {
        let mut config = self.config.clone();
        check_obstacles(&config)?;
        if config.model_type == ModelType::Plain {
            config.model_type = ModelType::Gpt2; // in f32 it is
        }
        config.parameter_sharing = Sharing::default();
        if config.head == Head::MaskedLanguageModel {
            tracing::warn!("llama.cpp has no head for masked tokens: the file holds the encoder, for embeddings");
            config.head = Head::HiddenStates; // the same declarations, up to the head's own
        }
        // A shared tensor is written for each block that uses it: the uses come in the order of the tensors of a model
        // without sharing.
        let roles = Model::declare(&self.config).roles;
        let specs = Model::declare(&config).parameters;
        let mut tensors = Vec::with_capacity(specs.len() + 1);
        for (&(_, id), spec) in roles.iter().zip(&specs) {
            tensors.push(self.gguf_tensor(context, &config, id, spec, kind)?);
        }
        if let Some(factors) = rope_factors(&config) {
            let bytes = bytemuck::cast_slice(&factors).to_vec();
            let make = move || Ok(bytes.clone());
            tensors.push(GgufTensorData::new("rope_freqs.weight", GgmlType::F32, &[factors.len()], make));
        }
        let mut metadata = metadata_of(&config);
        metadata.push(("general.file_type".into(), GgufValue::U32(kind.file_type())));
        metadata.push(("general.quantization_version".into(), GgufValue::U32(2)));
        metadata.extend(tokenizer);
        write_gguf(path, &metadata, &tensors)
    }

    fn gguf_tensor<'a>(
        &'a self,
        context: &'a Context,
        config: &ModelConfig,
        id: ParamId,
        spec: &ParamSpec,
        kind: GgufExportType,
    ) -> Result<GgufTensorData<'a>> {
        let name = gguf_name(&spec.name).ok_or_else(|| Error::Unsupported(format!("{}: no GGUF name", spec.name)))?;
        let (stored, heads) = (kind.of(spec, &name), rotated_heads(config, &spec.name));
        let cols = *spec.shape.last().expect("a parameter has dimensions");
        if !cols.is_multiple_of(stored.block() as usize) {
            return Err(misfit(spec, kind, cols));
        }
        let precision = self.store.spec(id).precision;
        let packed = precision != Precision::F32 || !self.store.has_weights(id);
        let form = packed.then(|| self.store.quantized_or_error(id)).transpose()?;
        if let Some(format) = kind.ternary().filter(|_| matches!(stored, GgmlType::TQ1_0 | GgmlType::TQ2_0)) {
            let Some(QuantizedWeight::Packed(packed)) = form else {
                let expected = format!("f32, f16 or q8_0 ({} is in {precision})", spec.name);
                return Err(Error::invalid("--type", expected, kind.name()));
            };
            let make = move || ternary_bytes(context, format, packed, heads);
            return Ok(GgufTensorData::new(name, stored, &spec.shape, make));
        }
        let (label, is_matrix, elements) = (spec.name.clone(), spec.shape.len() > 1, spec.len());
        let make = move || {
            if let (Some(QuantizedWeight::Q8(matrix)), GgmlType::Q8_0) = (form, stored) {
                return Ok(matrix.data.to_vec());
            }
            let mut values = vec![0.0; elements];
            match form {
                Some(form) => form.dequantize(context, &mut values),
                None => values.copy_from_slice(&self.store.weight_values(id)),
            }
            if let Some(heads) = heads {
                values = interleaved(&values, heads, if is_matrix { cols } else { 1 });
            }
            float_bytes(&label, stored, &values)
        };
        Ok(GgufTensorData::new(name, stored, &spec.shape, make))
    }
}

/// Rows that are not whole blocks: what is asked for, and what works.
fn misfit(spec: &ParamSpec, kind: GgufExportType, cols: usize) -> Error {
    let works = if cols.is_multiple_of(Q8_0_BLOCK) { "f32, f16 or q8_0" } else { "f32 or f16" };
    let expected = format!(
        "{works} ({} has rows of {cols}; ternary types take multiples of {GGUF_BLOCK}, q8_0 of {Q8_0_BLOCK})",
        spec.name
    );
    Error::invalid("--type", expected, kind.name())
}

fn ternary_bytes(
    context: &Context,
    format: GgufTernary,
    packed: &PackedTernary,
    heads: Option<usize>,
) -> Result<Vec<u8>> {
    let Some(heads) = heads else { return Ok(GgufTernaryMatrix::from_packed(context, format, packed)?.bytes) };
    let (rows, cols) = (packed.rows, packed.cols);
    let trits = interleaved(&packed.unpack(context), heads, cols);
    let scales = if packed.scales.len() == 1 { packed.scales.clone() } else { interleaved(&packed.scales, heads, 1) };
    let moved = PackedTernary::from_trits(context, &trits, rows, cols, scales)?;
    Ok(GgufTernaryMatrix::from_packed(context, format, &moved)?.bytes)
}

fn float_bytes(name: &str, kind: GgmlType, values: &[f32]) -> Result<Vec<u8>> {
    if kind == GgmlType::F32 {
        return Ok(bytemuck::cast_slice(values).to_vec());
    }
    // The scale of a Q8_0 block is at most a 127th of its values.
    let largest = if kind == GgmlType::Q8_0 { 127.0 } else { 1.0 };
    if let Some(value) = values.iter().find(|&&value| !f16::from_f32(value / largest).is_finite()) {
        return Err(Error::invalid("--type", format!("f32 ({name} holds {value})"), kind));
    }
    if kind == GgmlType::Q8_0 {
        return Ok(q8_0_bytes(values));
    }
    Ok(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect())
}
