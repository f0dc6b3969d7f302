//! `quantization_config` of BitNet checkpoints: latent weights that are rounded in the forward pass ("online"), or weights
//! that are ternary in the file ("offline").
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::json_fields::Fields;
use crate::Result;

/// A form in which transformers keeps ternary layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct QuantizationKeys {
    mode: &'static str,
}

/// Latent weights; transformers rounds them (`AutoBitLinear`).
pub(super) const ONLINE: QuantizationKeys = QuantizationKeys { mode: "online" };
/// Ternary weights at 2 bits and a scale.
pub(super) const PACKED: QuantizationKeys = QuantizationKeys { mode: "offline" };

impl QuantizationKeys {
    pub(super) fn to_json(self) -> Value {
        json!({
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": self.mode,
            "modules_to_not_convert": ["lm_head"],
        })
    }
}

/// Whether the weights of offline layers in the model of this `config.json` are divided by their `weight_scale` (class
/// `bitlinear`, the default) instead of multiplied with it.
pub(super) fn scales_divide(config: &str) -> bool {
    let value: Value = serde_json::from_str(config).unwrap_or_default();
    value["quantization_config"]["linear_class"] != "autobitlinear"
}

/// Whether the linear layers are BitNet's. What the tensors hold shows in the tensors; `linear_class` tells only which way
/// round a scale stands ([`scales_divide`]). Errors: other methods, settings that would change the computation.
pub(super) fn read_quantization(fields: &mut Fields<'_>) -> Result<bool> {
    let Some(mut keys) = fields.object("quantization_config")? else { return Ok(false) };
    let method: Option<String> = keys.optional("quant_method")?;
    if method.as_deref() != Some("bitnet") {
        return Err(keys.error(format!("quantization_config.quant_method: expected bitnet, found {method:?}")));
    }
    keys.fixed("use_rms_norm", json!(false))?;
    let class: Option<String> = keys.optional("linear_class")?;
    let mode: Option<String> = keys.optional("quantization_mode")?;
    if let Some(class) = class.filter(|class| class != "autobitlinear" && class != "bitlinear") {
        return Err(keys.error(format!("linear_class: expected bitlinear or autobitlinear, found {class:?}")));
    }
    if let Some(mode) = mode.filter(|mode| mode != "online" && mode != "offline") {
        return Err(keys.error(format!("quantization_mode: expected online or offline, found {mode:?}")));
    }
    let _: Option<f64> = keys.optional("rms_norm_eps")?;
    let kept: Option<Vec<String>> = keys.optional("modules_to_not_convert")?;
    // The head is never quantized; a kept layer shows by its float weight without a scale.
    if let Some(module) = kept.unwrap_or_default().iter().find(|module| !module.ends_with("lm_head")) {
        return Err(keys.error(format!("modules_to_not_convert: expected lm_head, found {module:?}")));
    }
    keys.finish("quantization_config.")?;
    Ok(true)
}
