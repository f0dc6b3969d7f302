//! What the model forms have in common: parameters with their initial values, norms.
#![forbid(unsafe_code)]

use super::ModelConfig;
use crate::nn::{BufferId, BufferKind, Init, ParamId, ParamKind, PlanBuilder, Precision};

/// A plan under construction, with the configuration its parameters follow.
pub(super) struct Layers<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) plan: PlanBuilder,
}

impl<'a> Layers<'a> {
    pub(super) fn new(config: &'a ModelConfig) -> Self {
        Layers { config, plan: PlanBuilder::new() }
    }

    /// A lookup table `[entries, hidden_size]`, always f32.
    pub(super) fn table(&mut self, name: &str, entries: usize) -> ParamId {
        let init = Init::Normal { std: self.config.initializer_range };
        let shape = [entries, self.config.hidden_size];
        self.plan.parameter(name, &shape, ParamKind::Embedding, Precision::F32, init)
    }

    /// The weight of a linear layer in the model's precision.
    pub(super) fn matrix(&mut self, name: &str, outputs: usize, inputs: usize, init: Init) -> ParamId {
        self.plan.parameter(name, &[outputs, inputs], ParamKind::Linear, self.config.precision, init)
    }

    /// The gain of a norm on `x`.
    pub(super) fn gain(&mut self, name: &str, x: BufferId) -> ParamId {
        let width = self.plan.buffer_spec(x).width;
        self.plan.parameter(name, &[width], ParamKind::Gain, Precision::F32, Init::Constant(1.0))
    }

    pub(super) fn bias(&mut self, name: &str, width: usize) -> ParamId {
        self.plan.parameter(name, &[width], ParamKind::Bias, Precision::F32, Init::Constant(0.0))
    }

    /// RMSNorm with gain `name`.
    pub(super) fn rms_norm(&mut self, x: BufferId, name: &str, eps: f32, out: BufferKind) -> BufferId {
        let gain = self.gain(name, x);
        self.plan.rms_norm(x, gain, eps, out)
    }

    /// `x` as the input of a linear layer: rounded to int8 where the layer is quantized and `x` is not yet.
    pub(super) fn quantized(&mut self, x: BufferId) -> BufferId {
        let wanted = self.linear_input();
        if self.plan.buffer_spec(x).kind == wanted { x } else { self.plan.quantize_rows(x) }
    }

    /// What the norm before a linear layer puts out: int8 rows where the layer is quantized.
    pub(super) fn linear_input(&self) -> BufferKind {
        if self.config.precision == Precision::F32 { BufferKind::Float } else { BufferKind::Quantized }
    }
}
