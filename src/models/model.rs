//! A model: configuration, plan and parameters.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use super::config::{ModelConfig, ModelType};
use super::{gated, plain};
use crate::formats::{SafetensorsFile, TensorData, atomic_write, write_safetensors};
use crate::nn::{KeyValueCache, ParamId, ParamStore, Plan};
use crate::{Error, Result};

const CONFIG_FILE: &str = "config.json";
const WEIGHTS_FILE: &str = "model.safetensors";

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
        let builder = match config.model_type {
            ModelType::Plain => plain::build(&config),
            ModelType::Bitnet | ModelType::Llama => gated::build(&config),
        };
        let (plan, parameters) = builder.finish();
        Ok(Model { config, plan, store: ParamStore::new(parameters)? })
    }

    /// Reads a Hugging Face style folder: `config.json` and `model.safetensors` (F32, F16 or BF16).
    /// [`ParamStore::quantize`] must follow before the first pass. Errors: missing or damaged files, a tensor that is
    /// missing, has another shape, holds NaN or infinity, or is not of the model.
    pub fn load(folder: &Path) -> Result<Self> {
        let config_path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&config_path).map_err(|error| Error::io(&config_path, error))?;
        let mut model = Self::with_zeros(ModelConfig::from_json(&text, &config_path)?)?;
        let file = SafetensorsFile::open(folder.join(WEIGHTS_FILE))?;
        let surplus = |name: &str| model.store.find(name).is_none() && !is_derived(name, &model.config);
        if let Some(tensor) = file.tensors().iter().find(|tensor| surplus(&tensor.name)) {
            return Err(Error::format(file.path(), None, format!("{}: not a tensor of this model", tensor.name)));
        }
        for id in model.store.ids() {
            let spec = model.store.spec(id);
            let (name, shape) = (spec.name.clone(), spec.shape.clone());
            let weight = model.store.weight_mut(id);
            file.read_f32(&name, &shape, weight)?;
            if let Some(index) = weight.iter().position(|value| !value.is_finite()) {
                let tensor = format!("{}: {name}", file.path().display());
                return Err(Error::NonFinite { tensor, index, value: weight[index] });
            }
        }
        Ok(model)
    }

    /// Writes `config.json` and `model.safetensors` (the latent weights, F32) into `folder`, which is made if missing.
    /// Each file is replaced in one step.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let tensor = |id: ParamId| {
            let spec = self.store.spec(id);
            TensorData::new(spec.name.as_str(), &spec.shape, self.store.weight(id))
        };
        let tensors: Vec<_> = self.store.ids().map(tensor).collect();
        // transformers refuses files without this entry.
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        write_safetensors(folder.join(WEIGHTS_FILE), &metadata, &tensors)?;
        let config = self.config.to_json();
        atomic_write(folder.join(CONFIG_FILE), |writer| writer.write(config.as_bytes()))
    }

    /// An empty cache for `sequences` texts of up to `capacity` tokens each (at most the model's context).
    pub fn key_value_cache(&self, sequences: usize, capacity: usize) -> KeyValueCache {
        KeyValueCache::new(sequences, capacity, &self.plan.cache_widths())
    }
}

/// Tensors that Hugging Face files may hold although they follow from others: a tied head, rotary frequencies.
fn is_derived(name: &str, config: &ModelConfig) -> bool {
    (name == "lm_head.weight" && config.tie_word_embeddings) || name.ends_with(".rotary_emb.inv_freq")
}
