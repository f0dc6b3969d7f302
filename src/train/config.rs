//! Everything a run depends on, in one flat TOML table.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::learned_scales::WeightScale;
use crate::cluster::BatchStrategy;
use crate::nn::{GradPrecision, HeadPrecision, KeptPrecision, Precision};
use crate::optim::{
    LearningRateSchedule, NewtonSchulzPrecision, OptimizerConfig, OptimizerKind, RadiusMode, RadiusRule,
    StatePrecision, TrustNorm, TrustScope,
};
use crate::{Error, Result};

/// Vocabulary entries from which the head's products are worth rounding to integers.
const LARGE_VOCABULARY: usize = 4096;

/// The learning rate over the steps, after the warm-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Always the base rate.
    Constant,
    /// Half a cosine down to `min_lr_ratio`.
    #[default]
    Cosine,
    /// The two stages of BitNet b1.58: linear decay, and from half-way on a lower rate without weight decay.
    TwoStage,
}

/// What data are clustered by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterFeatures {
    /// The objective's own: hashed n-grams of a text's windows, the inputs of arrays.
    #[default]
    Data,
    /// None: clusters of equal size by chance, the control.
    Random,
}

/// Configuration of a run: the fields of the hybrid trainer, then data, model and schedule.
///
/// Reads and writes as one flat TOML table; a field left out has its default, an unknown one is an error.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Master switch of quantization: off, weights and gradients stay f32.
    pub use_quantization: bool,
    /// Factor on the quantizers' scale. Always 1: in training the scale follows from the weights.
    pub quantizer_scale: f64,
    /// Bits a weight may take where `precision` is not given: 1 binary, 1.58 ternary, 2.32 five-level, 4, 8, 32. With
    /// `adaptive_bits` their mean.
    pub target_bits: f64,
    /// Whether each quantized matrix gets a precision of its own, by what it is worth in loss, under a mean of `target_bits`:
    /// planned anew every `precision_interval` steps. Rows of a matrix share its precision: the integer kernels multiply matrices
    /// of one form. Forms other than ternary and binary are multiplied in f32, slower, in memory that the plan of a step does not
    /// count.
    pub adaptive_bits: bool,
    /// Least bits of a matrix, 1 to 8.
    pub min_bits: f64,
    /// Most bits of a matrix, 1 to 8.
    pub max_bits: f64,
    /// Steps between two plans of precisions (a forward pass over a batch for each matrix).
    pub precision_interval: u64,
    /// Where the output scales of quantized matrices come from: `absmean`, `least-squares` or `learned`.
    pub weight_scale: WeightScale,
    /// Flip rate at or below which a matrix is quiet; one that is quiet for `freeze_patience` steps after the warm-up is frozen
    /// for the rest of the run. 0: none is.
    pub freeze_flip_rate: f64,
    /// Quiet steps before a matrix is frozen.
    pub freeze_patience: u64,
    /// Whether batches are drawn by clusters of the data.
    pub use_clustering: bool,
    /// Clusters of the training data.
    pub data_clusters: usize,
    /// What the data are clustered by: `data` or, as a control, `random`.
    pub cluster_features: ClusterFeatures,
    /// Clusters of the rows of each matrix ([`super::Trainer::parameter_report`]).
    pub parameter_clusters: usize,
    /// Whether the auxiliary network steers step size and radius.
    pub use_auxiliary_nn: bool,
    /// Hidden units of the auxiliary network.
    pub auxiliary_nn_hidden_size: usize,
    /// Its learning rate.
    pub auxiliary_nn_learning_rate: f64,
    /// Whether the network starts from meta-trained weights (for 16 hidden units and a radius by the schedule) or neutral.
    pub auxiliary_nn_warm_start: bool,
    /// Whether the update's norm is bounded.
    pub use_trust_region: bool,
    /// Radius at the start, relative to the norm of the parameters.
    pub initial_trust_radius: f64,
    /// Norm of the trust region: `l2`, `max` or `spectral`.
    pub trust_norm: TrustNorm,
    /// What an l2 trust region bounds: all weights together (`global`) or each tensor (`tensor`).
    pub trust_scope: TrustScope,
    /// Whether the radius is `relative` to the weights' norm or `absolute`.
    pub radius_mode: RadiusMode,
    /// Momentum of the steps in the `max` and `spectral` norms.
    pub steepest_momentum: f64,
    /// Root mean square of the elements of such a step for a learning rate of 1 (AdamW's own is 0.2 to 0.4).
    pub steepest_rms: f64,
    /// Newton-Schulz iterations of the `spectral` norm.
    pub newton_schulz_iterations: usize,
    /// Arithmetic of their products: `f32`, or `int8` (factors rounded, exact sums), the fast one.
    pub newton_schulz_precision: NewtonSchulzPrecision,
    /// Whether the radius changes, by `trust_radius_rule`.
    pub trust_radius_adaptation: bool,
    /// What changes the radius: `network`, `schedule` or `reduction-ratio`.
    pub trust_radius_rule: RadiusRule,
    /// Steps between two looks at how far a step reduced its own batch's loss (a pass over the batch each), for
    /// `reduction-ratio`.
    pub reduction_probe_interval: u64,
    /// Learning rate before schedule and multiplier.
    pub base_learning_rate: f64,
    /// Whether the auxiliary network's multiplier is applied.
    pub use_adaptive_lr: bool,
    /// Optimizer steps of the run.
    pub max_steps: u64,
    /// Examples of a batch (with `grad_accumulation`: of each part).
    pub batch_size: usize,
    /// Momentum of SGD, and AdamW's first beta.
    pub momentum: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Steps between progress lines (`metrics.jsonl` has every step).
    pub log_interval: u64,
    /// Steps between evaluations.
    pub eval_interval: u64,
    /// Whether gradients are quantized before the update.
    pub quantize_gradients: bool,
    /// Whether weights are quantized in the forward pass.
    pub quantize_parameters: bool,
    /// Largest norm of the gradient; 0: no bound.
    pub gradient_clip_norm: f64,
    /// Steps in a row whose loss or gradient is not finite that are left out before the run ends with an error; 0: none is.
    pub max_skipped_steps: u64,
    /// Steps at the start that draw random batches instead of clustered ones.
    pub clustering_warmup_steps: u64,
    /// How clusters make batches.
    pub batch_strategy: BatchStrategy,
    /// Whether examples from clusters of high loss come more often and count less in return, instead of `batch_strategy`: the
    /// expected gradient is that of uniform draws.
    pub loss_aware_sampling: bool,
    /// Whether a batch from one cluster (`round-robin`) has its learning rate multiplied by the cluster's mean loss over the mean
    /// of all clusters, half to twice.
    pub cluster_learning_rates: bool,
    /// Standard deviation of the logarithm of a random factor on each step's learning rate: the control for a network that steers
    /// it. 0: none.
    pub random_multiplier: f64,

    /// Training text: a file or a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Validation text; without it the last tenth of every training file is held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    /// A preset's name, or a JSON file with a model's configuration.
    pub model: String,
    /// A model to start from: a folder, a run, a GGUF or packed file (whose layers become the latent weights they stand for).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// A tokenizer file; without it text is bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of an example.
    pub seq_length: usize,
    /// Passes over the data, instead of `max_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Batches whose gradients are averaged for one step.
    pub grad_accumulation: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// Threads; without it as many as the process may use. Results do not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// `cpu`, or `cuda:N`.
    pub device: String,
    /// Form of the linear layers' weights; without it the widest that `target_bits` allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Arithmetic of the linear layers' backward products: `int8` for both, `bf16` for the weights' gradients (the inputs' in
    /// int8), or `f32`.
    pub gradient_precision: GradPrecision,
    /// Largest relative error of a layer's gradient in int8: beyond it the layer's product is computed in f32, step by step.
    /// Measured against mean magnitudes, at most 1; above 1: never. Ordinary gradients have 0.04 to 0.2, those of queries early
    /// in training up to 0.8.
    pub gradient_error_limit: f64,
    /// Arithmetic of the head in training; without it `int8` for quantized models whose gradients are not in f32 and a
    /// vocabulary of 4,096 entries or more, whose head is a large share of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_precision: Option<HeadPrecision>,
    /// Blocks of the model between activations that are kept for the backward pass; what lies between is computed once more.
    /// 0 keeps all. Less memory for about a fifth more time; results do not depend on it.
    pub gradient_checkpointing: usize,
    /// Update rule; `adamw` and `sgd` are the plain ones, without any part of the hybrid.
    pub optimizer: OptimizerKind,
    /// AdamW's second beta.
    pub adam_beta2: f64,
    /// How AdamW keeps its moments: `f32`, `bf16` (half the memory) or `int8-blocks` (a quarter).
    pub optimizer_state_precision: StatePrecision,
    /// How latent weights of quantized layers and token tables are kept: `f32`, `bf16` (half the memory), or `int8` (a
    /// quarter; token tables in bf16).
    pub latent_precision: KeptPrecision,
    /// How their gradients are kept while they are summed: `f32` or `bf16`.
    pub kept_gradient_precision: KeptPrecision,
    /// Learning rate over the steps.
    pub schedule: ScheduleKind,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Share of the base rate at the end of the cosine, or at the start of the second stage.
    pub min_lr_ratio: f64,
    /// Steps between checkpoints.
    pub checkpoint_interval: u64,
    /// Windows of the validation text that an evaluation reads, evenly spaced.
    pub eval_windows: usize,
    /// Evaluations without a lower validation loss after which training ends; 0: never.
    pub convergence_patience: u64,
    /// Seconds after which training ends with a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<f64>,
    /// How dense f32 products round on the machine the run began on ([`crate::dispatch::Context::dense_rounding`]): the one
    /// choice of a backend that changes bits. Filled in when a run begins; a run that goes on elsewhere warns if it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense_rounding: Option<String>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            use_quantization: true,
            quantizer_scale: 1.0,
            target_bits: 1.58,
            adaptive_bits: false,
            min_bits: 1.0,
            max_bits: 8.0,
            precision_interval: 100,
            weight_scale: WeightScale::Absmean,
            freeze_flip_rate: 0.0,
            freeze_patience: 50,
            use_clustering: true,
            data_clusters: 8,
            cluster_features: ClusterFeatures::Data,
            parameter_clusters: 4,
            use_auxiliary_nn: true,
            auxiliary_nn_hidden_size: 16,
            auxiliary_nn_learning_rate: 0.001,
            auxiliary_nn_warm_start: true,
            use_trust_region: true,
            initial_trust_radius: 0.01,
            trust_norm: TrustNorm::default(),
            trust_scope: TrustScope::default(),
            radius_mode: RadiusMode::default(),
            steepest_momentum: 0.95,
            steepest_rms: 0.2,
            newton_schulz_iterations: 3,
            newton_schulz_precision: NewtonSchulzPrecision::F32,
            trust_radius_adaptation: true,
            trust_radius_rule: RadiusRule::default(),
            reduction_probe_interval: 50,
            base_learning_rate: 0.001,
            use_adaptive_lr: true,
            max_steps: 1000,
            batch_size: 32,
            momentum: 0.9,
            weight_decay: 1e-5,
            log_interval: 10,
            eval_interval: 50,
            quantize_gradients: false,
            quantize_parameters: true,
            gradient_clip_norm: 1.0,
            max_skipped_steps: 10,
            clustering_warmup_steps: 0,
            batch_strategy: BatchStrategy::Stratified,
            loss_aware_sampling: false,
            cluster_learning_rates: false,
            random_multiplier: 0.0,
            data: None,
            val: None,
            model: "tiny".into(),
            init: None,
            tokenizer: None,
            seq_length: 128,
            epochs: None,
            grad_accumulation: 1,
            seed: 0,
            threads: None,
            device: "cpu".into(),
            precision: None,
            gradient_precision: GradPrecision::default(),
            gradient_error_limit: 0.95,
            head_precision: None,
            gradient_checkpointing: 0,
            optimizer: OptimizerKind::Hybrid,
            adam_beta2: 0.95,
            optimizer_state_precision: StatePrecision::F32,
            latent_precision: KeptPrecision::F32,
            kept_gradient_precision: KeptPrecision::F32,
            schedule: ScheduleKind::Cosine,
            warmup_steps: 20,
            min_lr_ratio: 0.1,
            checkpoint_interval: 100,
            eval_windows: 64,
            convergence_patience: 0,
            time_limit: None,
            dense_rounding: None,
        }
    }
}

impl TrainConfig {
    /// Reads TOML; `path` is for messages. Errors: not TOML ([`Error::Format`]); an unknown key, a value of the wrong type or none
    /// of those a key may have ([`Error::InvalidValue`]). Ranges are checked
    /// by [`TrainConfig::validate`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        parse_settings(text, path)
    }

    /// The configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is a flat table")
    }

    /// Whether cluster batches are on: they are a part of the hybrid.
    pub fn clusters_data(&self) -> bool {
        self.use_clustering && self.optimizer == OptimizerKind::Hybrid
    }

    /// Whether gradients are quantized.
    pub fn quantizes_gradients(&self) -> bool {
        self.use_quantization && self.quantize_gradients
    }

    /// The form of the linear layers' weights: `precision`, or the widest that `target_bits` allows.
    pub fn weight_precision(&self) -> Precision {
        if !self.use_quantization || !self.quantize_parameters {
            return Precision::F32;
        }
        self.precision.unwrap_or(match self.target_bits {
            bits if bits < 1.58 => Precision::Binary,
            bits if bits < 2.32 => Precision::Ternary,
            bits if bits < 4.0 => Precision::FiveLevel,
            bits if bits < 8.0 => Precision::Int4,
            bits if bits < 32.0 => Precision::Int8,
            _ => Precision::F32,
        })
    }

    /// The arithmetic of the head of a model with `vocabulary` entries.
    pub fn head_precision(&self, vocabulary: usize) -> HeadPrecision {
        let integers = self.gradient_precision != GradPrecision::F32 && self.weight_precision() != Precision::F32;
        let large = vocabulary >= LARGE_VOCABULARY;
        self.head_precision.unwrap_or(if integers && large { HeadPrecision::Int8 } else { HeadPrecision::F32 })
    }

    /// What the optimizer is built from.
    pub fn optimizer_config(&self) -> OptimizerConfig {
        OptimizerConfig {
            optimizer: self.optimizer,
            base_learning_rate: self.base_learning_rate as f32,
            weight_decay: self.weight_decay as f32,
            momentum: self.momentum,
            beta2: self.adam_beta2,
            state_precision: self.optimizer_state_precision,
            use_auxiliary_nn: self.use_auxiliary_nn,
            auxiliary_nn_hidden_size: self.auxiliary_nn_hidden_size,
            auxiliary_nn_learning_rate: self.auxiliary_nn_learning_rate as f32,
            auxiliary_nn_warm_start: self.auxiliary_nn_warm_start,
            use_adaptive_lr: self.use_adaptive_lr,
            use_trust_region: self.use_trust_region,
            initial_trust_radius: self.initial_trust_radius as f32,
            trust_norm: self.trust_norm,
            trust_scope: self.trust_scope,
            radius_mode: self.radius_mode,
            steepest_momentum: self.steepest_momentum,
            steepest_rms: self.steepest_rms as f32,
            newton_schulz_iterations: self.newton_schulz_iterations,
            newton_schulz_precision: self.newton_schulz_precision,
            trust_radius_adaptation: self.trust_radius_adaptation,
            trust_radius_rule: self.trust_radius_rule,
            seed: self.seed,
            ..OptimizerConfig::default()
        }
    }

    /// Learning rate and weight decay over the steps.
    pub fn learning_rate_schedule(&self) -> LearningRateSchedule {
        let (warmup_steps, share) = (self.warmup_steps, self.min_lr_ratio as f32);
        match self.schedule {
            ScheduleKind::Constant => LearningRateSchedule::Constant,
            ScheduleKind::Cosine => LearningRateSchedule::WarmupCosine { warmup_steps, final_fraction: share },
            ScheduleKind::TwoStage => LearningRateSchedule::TwoStage { warmup_steps, second_fraction: share },
        }
    }

    /// Fields that a resumed run may change: length, time limit, threads, logging, when to give up.
    pub const RESUMABLE: [&str; 6] =
        ["max_steps", "epochs", "time_limit", "threads", "log_interval", "max_skipped_steps"];

    /// The configuration without the fields of [`TrainConfig::RESUMABLE`] and what the machine gave: what a checkpoint belongs to.
    /// Fields younger than the first checkpoints count where they are not what runs did before there were any.
    pub(super) fn identity(&self) -> toml::Table {
        let mut table = self.to_table();
        if self.newton_schulz_precision == NewtonSchulzPrecision::F32 {
            table.remove("newton_schulz_precision");
        }
        for name in Self::RESUMABLE.into_iter().chain(["dense_rounding"]) {
            table.remove(name);
        }
        table
    }

    /// The configuration as a TOML table.
    pub fn to_table(&self) -> toml::Table {
        toml::from_str(&self.to_toml()).expect("a configuration is a flat table")
    }
}

/// The settings of `text`, which is the file `path`. Errors: as [`TrainConfig::from_toml`].
pub(super) fn parse_settings<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    toml::from_str::<toml::Table>(text).map_err(|error| toml_error(&error, path, text))?;
    toml::from_str(text).map_err(|error| setting_error(&error, path, text))
}

/// What a parser has against `text`, which is the file `path`.
pub(super) fn toml_error(error: &toml::de::Error, path: &Path, text: &str) -> Error {
    Error::format(path, error.span().map(|span| span.start as u64), toml_message(error, text))
}

/// What is wrong with a setting of `text`, which is TOML.
fn setting_error(error: &toml::de::Error, path: &Path, text: &str) -> Error {
    let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count());
    let line = line.and_then(|line| text.lines().nth(line)).unwrap_or_default();
    let key = line.split_once('=').map_or(line, |(key, _)| key).trim();
    let message = error.message().replace('\n', " ");
    // serde: `unknown variant X, expected one of ...`.
    let (found, expected) = message.split_once(", expected ").unwrap_or((&message, "another value"));
    Error::invalid(format!("{}: {key}", path.display()), expected, found)
}

/// A parser's message on one line, with the line of `text` that it is about.
pub(super) fn toml_message(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', " ");
    let before = error.span().and_then(|span| text.get(..span.start));
    match before.and_then(|before| text.lines().nth(before.matches('\n').count())) {
        Some(line) => format!("`{}`: {message}", line.trim()),
        None => message,
    }
}
