//! A model: configuration, plan and parameters.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::config::{ModelConfig, ModelType, WeightForm};
use super::layers::Declaration;
use super::{bart, bert, gated, plain, recurrent};
use crate::nn::{KeptPrecision, KeyValueCache, ParamId, ParamSpec, ParamStore, Plan, Precision};
use crate::quant::{OutputScale, QuantizedWeight};
use crate::{Error, Result};

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

impl ModelConfig {
    /// Puts [`ModelConfig::weight_forms`] in force. Error: a name of none of the quantized matrices.
    pub(super) fn put_weight_forms(&self, store: &mut ParamStore) -> Result<()> {
        for (name, form) in &self.weight_forms {
            let unknown = || Error::invalid("weight_forms", "names of quantized matrices", name);
            let id = store.find(name).ok_or_else(unknown)?;
            store.set_precision(id, form.precision)?;
            store.set_output_scale(id, OutputScale { least_squares: form.least_squares, factor: form.factor });
        }
        Ok(())
    }
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

    /// Keeps latent weights and gradients in fewer bits while training, where the operations take that: see
    /// [`Plan::keep_parameters`].
    pub fn keep_parameters(&mut self, weights: KeptPrecision, gradients: KeptPrecision, seed: u64) {
        self.plan.keep_parameters(&mut self.store, weights, gradients, seed);
    }

    /// Several batches are summed into the gradients of a step: see [`Plan::sum_batches`].
    pub fn sum_batches(&mut self) {
        self.plan.sum_batches();
    }

    fn with_zeros(config: ModelConfig) -> Result<Self> {
        config.validate()?;
        let Declaration { plan, parameters, .. } = Model::declare(&config);
        let mut store = ParamStore::new(parameters)?;
        config.put_weight_forms(&mut store)?;
        Ok(Model { config, plan, store })
    }

    /// The configuration, with the forms that the quantized matrices have now. A factor alone is none: see
    /// [`Model::weight_factors`].
    pub(super) fn present_config(&self) -> ModelConfig {
        let declared = Model::declare(&self.config).parameters;
        let form = |(id, spec): (ParamId, &ParamSpec)| {
            let (precision, scale) = (self.store.spec(id).precision, self.store.output_scale(id));
            let as_declared = precision == spec.precision && !scale.least_squares;
            let form = WeightForm { precision, least_squares: scale.least_squares, factor: scale.factor };
            (precision != Precision::F32 && !as_declared).then(|| (spec.name.clone(), form))
        };
        let weight_forms = self.store.ids().zip(&declared).filter_map(form).collect();
        ModelConfig { weight_forms, ..self.config.clone() }
    }

    /// What each parameter's weights are multiplied with in a file, by its index: the factor on the output scale of a matrix
    /// that has no form of its own otherwise, else 1. Codes are the same for all multiples of the weights, and their scale is
    /// multiplied with them, so that a reader who knows of no factors computes the same up to rounding. `present`:
    /// [`Model::present_config`].
    pub(super) fn weight_factors(&self, present: &ModelConfig) -> Vec<f32> {
        let factor = |id| {
            let spec = self.store.spec(id);
            let plain = spec.precision == Precision::F32 || present.weight_forms.contains_key(&spec.name);
            if plain { 1.0 } else { self.store.output_scale(id).factor }
        };
        self.store.ids().map(factor).collect()
    }

    /// A parameter's weights times `factor`.
    pub(super) fn scaled_weight(&self, id: ParamId, factor: f32) -> Cow<'_, [f32]> {
        let weight = self.store.weight_values(id);
        if factor == 1.0 { weight } else { weight.iter().map(|weight| weight * factor).collect() }
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
