//! Where a run's values come from: a flag beats TOML beats the model's preset beats the defaults.
#![forbid(unsafe_code)]

use std::path::Path;

use super::config::TrainConfig;
use super::learned_scales::WeightScale;
use crate::nn::GradPrecision;
use crate::optim::{NewtonSchulzPrecision, TrustNorm};
use crate::{Error, Result};

impl TrainConfig {
    /// What a run with the model `name` starts from: the defaults, with step count, batch and learning rate that suit a
    /// preset.
    pub fn for_model(name: &str) -> Self {
        // Integer products are the fast ones; those of the backward pass are unbiased.
        let gradient_precision = GradPrecision::Int8;
        let newton_schulz_precision = NewtonSchulzPrecision::Int8;
        let base =
            TrainConfig { model: name.into(), gradient_precision, newton_schulz_precision, ..Default::default() };
        let sized = |max_steps, batch_size, seq_length, base_learning_rate| TrainConfig {
            max_steps,
            batch_size,
            seq_length,
            base_learning_rate,
            ..base.clone()
        };
        // Spectral steps and learned scales without the auxiliary network: what won (bench/experiments). The schedule gives a
        // step's length, and at this root mean square a rate suits AdamW as well.
        let spectral = |config: TrainConfig| TrainConfig {
            trust_norm: TrustNorm::Spectral,
            initial_trust_radius: 1.0,
            newton_schulz_iterations: 3,
            steepest_rms: 0.8,
            steepest_momentum: 0.9,
            adam_beta2: 0.99,
            weight_scale: WeightScale::Learned,
            use_auxiliary_nn: false,
            ..config
        };
        match name {
            "tiny" => spectral(sized(1000, 8, 128, 2e-3)),
            "small" => spectral(sized(2000, 8, 256, 2e-3)),
            "base" => spectral(sized(5000, 8, 256, 1.5e-3)),
            "small-plain" | "gpt2-small-plain" => sized(1000, 8, 256, 1e-3),
            _ => base,
        }
    }

    /// The fields that a TOML file sets, by name; none without a file. Errors: the file cannot be read, an unknown key, a value
    /// of the wrong type.
    pub fn fields_of(file: Option<&Path>) -> Result<toml::Table> {
        let Some(path) = file else { return Ok(toml::Table::new()) };
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        TrainConfig::from_toml(&text, path)?;
        toml::from_str(&text).map_err(|error| super::config::toml_error(&error, path, &text))
    }

    /// The effective configuration: the preset's values, overlaid by the TOML file, overlaid by `flags` (a table with
    /// field names as keys). Errors: the file cannot be read, an unknown key, a value of the wrong type or out of range.
    pub fn layered(file: Option<&Path>, flags: &toml::Table) -> Result<Self> {
        let mut given = Self::fields_of(file)?;
        given.extend(flags.clone());
        let model = given.get("model").and_then(|model| model.as_str());
        let base = model.map_or_else(|| TrainConfig::for_model(&TrainConfig::default().model), TrainConfig::for_model);
        base.overlaid(&given)
    }

    /// This configuration with the fields of `changes` replaced, checked.
    pub fn overlaid(&self, changes: &toml::Table) -> Result<Self> {
        let mut table = self.to_table();
        if changes.contains_key("max_steps") {
            // The number of steps replaces one that came from epochs.
            table.remove("epochs");
        }
        table.extend(changes.clone());
        let text = table.to_string();
        let config: TrainConfig = toml::from_str(&text).map_err(|error| {
            let message = super::config::toml_message(&error, &text);
            Error::invalid("configuration", "known fields of the right types", message)
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The first field that differs from `stored` and that a resumed run must not change, as an error naming the field and
    /// both values.
    pub fn check_resumes(&self, stored: &TrainConfig) -> Result<()> {
        let (new, old) = (self.identity(), stored.identity());
        let none = toml::Value::String("nothing".into());
        for name in old.keys().chain(new.keys()) {
            let (old, new) = (old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none));
            if old != new {
                return Err(Error::invalid(format!("--resume: {name}"), format!("{old} as in the run"), new));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_toml_beats_the_preset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "max_steps = 7\nbatch_size = 3\n").unwrap();
        let flags: toml::Table = toml::from_str("max_steps = 5").unwrap();
        let config = TrainConfig::layered(Some(&path), &flags).unwrap();
        let preset = TrainConfig::for_model("tiny");
        assert_eq!((config.max_steps, config.batch_size), (5, 3));
        assert_eq!(config.base_learning_rate, preset.base_learning_rate);
        let flags: toml::Table = toml::from_str("model = \"small-plain\"").unwrap();
        assert_eq!(TrainConfig::layered(None, &flags).unwrap(), TrainConfig::for_model("small-plain"));
    }

    #[test]
    fn a_resumed_run_may_change_length_and_threads_only() {
        let stored = TrainConfig::default();
        let longer = TrainConfig { max_steps: 5, threads: Some(1), time_limit: Some(2.0), ..stored.clone() };
        longer.check_resumes(&stored).unwrap();
        let other = TrainConfig { seed: 9, ..stored.clone() };
        let message = other.check_resumes(&stored).unwrap_err().to_string();
        assert_eq!(message, "--resume: seed: expected 0 as in the run, found 9");
        let other = TrainConfig { tokenizer: Some("t.json".into()), ..stored.clone() };
        assert!(other.check_resumes(&stored).unwrap_err().to_string().contains("tokenizer"));
    }
}
