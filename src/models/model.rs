//! A model: configuration, plan and parameters.
#![forbid(unsafe_code)]

use super::config::{ModelConfig, ModelType};
use super::layers::Declaration;
use super::{bart, bert, gated, plain, recurrent};
use crate::Result;
use crate::nn::{KeyValueCache, ParamSpec, ParamStore, Plan};
use crate::quant::QuantizedWeight;

/// A model: a language model, an encoder with a head, or an encoder-decoder.
#[derive(Debug)]
pub struct Model {
    /// Sizes and forms.
    pub config: ModelConfig,
    /// The operations.
    pub plan: Plan,
    /// The parameters. After a change of weights, [`ParamStore::quantize`] must follow before the next pass.
    pub store: ParamStore,
}

impl Model {
    /// A model with weights drawn from `seed`. [`ParamStore::quantize`] must follow before the first pass.
    /// Errors: a configuration that [`ModelConfig::validate`] refuses.
    pub fn new(config: ModelConfig, seed: u64) -> Result<Self> {
        let mut model = Self::with_zeros(config)?;
        model.store.initialize(seed);
        Ok(model)
    }

    /// A model to compute with, not to train: each parameter in the packed form that `form` gives for it, or in f32 drawn
    /// from `seed`. Errors: as [`Model::new`], a form of another shape, `form`'s own.
    pub fn packed(
        config: ModelConfig,
        seed: u64,
        form: impl FnMut(&ParamSpec) -> Result<Option<QuantizedWeight>>,
    ) -> Result<Self> {
        config.validate()?;
        let Declaration { plan, parameters, .. } = Model::declare(&config);
        let forms = parameters.iter().map(form).collect::<Result<_>>()?;
        let mut store = ParamStore::packed(parameters, forms)?;
        store.initialize(seed);
        Ok(Model { config, plan, store })
    }

    /// Keeps latent weights, gradients or both in bf16 while training, where the operations take that: see
    /// [`Plan::keep_in_bf16`].
    pub fn keep_in_bf16(&mut self, weights: bool, gradients: bool, seed: u64) {
        self.plan.keep_in_bf16(&mut self.store, weights, gradients, seed);
    }

    fn with_zeros(config: ModelConfig) -> Result<Self> {
        config.validate()?;
        let Declaration { plan, parameters, .. } = Model::declare(&config);
        Ok(Model { config, plan, store: ParamStore::new(parameters)? })
    }

    /// The operations and parameters of a valid configuration.
    pub(super) fn declare(config: &ModelConfig) -> Declaration {
        let form = match config.model_type {
            ModelType::Gpt2 | ModelType::Plain => plain::build,
            ModelType::Bitnet | ModelType::Llama | ModelType::Mistral => gated::build,
            ModelType::Bert => bert::build,
            ModelType::Bart => bart::build,
            ModelType::Lstm | ModelType::Gru => recurrent::build,
        };
        form(config)
    }

    /// An empty cache for `sequences` texts of up to `capacity` tokens each (at most [`ModelConfig::context_length`]).
    pub fn key_value_cache(&self, sequences: usize, capacity: usize) -> KeyValueCache {
        KeyValueCache::new(sequences, capacity, &self.plan.cache_widths()).with_states(&self.plan.state_widths())
    }
}
