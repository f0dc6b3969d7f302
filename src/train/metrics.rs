//! `metrics.jsonl`: one JSON object a line, a line for every step and every evaluation.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::nn::Precision;
use crate::{Error, Result};

/// The line of a step.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: u64,
    /// Training tokens (examples, for plain arrays) seen so far.
    pub tokens: u64,
    /// Mean loss of the step's batch before the update, nats per token; `null` where it is not finite.
    #[serde(with = "finite_or_null")]
    pub loss: f64,
    /// Scheduled learning rate.
    pub lr: f32,
    /// The auxiliary network's factor on it.
    pub lr_multiplier: f32,
    /// Trust radius in force; `null` without a trust region.
    pub trust_radius: Option<f32>,
    /// L2 norm of the change of all weights.
    pub update_norm: f64,
    /// Whether the trust region shortened the update.
    pub constraint_active: bool,
    /// L2 norm of the gradient before clipping; `null` where it is not finite.
    #[serde(with = "finite_or_null")]
    pub grad_norm: f64,
    /// Mean relative quantization error of the weights after the update.
    pub quant_error: f64,
    /// Share of quantized values that the update changed.
    pub flip_rate: f64,
    /// Cosine of the gradient with the update of the step before: below 0, steps undo each other. 0 for plain optimizers.
    #[serde(default)]
    pub alignment: f32,
    /// Largest relative error of a layer's gradient in int8; 0 where none was rounded.
    #[serde(default)]
    pub gradient_error: f32,
    /// Weights of the layers whose gradients would have been off by more than the limit: computed in f32 instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub f32_gradients: Vec<String>,
    /// Cluster the batch came from, where it came from one.
    pub cluster: Option<usize>,
    /// Running mean of each data cluster's loss, every `log_interval` steps; none without clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_losses: Vec<Option<f64>>,
    /// Bits a weight of the quantized matrices, with `adaptive_bits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_bits: Option<f64>,
    /// Precision of each quantized matrix, at a step that planned them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub precisions: BTreeMap<String, Precision>,
    /// Matrices that are frozen.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frozen: usize,
    /// Why the step was left out: a loss or gradient that is not finite. Weights and state are those before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Training time so far, without evaluation and checkpoints; over all parts of a resumed run.
    pub seconds: f64,
    /// Tokens of this step per second of it.
    pub tokens_per_s: f64,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// JSON has no NaN and no infinity: either is `null`, which reads as NaN.
mod finite_or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

/// The line of an evaluation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EvaluationMetrics {
    /// Steps done.
    pub step: u64,
    /// Mean loss on the held-out examples, nats per token.
    pub val_loss: f64,
    /// The same in bits per byte of text, for language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_bits_per_byte: Option<f64>,
    /// What the custom evaluation callback gave.
    #[serde(flatten)]
    pub custom: BTreeMap<String, f64>,
}

/// Every metric of a run, in order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct History {
    /// One entry a step.
    pub steps: Vec<StepMetrics>,
    /// One entry an evaluation.
    pub evaluations: Vec<EvaluationMetrics>,
}

impl History {
    /// Steps that were left out.
    pub fn skipped_steps(&self) -> u64 {
        self.steps.iter().filter(|step| step.skipped.is_some()).count() as u64
    }

    /// How many of the last steps were left out one after the other.
    pub(super) fn skipped_in_a_row(&self) -> u64 {
        self.steps.iter().rev().take_while(|step| step.skipped.is_some()).count() as u64
    }

    /// Reads the text of a `metrics.jsonl`. Error: a line that is neither a step nor an evaluation.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut history = History::default();
        let mut offset = 0;
        for line in text.lines() {
            let fail = |error: serde_json::Error| {
                Error::format(path, Some(offset as u64), format!("not a metrics line: {error}"))
            };
            // An evaluation is told by its key alone.
            if line.contains("\"val_loss\"") {
                history.evaluations.push(serde_json::from_str(line).map_err(fail)?);
            } else {
                history.steps.push(serde_json::from_str(line).map_err(fail)?);
            }
            offset += line.len() + 1;
        }
        Ok(history)
    }
}

/// An open `metrics.jsonl`. Lines go to the system one by one, so a killed process loses none it has finished.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    offset: u64,
}

impl MetricsLog {
    /// An empty file at `path`; what was there is cut.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = File::create(&path).map_err(|error| Error::io(&path, error))?;
        Ok(MetricsLog { path, file, offset: 0 })
    }

    /// Goes on after the first `offset` bytes; later lines, written after the checkpoint that knows `offset`, are cut off.
    /// Error: the file is shorter.
    pub fn resume(path: impl Into<PathBuf>, offset: u64) -> Result<(Self, History)> {
        let path = path.into();
        let fail = |error| Error::io(&path, error);
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        if length < offset {
            let message = format!("{length} bytes, the checkpoint expects at least {offset}");
            return Err(Error::format(&path, Some(length), message));
        }
        file.set_len(offset).map_err(fail)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(fail)?;
        let history = History::parse(&text, &path)?;
        file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        Ok((MetricsLog { path, file, offset }, history))
    }

    /// Appends `line` as JSON.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).expect("metrics are plain numbers");
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(|error| Error::io(&self.path, error))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything so far survive a power failure, and gives its length in bytes.
    pub fn sync(&mut self) -> Result<u64> {
        self.file.sync_data().map_err(|error| Error::io(&self.path, error))?;
        Ok(self.offset)
    }
}
