//! `results.jsonl`: one line a finished run, appended as runs end.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::{PlannedRun, label};
use crate::train::{History, StopReason, Summary};
use crate::{Error, Result};

/// The outcome of a run. A run that failed has `error` and no final loss: no result is dropped.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Name of the arm.
    pub arm: String,
    /// Values from the grid.
    pub variant: String,
    /// Seed.
    pub seed: u64,
    /// Digest of everything that decides the result ([`PlannedRun::digest`]).
    pub digest: String,
    /// Steps done.
    pub steps: u64,
    /// Validation loss at the end; `None` if the run failed.
    pub final_loss: Option<f64>,
    /// Why the run failed (a loss that is not finite).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Median time of a step, in milliseconds: other work on the machine moves it less than a mean.
    pub step_ms: f64,
    /// Mean of the auxiliary network's multiplier.
    pub mean_multiplier: f64,
    /// Share of steps whose update the trust region shortened.
    pub constrained: f64,
    /// Mean flip rate.
    pub flip_rate: f64,
    /// Mean cosine of gradients with the updates before them.
    pub alignment: f64,
    /// Steps done and validation loss at each evaluation.
    pub curve: Vec<(u64, f64)>,
}

impl RunRecord {
    /// What `run` came to.
    pub(super) fn of(run: &PlannedRun, history: &History, outcome: Result<Summary>) -> Self {
        let steps = &history.steps;
        let count = steps.len().max(1) as f64;
        let mut previous = 0.0;
        let mut times: Vec<f64> = steps
            .iter()
            .map(|step| {
                let time = 1e3 * (step.seconds - previous);
                previous = step.seconds;
                time
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let (final_loss, error) = match outcome {
            Ok(summary) => (summary.evaluation.map(|evaluation| evaluation.val_loss), None),
            Err(error) => (None, Some(error.to_string())),
        };
        RunRecord {
            arm: run.arm.clone(),
            variant: run.variant.clone(),
            seed: run.config.seed,
            digest: run.digest.clone(),
            steps: steps.len() as u64,
            final_loss,
            error,
            step_ms: times.get(times.len() / 2).copied().unwrap_or(0.0),
            mean_multiplier: steps.iter().map(|step| f64::from(step.lr_multiplier)).sum::<f64>() / count,
            constrained: steps.iter().filter(|step| step.constraint_active).count() as f64 / count,
            flip_rate: steps.iter().map(|step| step.flip_rate).sum::<f64>() / count,
            alignment: steps.iter().map(|step| f64::from(step.alignment)).sum::<f64>() / count,
            curve: history.evaluations.iter().map(|evaluation| (evaluation.step, evaluation.val_loss)).collect(),
        }
    }

    /// Arm and variant.
    pub fn label(&self) -> String {
        label(&self.arm, &self.variant)
    }

    /// The step at which the validation loss first reached `target`, between evaluations on a straight line.
    pub fn steps_to(&self, target: f64) -> Option<f64> {
        let at = self.curve.iter().position(|&(_, loss)| loss <= target)?;
        let (step, loss) = self.curve[at];
        let Some(&(before, above)) = at.checked_sub(1).and_then(|before| self.curve.get(before)) else {
            return Some(step as f64);
        };
        Some(before as f64 + (step - before) as f64 * (above - target) / (above - loss))
    }
}

/// The results of an experiment so far, on disk.
#[derive(Debug)]
pub(super) struct Results {
    path: PathBuf,
    pub records: Vec<RunRecord>,
}

impl Results {
    /// Reads `path`, if there is such a file. A last line without its end was cut off with its run: it is dropped.
    pub fn open(path: PathBuf) -> Result<Self> {
        let mut text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(&path, error)),
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            text.truncate(whole);
            crate::formats::atomic_write(&path, |file| file.write(text.as_bytes()))?;
        }
        let parse = |(number, line): (usize, &str)| {
            let fail = |error| Error::format(&path, None, format!("line {}: not a result: {error}", number + 1));
            serde_json::from_str(line).map_err(fail)
        };
        let records = text.lines().enumerate().map(parse).collect::<Result<_>>()?;
        Ok(Results { path, records })
    }

    /// Whether `run` is done. Error: there is a result of that name of other settings.
    pub fn has(&self, run: &PlannedRun) -> Result<bool> {
        let same = |record: &&RunRecord| {
            (&record.arm, &record.variant, record.seed) == (&run.arm, &run.variant, run.config.seed)
        };
        match self.records.iter().find(same) {
            Some(record) if record.digest != run.digest => {
                let place = format!("{}: {}, seed {}", self.path.display(), run.label(), record.seed);
                let expected = format!("results of these settings ({}), or another --out", run.digest);
                Err(Error::invalid(place, expected, &record.digest))
            }
            found => Ok(found.is_some()),
        }
    }

    /// Adds a line.
    pub fn append(&mut self, record: RunRecord) -> Result<()> {
        let mut line = serde_json::to_string(&record).expect("a record is plain data");
        line.push('\n');
        let open = std::fs::OpenOptions::new().create(true).append(true).open(&self.path);
        let written = open.and_then(|mut file| file.write_all(line.as_bytes()));
        written.map_err(|error| Error::io(&self.path, error))?;
        self.records.push(record);
        Ok(())
    }
}

/// Whether a run ended by itself: only then has it a result.
pub(super) fn is_whole(outcome: &Result<Summary>) -> bool {
    match outcome {
        Ok(summary) => summary.stop != StopReason::Interrupted,
        Err(error) => matches!(error, Error::Training(_) | Error::NonFinite { .. }),
    }
}

/// Where results and tables of an experiment lie.
pub(super) fn results_path(folder: &Path) -> PathBuf {
    folder.join("results.jsonl")
}
