//! A model: configuration, plan and parameters.
#![forbid(unsafe_code)]

use std::path::Path;

use super::ModelConfig;
use crate::nn::{KeyValueCache, ParamStore, Plan};
use crate::{Error, Result};

/// A decoder language model.
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

    fn with_zeros(config: ModelConfig) -> Result<Self> {
        config.validate()?;
        Err(Error::Unsupported(format!("{:?} models are not built yet", config.model_type)))
    }

    /// Reads a Hugging Face style folder: `config.json` and `model.safetensors`. Errors: missing or damaged files, a
    /// tensor that is missing, has another shape, or is not of the model.
    pub fn load(folder: &Path) -> Result<Self> {
        Err(Error::Unsupported(format!("{}: reading models is not built yet", folder.display())))
    }

    /// Writes `config.json` and `model.safetensors` (latent f32 weights) into `folder`, which is made if missing.
    pub fn save(&self, folder: &Path) -> Result<()> {
        Err(Error::Unsupported(format!("{}: writing models is not built yet", folder.display())))
    }

    /// An empty cache for `sequences` texts of up to `capacity` tokens each (at most the model's context).
    pub fn key_value_cache(&self, sequences: usize, capacity: usize) -> KeyValueCache {
        KeyValueCache::new(sequences, capacity, &self.plan.cache_widths())
    }
}
