//! Does the runs of an experiment that are not done, several at a time.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::plan::PlannedRun;
use super::record::{Results, RunRecord, is_whole};
use crate::dispatch::{Context, ContextOptions};
use crate::train::{LanguageModelTrainer, RunDirectory, RunPlace};
use crate::{Error, Result};

/// What a listener is told.
#[derive(Debug)]
pub enum ExperimentProgress<'a> {
    /// A run begins, or goes on.
    Begin(&'a PlannedRun),
    /// A run has its result.
    End(&'a RunRecord),
}

/// How the runs are done.
pub(super) struct Runner<'a> {
    pub folder: &'a Path,
    pub jobs: usize,
    pub cancel: Arc<AtomicBool>,
    pub progress: &'a (dyn Fn(ExperimentProgress<'_>) + Sync),
}

struct Shared<'a> {
    waiting: VecDeque<&'a PlannedRun>,
    results: &'a mut Results,
    error: Option<Error>,
}

impl Runner<'_> {
    /// Does `runs`. Gives false if it was cancelled; runs in flight then keep their checkpoints.
    pub fn run(&self, runs: &[&PlannedRun], results: &mut Results) -> Result<bool> {
        let shared = Mutex::new(Shared { waiting: runs.iter().copied().collect(), results, error: None });
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(runs.len()) {
                scope.spawn(|| {
                    while let Some(run) = self.next(&shared) {
                        (self.progress)(ExperimentProgress::Begin(run));
                        let outcome = self.one(run);
                        let mut shared = lock(&shared);
                        let kept = match outcome {
                            Ok(Some(record)) => {
                                (self.progress)(ExperimentProgress::End(&record));
                                shared.results.append(record)
                            }
                            Ok(None) => Ok(()),
                            Err(error) => Err(error),
                        };
                        if let Err(error) = kept {
                            shared.error.get_or_insert(error);
                        }
                    }
                });
            }
        });
        match shared.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).error {
            Some(error) => Err(error),
            None => Ok(!self.cancel.load(Ordering::Relaxed)),
        }
    }

    fn next<'a>(&self, shared: &Mutex<Shared<'a>>) -> Option<&'a PlannedRun> {
        let mut shared = lock(shared);
        if shared.error.is_some() || self.cancel.load(Ordering::Relaxed) {
            return None;
        }
        shared.waiting.pop_front()
    }

    /// Does one run, from its checkpoint if it has one. `None`: cancelled.
    fn one(&self, run: &PlannedRun) -> Result<Option<RunRecord>> {
        let context = Context::new(ContextOptions { threads: run.config.threads, isa: None })?;
        let place = self.folder.join("runs").join(format!("{}-{}", run.digest, run.config.seed));
        let mut config = run.config.clone();
        let resumed = RunDirectory::open(&place)?;
        if let Some(directory) = &resumed {
            // What the machine gave at the start stays.
            config.dense_rounding = directory.read_config()?.dense_rounding;
        }
        let place_of_run = resumed.map_or_else(|| RunPlace::New(Some(place.clone())), RunPlace::Resumed);
        let mut trainer = LanguageModelTrainer::open(&context, config, place_of_run)?.cancelled_by(self.cancel.clone());
        let outcome = trainer.run();
        if !is_whole(&outcome) {
            return outcome.map(|_| None);
        }
        let record = RunRecord::of(run, trainer.history(), outcome);
        drop(trainer);
        std::fs::remove_dir_all(&place).map_err(|error| Error::io(&place, error))?;
        Ok(Some(record))
    }
}

fn lock<'a, 'b>(shared: &'a Mutex<Shared<'b>>) -> MutexGuard<'a, Shared<'b>> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
