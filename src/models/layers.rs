//! What the model forms have in common: parameters with their initial values, norms.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::config::{Activation, ModelConfig};
use super::sharing::{BlockOwner, BlockOwners, BlockPart};
use crate::nn::ops::Elementwise;
use crate::nn::{BufferId, BufferKind, Init, ParamId, ParamKind, ParamSpec, Plan, PlanBuilder, Precision};

/// A plan under construction, with the configuration its parameters follow.
pub(super) struct Layers<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) plan: PlanBuilder,
    /// Every name that a parameter is used under, in order of declaration.
    roles: Vec<(String, ParamId)>,
    /// The parameters of linear layers by their own names.
    declared: HashMap<String, ParamId>,
    owners: BlockOwners,
    /// Names and precision of the part of a block at work.
    block: Option<BlockOwner>,
}

/// A model's plan, its parameters, and every name that each is used under: in order, at last a tied head.
pub(super) struct Declaration {
    pub(super) plan: Plan,
    pub(super) parameters: Vec<ParamSpec>,
    pub(super) roles: Vec<(String, ParamId)>,
}

/// The embedding or the head, not a table of positions.
pub(super) fn is_token_table(spec: &ParamSpec) -> bool {
    const OTHERS: [&str; 5] = [
        ".wpe.weight",
        "pos.weight",
        "position_embeddings.weight",
        "token_type_embeddings.weight",
        "embed_positions.weight",
    ];
    spec.kind == ParamKind::Embedding && !OTHERS.iter().any(|end| spec.name.ends_with(end))
}

impl<'a> Layers<'a> {
    pub(super) fn new(config: &'a ModelConfig) -> Self {
        let (plan, roles, declared) = Default::default();
        Layers { config, plan, roles, declared, owners: BlockOwners::new(config), block: None }
    }

    /// What follows is `part` of block `layer`: its linear layers may be another block's.
    pub(super) fn enter(&mut self, part: BlockPart, layer: usize) {
        if part == BlockPart::Attention {
            self.plan.begin_block();
        }
        self.block = Some(self.owners.of(self.config, part, layer));
    }

    /// What follows belongs to no block.
    pub(super) fn leave_blocks(&mut self) {
        self.plan.end_block();
        self.block = None;
    }

    pub(super) fn finish(self) -> Declaration {
        let (plan, parameters) = self.plan.finish();
        Declaration { plan, parameters, roles: self.roles }
    }

    /// A parameter with a use of its own.
    fn own(&mut self, name: &str, shape: &[usize], kind: ParamKind, init: Init) -> ParamId {
        let id = self.plan.parameter(name, shape, kind, Precision::F32, init);
        self.roles.push((name.into(), id));
        id
    }

    /// The table of the head: that of the embedding, or its own.
    pub(super) fn head(&mut self, name: &str, embedding: ParamId) -> ParamId {
        if self.config.tie_word_embeddings {
            self.roles.push((name.into(), embedding));
            return embedding;
        }
        self.table(name, self.config.vocab_size)
    }

    /// A parameter of a linear layer: the one of the block that owns it.
    fn shared(&mut self, name: &str, shape: &[usize], kind: ParamKind, precision: Precision, init: Init) -> ParamId {
        let owned = self.block.as_ref().map_or_else(|| name.to_string(), |block| block.name(name));
        let id = match self.declared.get(&owned) {
            Some(&id) => id,
            None => {
                let id = self.plan.parameter(owned.as_str(), shape, kind, precision, init);
                self.declared.insert(owned, id);
                id
            }
        };
        self.roles.push((name.into(), id));
        id
    }

    /// Form of the linear layers at work.
    pub(super) fn precision(&self) -> Precision {
        self.block.as_ref().map_or(self.config.precision, |block| block.precision)
    }

    /// A lookup table `[entries, hidden_size]`, always f32.
    pub(super) fn table(&mut self, name: &str, entries: usize) -> ParamId {
        let init = Init::Normal { std: self.config.initializer_range };
        let shape = [entries, self.config.hidden_size];
        self.own(name, &shape, ParamKind::Embedding, init)
    }

    /// The weight of a linear layer.
    pub(super) fn matrix(&mut self, name: &str, outputs: usize, inputs: usize, init: Init) -> ParamId {
        self.shared(name, &[outputs, inputs], ParamKind::Linear, self.precision(), init)
    }

    /// The bias of a linear layer.
    pub(super) fn bias(&mut self, name: &str, width: usize) -> ParamId {
        self.shared(name, &[width], ParamKind::Bias, Precision::F32, Init::Constant(0.0))
    }

    /// The gain of a norm on `x`.
    pub(super) fn gain(&mut self, name: &str, x: BufferId) -> ParamId {
        let width = self.plan.buffer_spec(x).width;
        self.own(name, &[width], ParamKind::Gain, Init::Constant(1.0))
    }

    /// The bias of a norm on `x`.
    pub(super) fn norm_bias(&mut self, name: &str, x: BufferId) -> ParamId {
        let width = self.plan.buffer_spec(x).width;
        self.own(name, &[width], ParamKind::Bias, Init::Constant(0.0))
    }

    /// A linear layer of a block on `x`, which is rounded to int8 where the layer is quantized ([`Layers::quantized`]).
    pub(super) fn linear(&mut self, x: BufferId, name: &str, outputs: usize, bias: bool) -> BufferId {
        let init = Init::Normal { std: self.config.initializer_range };
        let weight = self.matrix(&format!("{name}.weight"), outputs, self.plan.buffer_spec(x).width, init);
        let bias = bias.then(|| self.bias(&format!("{name}.bias"), outputs));
        self.plan.linear(x, weight, bias, self.config.gradient_precision)
    }

    /// A linear layer with bias of a head: f32 at any precision.
    pub(super) fn head_linear(&mut self, x: BufferId, name: &str, outputs: usize) -> BufferId {
        let init = Init::Normal { std: self.config.initializer_range };
        let shape = [outputs, self.plan.buffer_spec(x).width];
        let weight = self.own(&format!("{name}.weight"), &shape, ParamKind::Linear, init);
        let bias = self.head_bias(&format!("{name}.bias"), outputs);
        self.plan.linear(x, weight, Some(bias), self.config.gradient_precision)
    }

    /// The bias of a head's linear layer.
    pub(super) fn head_bias(&mut self, name: &str, width: usize) -> ParamId {
        self.own(name, &[width], ParamKind::Bias, Init::Constant(0.0))
    }

    /// The configuration's activation function, where it has one input.
    pub(super) fn elementwise(&self) -> Elementwise {
        match self.config.hidden_act {
            Activation::Gelu => Elementwise::GeluExact,
            Activation::Relu => Elementwise::Relu,
            Activation::Tanh => Elementwise::Tanh,
            _ => Elementwise::Gelu,
        }
    }

    /// A nonlinearity as the input of a linear layer: rounded to int8 where the layer is quantized.
    pub(super) fn activated(&mut self, function: Elementwise, x: BufferId, up: Option<BufferId>) -> BufferId {
        match self.linear_input() {
            BufferKind::Quantized if function != Elementwise::Tanh => {
                self.plan.activation_quantize(function, x, up, None)
            }
            _ => {
                let y = self.plan.activation(function, x, up);
                self.quantized(y)
            }
        }
    }

    /// LayerNorm with gain and bias `name`.
    pub(super) fn layer_norm(&mut self, x: BufferId, name: &str) -> BufferId {
        let gain = self.gain(&format!("{name}.weight"), x);
        let bias = self.norm_bias(&format!("{name}.bias"), x);
        self.plan.layer_norm(x, gain, bias, self.config.layer_norm_eps)
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
        if self.precision() == Precision::F32 { BufferKind::Float } else { BufferKind::Quantized }
    }
}
