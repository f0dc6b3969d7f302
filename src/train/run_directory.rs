//! A run's folder: `config.toml`, `files.json`, `metrics.jsonl`, `report.html`, `checkpoints/`, `model/`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::config::TrainConfig;
use crate::formats::{atomic_write, remove_unfinished};
use crate::{Error, Result};

/// Where runs go that name no folder of their own.
const DEFAULT_PARENT: &str = "runs";

/// The folder of one run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// Makes the folder of a new run: `out`, or the first free `runs/MODEL-NNN`. Errors: `out` holds a run already, the
    /// system's.
    pub fn create(out: Option<&Path>, model: &str) -> Result<Self> {
        let root = match out {
            Some(out) => {
                RunDirectory::check_free(out)?;
                std::fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
                out.to_path_buf()
            }
            None => first_free(Path::new(DEFAULT_PARENT), model)?,
        };
        let run = RunDirectory { root };
        for folder in [run.checkpoints(), run.model()] {
            std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        }
        Ok(run)
    }

    /// The run in `root`, to go on with; files that a killed process left half-written are removed. `None` if there is no
    /// run yet (a run is there as soon as its `config.toml` is).
    pub fn open(root: &Path) -> Result<Option<Self>> {
        let run = RunDirectory { root: root.to_path_buf() };
        if !run.config().is_file() {
            return Ok(None);
        }
        for folder in [run.root.clone(), run.checkpoints(), run.model()] {
            std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
            remove_unfinished(&folder)?;
        }
        Ok(Some(run))
    }

    /// Error: `out` holds a run.
    pub fn check_free(out: &Path) -> Result<()> {
        let run = RunDirectory { root: out.to_path_buf() };
        if run.config().exists() {
            let expected = "a folder without a run, or --resume to go on with it";
            return Err(Error::invalid("--out", expected, out.display()));
        }
        Ok(())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The effective configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The training files with their hashes.
    pub fn files(&self) -> PathBuf {
        self.root.join("files.json")
    }

    /// One line for each step and evaluation.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The report to look at.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The model in Hugging Face layout.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// Stores the effective configuration.
    pub fn write_config(&self, config: &TrainConfig) -> Result<()> {
        atomic_write(self.config(), |file| file.write(config.to_toml().as_bytes()))
    }

    /// Reads the stored configuration.
    pub fn read_config(&self) -> Result<TrainConfig> {
        let path = self.config();
        let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
        TrainConfig::from_toml(&text, &path)
    }
}

/// Makes and gives the first `parent/model-NNN` that does not exist; of two processes each gets its own.
fn first_free(parent: &Path, model: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
    let mut number = 1u32;
    loop {
        let path = parent.join(format!("{model}-{number:03}"));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(Error::io(path, error)),
        }
    }
}
