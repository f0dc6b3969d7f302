//! Training runs: configuration, the trainer, checkpoints, metrics, reports.

mod config;
mod config_check;
mod objective;

pub use config::{BatchStrategy, OptimizerKind, ScheduleKind, TrainConfig};
pub use objective::{Evaluation, Features, Objective};
