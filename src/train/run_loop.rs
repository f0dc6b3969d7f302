//! A whole run: evaluations, checkpoints, resuming, the summary.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::checkpoint::{Checkpoint, CheckpointHeader};
use super::learned_scales::WeightScale;
use super::metrics::{EvaluationMetrics, History, MetricsLog};
use super::objective::Objective;
use super::run_directory::RunDirectory;
use super::trainer::{Progress, Trainer};
use crate::{Error, Result};

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// All steps were done.
    Finished,
    /// The validation loss no longer fell.
    Converged,
    /// The time limit was reached.
    TimeLimit,
    /// It was cancelled.
    Interrupted,
}

/// The outcome of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// Why it ended.
    pub stop: StopReason,
    /// Steps done.
    pub steps: u64,
    /// Those of them that were left out for a loss or gradient that is not finite.
    pub skipped_steps: u64,
    /// Loss of the last batch that was not left out.
    pub final_loss: Option<f64>,
    /// The last evaluation.
    pub evaluation: Option<EvaluationMetrics>,
    /// Training time in seconds, over all parts of a resumed run.
    pub total_seconds: f64,
    /// Mean of the auxiliary network's multiplier over the steps.
    pub mean_multiplier: f64,
    /// Share of steps whose update the trust region shortened.
    pub constraint_activation_rate: f64,
    /// Trust radius of the last step.
    pub final_radius: Option<f32>,
    /// Bits a weight of the quantized matrices, with `adaptive_bits`.
    pub mean_bits: Option<f64>,
}

impl<O: Objective> Trainer<O> {
    /// Puts a new run into `directory`: its configuration is stored, its metrics begin.
    pub fn start_in(mut self, directory: RunDirectory) -> Result<Self> {
        // A run is there as soon as its configuration is; the metrics come first so that it never lacks them.
        let log = MetricsLog::create(directory.metrics())?;
        directory.write_config(&self.config)?;
        self.run = Some((directory, log));
        Ok(self)
    }

    /// Goes on with the run in `directory` exactly where its newest usable checkpoint stands, or at step 0 if it has none
    /// yet. Metrics written after the checkpoint are cut off and will be written again.
    ///
    /// Errors: checkpoints that all are damaged or belong to another run, metrics shorter than the checkpoint knows.
    pub fn resume_in(mut self, directory: RunDirectory) -> Result<Self> {
        let Some(checkpoint) = Checkpoint::newest(&directory.checkpoints(), &self.identity())? else {
            return self.start_in(directory);
        };
        self.restore(&checkpoint)?;
        let (log, history) = MetricsLog::resume(directory.metrics(), checkpoint.header.metrics_offset)?;
        self.history = history;
        directory.write_config(&self.config)?;
        self.run = Some((directory, log));
        Ok(self)
    }

    /// Writes a checkpoint and the model, in a run directory.
    pub fn checkpoint(&mut self) -> Result<()> {
        let offset = match &mut self.run {
            Some((_, log)) => log.sync()?,
            None => return Ok(()),
        };
        let header = self.header(offset);
        let Some((directory, _)) = &self.run else { return Ok(()) };
        let path = Checkpoint::save_in(&directory.checkpoints(), header, self.objective.store(), &*self.optimizer)?;
        self.objective.save_model(&directory.model())?;
        if let Some(progress) = &mut self.progress {
            progress(Progress::Checkpoint(&path));
        }
        Ok(())
    }

    /// Writes weights, optimizer state and step to one file, outside any run directory.
    pub fn save_state(&self, path: &Path) -> Result<()> {
        Checkpoint::save(path, self.header(0), self.objective.store(), &*self.optimizer)
    }

    /// Goes on where [`Trainer::save_state`] stood. Errors: a damaged file, or one of another configuration or data.
    pub fn load_state(&mut self, path: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(path, Some(&self.identity()))?;
        self.history = History::default();
        self.restore(&checkpoint)
    }

    /// Where the run stands, with `metrics_offset` bytes of metrics written.
    fn header(&self, metrics_offset: u64) -> CheckpointHeader {
        let store = self.objective.store();
        CheckpointHeader {
            version: 0,
            step: self.steps_done,
            tokens: self.tokens,
            seconds: self.seconds,
            metrics_offset,
            identity: self.identity(),
            convergence: (self.convergence.0.to_bits(), self.convergence.1),
            flip_rate: self.flip_rate.to_bits(),
            precisions: store.ids().map(|id| store.spec(id).precision).collect(),
            learned_scales: match self.config.weight_scale {
                WeightScale::Learned => self.learned_scales.state.iter().map(|of| of.map(f32::to_bits)).collect(),
                _ => Vec::new(),
            },
            quiet_steps: if self.config.freeze_flip_rate > 0.0 {
                self.freezing.quiet_steps.clone()
            } else {
                Vec::new()
            },
            cluster_losses: self.cluster_losses.means.iter().map(|mean| mean.to_bits()).collect(),
            optimizer: String::new(),
            scalars: serde_json::Value::Null,
        }
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.restore(self.objective.store_mut(), &mut *self.optimizer)?;
        let (header, store) = (&checkpoint.header, self.objective.store_mut());
        for (id, &precision) in store.ids().zip(&header.precisions) {
            if store.spec(id).precision != precision {
                store.set_precision(id, precision)?;
            }
        }
        if self.config.weight_scale == WeightScale::Learned {
            self.learned_scales.state = header.learned_scales.iter().map(|of| of.map(f32::from_bits)).collect();
            self.learned_scales.put(store);
        }
        if self.config.freeze_flip_rate > 0.0 {
            self.freezing.quiet_steps.clone_from(&header.quiet_steps);
            self.freezing.put(store, self.config.freeze_patience);
        }
        store.quantize(&self.context)?;
        self.cluster_losses.means = header.cluster_losses.iter().map(|&bits| f64::from_bits(bits)).collect();
        self.steps_done = header.step;
        self.tokens = header.tokens;
        self.seconds = header.seconds;
        self.flip_rate = f64::from_bits(header.flip_rate);
        self.convergence = (f64::from_bits(header.convergence.0), header.convergence.1);
        Ok(())
    }

    /// Trains to the end: `max_steps`, convergence, the time limit or cancellation, whichever comes first. A checkpoint
    /// closes the run in every case.
    ///
    /// Errors: those of [`Trainer::step`] (with a checkpoint of the last step that was done), of evaluations and of files.
    pub fn run(&mut self) -> Result<Summary> {
        let start = Instant::now();
        let mut checkpointed = None;
        // A run may have died between its last evaluation and its end: that evaluation is not done twice.
        let mut evaluated = self.history.evaluations.last().map(|evaluation| evaluation.step);
        let stop = loop {
            if self.steps_done >= self.config.max_steps {
                break StopReason::Finished;
            }
            let patience = self.config.convergence_patience;
            if patience > 0 && self.convergence.1 >= patience {
                break StopReason::Converged;
            }
            if self.is_cancelled() {
                break StopReason::Interrupted;
            }
            if let Err(error) = self.step() {
                // Weights that are not finite are no state to go on from: the checkpoint before stays.
                if matches!(error, Error::Training(_)) && checkpointed != Some(self.steps_done) {
                    self.checkpoint().ok();
                }
                return Err(error);
            }
            if self.steps_done.is_multiple_of(self.config.eval_interval) {
                if let Some(evaluation) = self.evaluate()? {
                    self.convergence = match evaluation.val_loss < self.convergence.0 {
                        true => (evaluation.val_loss, 0),
                        false => (self.convergence.0, self.convergence.1 + 1),
                    };
                }
                evaluated = Some(self.steps_done);
                self.write_report()?;
            }
            if self.steps_done.is_multiple_of(self.config.checkpoint_interval) {
                self.checkpoint()?;
                checkpointed = Some(self.steps_done);
            }
            if self.config.time_limit.is_some_and(|limit| start.elapsed().as_secs_f64() >= limit)
                && self.steps_done < self.config.max_steps
            {
                break StopReason::TimeLimit;
            }
        };
        // The checkpoint comes before an evaluation that is out of turn: a run that goes on from it has the lines of one
        // that never stopped.
        if checkpointed != Some(self.steps_done) {
            self.checkpoint()?;
        }
        if evaluated != Some(self.steps_done) && stop != StopReason::Interrupted {
            self.evaluate()?;
        }
        self.parameters = self.parameter_report()?;
        self.write_report()?;
        Ok(self.summary(stop))
    }

    /// The outcome so far.
    pub fn summary(&self, stop: StopReason) -> Summary {
        let steps = &self.history.steps;
        let count = steps.len().max(1) as f64;
        Summary {
            stop,
            steps: self.steps_done,
            skipped_steps: self.history.skipped_steps(),
            final_loss: steps.iter().rev().find(|step| step.skipped.is_none()).map(|step| step.loss),
            evaluation: self.history.evaluations.last().cloned(),
            total_seconds: self.seconds,
            mean_multiplier: steps.iter().map(|step| f64::from(step.lr_multiplier)).sum::<f64>() / count,
            constraint_activation_rate: steps.iter().filter(|step| step.constraint_active).count() as f64 / count,
            final_radius: steps.last().and_then(|step| step.trust_radius),
            mean_bits: steps.last().and_then(|step| step.mean_bits),
        }
    }

    /// Brings `report.html` up to date, in a run directory of a build with the feature `cli`.
    fn write_report(&mut self) -> Result<()> {
        if let Some(find) = self.pending_baselines.take() {
            self.baselines = find()?;
        }
        #[cfg(feature = "cli")]
        if let Some((directory, _)) = &self.run {
            super::report::write(&directory.report(), &self.config, &self.history, &self.baselines, &self.parameters)?;
        }
        Ok(())
    }
}
