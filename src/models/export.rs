//! Models for transformers: in f32, f16 or bf16, or with ternary layers at two bits a weight.
#![forbid(unsafe_code)]

use std::path::Path;

use half::{bf16, f16};
use serde_json::json;

use super::config::{ModelConfig, ModelType};
use super::files::{Form, plain_form, scale_name, transposed, write_folder};
use super::model::Model;
use super::packed_rows::{self, ROWS_PER_BYTE};
use super::quantization_json::PACKED;
use super::sharing::Sharing;
use crate::dispatch::Context;
use crate::formats::{Dtype, TensorData};
use crate::nn::{ParamId, ParamKind, ParamSpec, Precision};
use crate::quant::QuantizedWeight;
use crate::{Error, Result};

/// How the weights of an export are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExportType {
    /// The latent weights as they are.
    F32,
    /// Half precision: 11 bits of mantissa, at most 65504.
    F16,
    /// Half precision with the range of f32.
    Bf16,
    /// BitNet's checkpoint form: ternary layers four weights a byte with a scale each, the rest in f32.
    Packed,
}

impl Model {
    /// Writes a folder that transformers loads: `config.json` and `model.safetensors`. The plain f32 form becomes GPT-2,
    /// which it is. Ternary models say so in `quantization_config`, and transformers rounds weights and activations as they
    /// are rounded here.
    ///
    /// Errors: a model that transformers would compute differently; [`ExportType::Packed`] for a model without ternary
    /// layers, or with rows that are no multiple of 4; a weight beyond the range of F16; the system's.
    pub fn export(&self, context: &Context, folder: &Path, kind: ExportType) -> Result<()> {
        self.store.check_weights()?;
        let mut config = self.present_config();
        if config.model_type == ModelType::Plain && config.precision == Precision::F32 {
            config.model_type = ModelType::Gpt2;
        }
        let shared_precision = config.parameter_sharing.precision.filter(|&precision| precision != config.precision);
        config.parameter_sharing = Sharing::default();
        if let Some(precision) = shared_precision {
            let found = format!("shared layers in {precision}, others in {}", config.precision);
            return Err(Error::Unsupported(format!("no export to safetensors: {found}")));
        }
        if let Some(obstacle) = config.transformers_obstacle() {
            return Err(Error::Unsupported(format!("no export to safetensors: {obstacle}")));
        }
        if kind == ExportType::Packed && config.precision != Precision::Ternary {
            let found = format!("a model with {} layers", config.precision);
            return Err(Error::invalid("--type", "packed for ternary models only", found));
        }
        // A shared tensor is written for each block that uses it: the uses come in the order of the tensors of a model
        // without sharing.
        let roles = Model::declare(&self.config).roles;
        let specs = Model::declare(&config).parameters;
        let factors = self.weight_factors(&config);
        let mut tensors = Vec::with_capacity(specs.len());
        for (&(_, id), spec) in roles.iter().zip(&specs) {
            if kind == ExportType::Packed && spec.kind == ParamKind::Linear {
                tensors.extend(self.packed_tensors(context, id, spec)?);
            } else {
                tensors.push(self.float_tensor(&config, (id, factors[id.index()]), spec, kind)?);
            }
        }
        let mut keys = config.to_keys();
        keys.insert("torch_dtype".into(), json!(dtype_name(kind)));
        if kind == ExportType::Packed {
            keys.insert("quantization_config".into(), PACKED.to_json());
        }
        let text = serde_json::to_string_pretty(&keys).expect("numbers and names become JSON") + "\n";
        write_folder(folder, &text, &tensors)
    }

    /// A parameter's weights times a factor.
    fn float_tensor<'a>(
        &'a self,
        config: &ModelConfig,
        (id, factor): (ParamId, f32),
        spec: &ParamSpec,
        kind: ExportType,
    ) -> Result<TensorData<'a>> {
        let weight = self.scaled_weight(id, factor);
        if kind == ExportType::F16
            && let Some(index) = weight.iter().position(|&value| !f16::from_f32(value).is_finite())
        {
            let expected = format!("f32 or bf16 ({} holds {})", spec.name, weight[index]);
            return Err(Error::invalid("--type", expected, "f16"));
        }
        let (turned, mut shape) = (plain_form(config, spec) == Form::Transposed, spec.shape.clone());
        if turned {
            shape.reverse();
        }
        let (rows, cols) = (spec.shape[0], spec.shape.get(1).copied().unwrap_or(1));
        let make = move || {
            let turned_weight = if turned { transposed(&weight, rows, cols) } else { Vec::new() };
            let weight = if turned { &turned_weight[..] } else { &weight[..] };
            match kind {
                ExportType::F16 => weight.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
                ExportType::Bf16 => weight.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
                ExportType::F32 | ExportType::Packed => bytemuck::cast_slice(weight).to_vec(),
            }
        };
        let dtype = match kind {
            ExportType::F16 => Dtype::F16,
            ExportType::Bf16 => Dtype::BF16,
            ExportType::F32 | ExportType::Packed => Dtype::F32,
        };
        Ok(TensorData::made(spec.name.as_str(), dtype, &shape, make))
    }

    /// A ternary matrix and its scale.
    fn packed_tensors<'a>(
        &'a self,
        context: &'a Context,
        id: ParamId,
        spec: &ParamSpec,
    ) -> Result<[TensorData<'a>; 2]> {
        let (rows, cols) = (spec.shape[0], spec.shape[1]);
        if !rows.is_multiple_of(ROWS_PER_BYTE) {
            let expected = format!("f32, f16 or bf16 ({} has {rows} rows, packed takes multiples of 4)", spec.name);
            return Err(Error::invalid("--type", expected, "packed"));
        }
        let packed = self.store.quantized_or_error(id)?;
        let QuantizedWeight::Packed(packed) = packed else {
            return Err(Error::Unsupported(format!("{}: not ternary", spec.name)));
        };
        let make = move || packed_rows::pack(&packed.unpack(context), rows, cols);
        let scale = &packed.scales[..1];
        Ok([
            TensorData::made(spec.name.as_str(), Dtype::U8, &[rows / ROWS_PER_BYTE, cols], make),
            TensorData::new(scale_name(&spec.name), &[1], scale),
        ])
    }
}

fn dtype_name(kind: ExportType) -> &'static str {
    match kind {
        ExportType::F16 => "float16",
        ExportType::Bf16 => "bfloat16",
        ExportType::F32 | ExportType::Packed => "float32",
    }
}
