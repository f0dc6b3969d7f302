//! What an experiment consists of: arms of settings, their grids, seeds.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::data::TextSource;
use crate::models::{ModelConfig, PRESETS};
use crate::train::TrainConfig;
use crate::train::checkpoint::sha256;
use crate::train::config::parse_settings;
use crate::{Error, Result};

/// Most runs of one experiment.
const MAX_RUNS: usize = 10_000;

/// An experiment, as its TOML file says it.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// What it asks, for the head of the table.
    pub question: String,
    /// Seeds; every variant runs with each of them.
    #[serde(default = "first_seed")]
    pub seeds: Vec<u64>,
    /// The arm that the others are measured against. Its variant with the lowest mean loss sets the target.
    #[serde(default)]
    pub baseline: Option<String>,
    /// A target loss instead of the baseline's final one.
    #[serde(default)]
    pub target_loss: Option<f64>,
    /// Fields of every run's configuration. A `model` that is a file lies relative to the experiment's file.
    #[serde(default)]
    pub settings: toml::Table,
    /// The arms.
    pub arms: Vec<Arm>,
}

fn first_seed() -> Vec<u64> {
    vec![0]
}

/// A family of variants.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Its name in the table.
    pub name: String,
    /// Fields of its runs' configuration.
    #[serde(default)]
    pub settings: toml::Table,
    /// Fields with several values each: every combination is a variant.
    #[serde(default)]
    pub grid: toml::Table,
}

/// One run to do.
#[derive(Clone, PartialEq, Debug)]
pub struct PlannedRun {
    /// Name of the arm.
    pub arm: String,
    /// Values from the grid, as `name=value`, joined by spaces.
    pub variant: String,
    /// The run's whole configuration, seed and data included.
    pub config: TrainConfig,
    /// Digest of everything that decides the result: configuration without paths, and the model's file.
    pub digest: String,
}

impl PlannedRun {
    /// Arm and variant.
    pub fn label(&self) -> String {
        label(&self.arm, &self.variant)
    }
}

/// Arm and variant as one name.
pub(super) fn label(arm: &str, variant: &str) -> String {
    if variant.is_empty() { arm.to_string() } else { format!("{arm} {variant}") }
}

impl Experiment {
    /// Reads an experiment's file. Errors: it cannot be read, is not TOML, has unknown fields.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let experiment: Experiment = parse_settings(&text, path)?;
        let invalid = |what: &str, expected: &str, found: String| {
            Err(Error::invalid(format!("{}: {what}", path.display()), expected, found))
        };
        if experiment.seeds.is_empty() {
            return invalid("seeds", "one or more", "none".into());
        }
        let names: Vec<&str> = experiment.arms.iter().map(|arm| arm.name.as_str()).collect();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return invalid("arms", "names that differ", format!("{name} twice"));
            }
        }
        match &experiment.baseline {
            Some(baseline) if !names.contains(&baseline.as_str()) => {
                invalid("baseline", &format!("one of {}", names.join(", ")), baseline.clone())
            }
            _ => Ok(experiment),
        }
    }

    /// Every run, seed by seed: the first seed of all variants comes first. `file`: the experiment's, `given`: fields that
    /// beat the file's (data, threads).
    ///
    /// Errors: settings that [`TrainConfig`] refuses, with the run's name; a grid without values; too many runs.
    pub fn runs(&self, file: &Path, given: &toml::Table) -> Result<Vec<PlannedRun>> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut variants = Vec::new();
        for arm in &self.arms {
            for choice in choices(arm, file)? {
                variants.push((arm, choice));
                if variants.len() * self.seeds.len() > MAX_RUNS {
                    return Err(Error::invalid("experiment", format!("at most {MAX_RUNS} runs"), "more"));
                }
            }
        }
        let mut texts = BTreeMap::new();
        let mut runs = Vec::new();
        for &seed in &self.seeds {
            for (arm, choice) in &variants {
                let words: Vec<String> =
                    choice.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
                let variant = words.join(" ");
                let mut table = self.settings.clone();
                for part in [&arm.settings, choice, given] {
                    table.extend(part.clone());
                }
                let seed = i64::try_from(seed).map_err(|_| Error::invalid("seeds", "at most 2^63 - 1", seed))?;
                table.insert("seed".into(), seed.into());
                let config = configuration(table, folder).map_err(|error| named(error, &label(&arm.name, &variant)))?;
                let digest = digest(&config, &mut texts)?;
                runs.push(PlannedRun { arm: arm.name.clone(), variant, config, digest });
            }
        }
        Ok(runs)
    }
}

/// Every combination of an arm's grid, the last field fastest.
fn choices(arm: &Arm, file: &Path) -> Result<Vec<toml::Table>> {
    let mut found = vec![toml::Table::new()];
    for (name, values) in &arm.grid {
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            let place = format!("{}: grid of {}: {name}", file.display(), arm.name);
            return Err(Error::invalid(place, "a list of values", values));
        };
        let with = |table: &toml::Table, value: &toml::Value| {
            let mut table = table.clone();
            table.insert(name.clone(), value.clone());
            table
        };
        found =
            found.iter().flat_map(|table| values.iter().map(|value| with(table, value)).collect::<Vec<_>>()).collect();
        if found.len() > MAX_RUNS {
            return Err(Error::invalid("experiment", format!("at most {MAX_RUNS} runs"), "more"));
        }
    }
    Ok(found)
}

fn configuration(mut table: toml::Table, folder: &Path) -> Result<TrainConfig> {
    if let Some(model) = table.get("model").and_then(|model| model.as_str())
        && !PRESETS.contains(&model)
    {
        let path: PathBuf = folder.join(model);
        table.insert("model".into(), path.to_string_lossy().into_owned().into());
    }
    TrainConfig::layered(None, &table)
}

/// An error about a value says in which run.
fn named(error: Error, label: &str) -> Error {
    match error {
        Error::InvalidValue { name, expected, found } => {
            Error::InvalidValue { name: format!("{label}: {name}"), expected, found }
        }
        other => other,
    }
}

/// Paths and threads do not change a result; the files' content does. Fields with their default value are left out, so that
/// a new field leaves old results valid. `texts`: digests of texts read before.
fn digest(config: &TrainConfig, texts: &mut BTreeMap<PathBuf, String>) -> Result<String> {
    const LEFT_OUT: [&str; 9] =
        ["data", "val", "model", "init", "tokenizer", "threads", "log_interval", "checkpoint_interval", "time_limit"];
    let mut table = config.to_table();
    LEFT_OUT.iter().for_each(|name| drop(table.remove(*name)));
    let defaults = TrainConfig::default().to_table();
    table.retain(|name, value| defaults.get(name) != Some(value));
    let model = if PRESETS.contains(&config.model.as_str()) {
        config.model.clone()
    } else {
        let path = Path::new(&config.model);
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        ModelConfig::from_json(&text, path)?.to_json()
    };
    let mut content = format!("{table}\n{model}");
    for path in [&config.data, &config.val].into_iter().flatten() {
        if !texts.contains_key(path) {
            texts.insert(path.clone(), TextSource::open(path)?.digest());
        }
        content += &texts[path];
    }
    if let Some(path) = &config.tokenizer {
        content += &sha256(&std::fs::read(path).map_err(|error| Error::io(path, error))?);
    }
    Ok(sha256(content.as_bytes())[..16].to_string())
}

/// A value without quotes.
fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
