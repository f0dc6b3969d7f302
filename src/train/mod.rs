//! Training runs: configuration, the trainer, checkpoints, metrics, reports.

mod adaptive_bits;
mod array_objective;
mod batch_objective;
mod batches;
mod checkpoint;
mod cluster_losses;
mod config;
mod config_check;
mod config_layers;
#[cfg(feature = "cli")]
mod experiment;
mod freezing;
mod language_model;
mod learned_scales;
mod memory;
mod metrics;
mod model_folder;
mod objective;
mod parameter_report;
#[cfg(feature = "cli")]
mod report;
mod run_directory;
mod run_loop;
mod skipped_steps;
mod text_run;
mod trainer;

pub use array_objective::{ArrayData, ArrayObjective};
pub use batch_objective::{BatchObjective, BatchSource};
pub use checkpoint::{Checkpoint, CheckpointHeader};
pub use config::{ClusterFeatures, ScheduleKind, TrainConfig};
#[cfg(feature = "cli")]
pub use experiment::{
    Arm, Experiment, ExperimentOptions, ExperimentOutcome, ExperimentProgress, PlannedRun, RunRecord, run_experiment,
};
pub use language_model::LanguageModelObjective;
pub use learned_scales::WeightScale;
pub use memory::MemoryPlan;
pub use metrics::{EvaluationMetrics, History, MetricsLog, StepMetrics};
pub use model_folder::{
    export_gguf, export_model, export_packed, import_model, open_any_model, open_model, open_model_tokenizer,
    open_trainable_model, resolve_model,
};
pub use objective::{Evaluation, Features, Objective};
pub use parameter_report::{ClusterReport, ParameterReport};
pub use run_directory::RunDirectory;
pub use run_loop::{StopReason, Summary};
pub use text_run::{LanguageModelTrainer, RunPlace};
pub use trainer::{Progress, Trainer};
