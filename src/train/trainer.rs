//! The trainer: one step of a run, and what it needs.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::batches::{Batch, BatchSampler};
use super::checkpoint::sha256;
use super::cluster_losses::ClusterLosses;
use super::config::{ClusterFeatures, TrainConfig};
use super::freezing::Freezing;
use super::learned_scales::{LearnedScales, WeightScale};
use super::metrics::{EvaluationMetrics, History, MetricsLog, StepMetrics};
use super::objective::{Features, Objective};
use super::parameter_report::ParameterReport;
use super::run_directory::RunDirectory;
use crate::cluster::DataClustering;
use crate::dispatch::Context;
use crate::nn::{KeptPrecision, ParamStore, StepRandomness};
use crate::optim::{LearningRateSchedule, Optimizer, RadiusRule, TrainingState};
use crate::quant::{GradientDraw, GradientQuantizer, OutputScale, quantize_gradients};
use crate::tensor::RandomStream;
use crate::{Error, Result};

/// Random streams of the control of a random learning rate (see [`RandomStream::new`]).
const RANDOM_MULTIPLIER_PURPOSE: u32 = 64;

/// What a progress callback is told.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A step was done.
    Step(&'a StepMetrics),
    /// An evaluation was done.
    Evaluation(&'a EvaluationMetrics),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
}

type ProgressCallback = Box<dyn FnMut(Progress<'_>) + Send>;
type EvaluationCallback<O> = Box<dyn FnMut(&mut O, &Context) -> Result<BTreeMap<String, f64>> + Send>;
type Baselines = Box<dyn FnOnce() -> Result<Vec<(String, f64)>> + Send>;

/// Trains an [`Objective`]: clusters the data, then at each step picks a batch, takes loss and gradients, clips, updates
/// through the optimizer, quantizes, and reports.
///
/// [`Trainer::step`] does one step; [`Trainer::run`] does the whole run with evaluations and, in a run directory,
/// metrics, checkpoints, the model and the report.
pub struct Trainer<O: Objective> {
    pub(super) context: Context,
    pub(super) config: TrainConfig,
    pub(super) objective: O,
    pub(super) optimizer: Box<dyn Optimizer>,
    pub(super) run: Option<(RunDirectory, MetricsLog)>,
    pub(super) history: History,
    pub(super) steps_done: u64,
    /// Of the last step.
    pub(super) flip_rate: f64,
    pub(super) tokens: u64,
    pub(super) seconds: f64,
    /// Lowest validation loss, and evaluations since.
    pub(super) convergence: (f64, u64),
    pub(super) progress: Option<ProgressCallback>,
    pub(super) evaluation: Option<EvaluationCallback<O>>,
    pub(super) cancel: Arc<AtomicBool>,
    /// Named losses to stand beside the run's, in bits per byte: found when first needed.
    pub(super) pending_baselines: Option<Baselines>,
    pub(super) baselines: Vec<(String, f64)>,
    /// Found when the run ends.
    pub(super) parameters: Vec<ParameterReport>,
    pub(super) cluster_losses: ClusterLosses,
    pub(super) learned_scales: LearnedScales,
    pub(super) freezing: Freezing,
    pub(super) schedule: LearningRateSchedule,
    sampler: BatchSampler,
    /// The examples of the step that runs, and their losses: kept, so that it allocates nothing.
    pub(super) batch: Batch,
    example_losses: Vec<f64>,
}

/// Steps whose metrics have room from the start.
const RECORDED_STEPS: u64 = 1024;

impl<O: Objective> Trainer<O> {
    /// A trainer at step 0. With `epochs` in the configuration, `max_steps` is found from the number of examples.
    ///
    /// Errors: a configuration out of range, a weight that is not finite, what the objective's features give.
    pub fn new(context: Context, mut config: TrainConfig, mut objective: O) -> Result<Self> {
        config.validate()?;
        let here = context.dense_rounding();
        let began = config.dense_rounding.get_or_insert_with(|| here.clone());
        if *began != here {
            tracing::warn!(
                "dense f32 products round differently here ({here}) than where the run began ({began}): it goes on, but not \
                 bit for bit"
            );
        }
        let examples = objective.examples();
        if examples == 0 {
            return Err(Error::invalid("training data", "at least one example", 0));
        }
        let names = ["latent_precision", "kept_gradient_precision"];
        let asked = [config.latent_precision, config.kept_gradient_precision];
        for ((asked, there), name) in asked.into_iter().zip(objective.store().is_in_fewer_bits()).zip(names) {
            if asked != KeptPrecision::F32 && !there {
                let expected = "f32 (else: models of text and batches only)";
                return Err(Error::invalid(name, expected, format!("{asked:?}").to_lowercase()));
            }
        }
        if let Some(epochs) = config.epochs {
            let per_step = (config.batch_size * config.grad_accumulation) as f64;
            config.max_steps = (epochs * examples as f64 / per_step).ceil().max(1.0) as u64;
        }
        let fit = |features: Features| match config.cluster_features {
            ClusterFeatures::Data => {
                DataClustering::fit(&context, &features.values, features.dim, config.data_clusters, config.seed)
            }
            ClusterFeatures::Random => DataClustering::random(examples, config.data_clusters, config.seed),
        };
        let features = if config.clusters_data() { objective.features(&context)? } else { None };
        let sampler = BatchSampler {
            seed: config.seed,
            examples,
            clusters: features.map(fit).transpose()?,
            strategy: config.batch_strategy,
            by_loss: config.loss_aware_sampling,
            first_step: config.clustering_warmup_steps,
        };
        let optimizer = config.optimizer_config().build(objective.store())?;
        let scale = OutputScale { least_squares: config.weight_scale == WeightScale::LeastSquares, factor: 1.0 };
        let store = objective.store_mut();
        for id in store.ids() {
            store.set_output_scale(id, scale);
        }
        objective.store_mut().quantize(&context)?;
        Ok(Trainer {
            history: History {
                steps: Vec::with_capacity(config.max_steps.min(RECORDED_STEPS) as usize),
                ..History::default()
            },
            schedule: config.learning_rate_schedule(),
            cluster_losses: ClusterLosses::new(sampler.clusters.as_ref().map_or(0, DataClustering::clusters)),
            learned_scales: LearnedScales::new(objective.store()),
            freezing: Freezing::new(objective.store()),
            example_losses: Vec::new(),
            context,
            config,
            objective,
            optimizer,
            run: None,
            steps_done: 0,
            flip_rate: 0.0,
            tokens: 0,
            seconds: 0.0,
            convergence: (f64::INFINITY, 0),
            progress: None,
            evaluation: None,
            cancel: Arc::new(AtomicBool::new(false)),
            pending_baselines: None,
            baselines: Vec::new(),
            parameters: Vec::new(),
            sampler,
            batch: Batch::default(),
        })
    }

    /// Calls `progress` after every step, evaluation and checkpoint.
    pub fn on_progress(mut self, progress: impl FnMut(Progress<'_>) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Calls `evaluate` at every evaluation; its finite values join the evaluation's metrics. It must leave the parameters
    /// as they are.
    pub fn on_evaluation(
        mut self,
        evaluate: impl FnMut(&mut O, &Context) -> Result<BTreeMap<String, f64>> + Send + 'static,
    ) -> Self {
        self.evaluation = Some(Box::new(evaluate));
        self
    }

    /// Ends [`Trainer::run`] with a checkpoint after the step during which `cancel` becomes true.
    pub fn cancelled_by(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.cancel = cancel;
        self
    }

    /// Losses of other models on the same data, in bits per byte, for the report; found at the first evaluation.
    pub fn with_baselines(mut self, find: impl FnOnce() -> Result<Vec<(String, f64)>> + Send + 'static) -> Self {
        self.pending_baselines = Some(Box::new(find));
        self
    }

    /// What is trained.
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// What is trained, to evaluate or generate with.
    pub fn objective_mut(&mut self) -> &mut O {
        &mut self.objective
    }

    /// The effective configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The context the trainer computes in.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The optimizer, for its auxiliary network.
    pub fn optimizer(&self) -> &dyn Optimizer {
        &*self.optimizer
    }

    /// The optimizer, to put a trained auxiliary network in before the first step.
    pub fn optimizer_mut(&mut self) -> &mut dyn Optimizer {
        &mut *self.optimizer
    }

    /// Every metric so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// The run's folder, if it has one.
    pub fn directory(&self) -> Option<&RunDirectory> {
        self.run.as_ref().map(|(run, _)| run)
    }

    /// The losses of [`Trainer::with_baselines`], once found.
    pub fn baselines(&self) -> &[(String, f64)] {
        &self.baselines
    }

    /// Digest of everything that must be the same when a run goes on.
    pub(super) fn identity(&self) -> String {
        sha256(format!("{}\n{}", self.config.identity(), self.objective.identity()).as_bytes())
    }

    /// One step: batch, loss and gradients, clipping, update, quantization, metrics.
    ///
    /// A loss or gradient that is not finite skips the step: weights and state stay, [`StepMetrics::skipped`] names the first
    /// tensor that holds such a number. Error: the `max_skipped_steps`th such step in a row, which then does not count as done.
    pub fn step(&mut self) -> Result<StepMetrics> {
        let start = Instant::now();
        let (config, step) = (&self.config, self.steps_done);
        let parts = config.grad_accumulation;
        let mut batch = std::mem::take(&mut self.batch);
        self.sampler.draw(step, config.batch_size * parts, &self.cluster_losses, &mut batch);
        let (context, store) = (&self.context, self.objective.store_mut());
        context.install(|| store.zero_gradients_on(context));
        let scale = 1.0 / parts as f32;
        self.example_losses.clear();
        let loss =
            batch_loss(&mut self.objective, &self.context, config, step, &batch, scale, &mut self.example_losses)?;
        let errors = self.objective.take_gradient_errors();
        let store = self.objective.store_mut();
        let grad_norm = context.install(|| match config.gradient_clip_norm {
            0.0 => store.gradient_norm(context),
            max => store.clip_gradients(context, max, step),
        });
        if !loss.is_finite() || !grad_norm.is_finite() {
            return self.skip(batch, loss, grad_norm, start);
        }
        if config.quantizes_gradients() {
            quantize(&self.context, self.objective.store_mut(), config.seed, step as u32)?;
        }
        let scheduled = self.schedule.learning_rate(config.base_learning_rate as f32, step, config.max_steps);
        let lr = scheduled * self.rate_factor(step, batch.cluster);
        let weight_decay = self.schedule.weight_decay(config.weight_decay as f32, step, config.max_steps);
        let state = TrainingState {
            step,
            loss: loss as f32,
            learning_rate: lr,
            weight_decay,
            gradient_norm: grad_norm,
            cluster: batch.cluster,
            progress: (step as f64 / config.max_steps.max(1) as f64) as f32,
            flip_rate: self.flip_rate as f32,
            log_reach: 0.0,
        };
        let (context, optimizer, store) = (&self.context, &mut self.optimizer, self.objective.store_mut());
        let learned = (config.weight_scale == WeightScale::Learned).then_some(&mut self.learned_scales);
        // All work tensor by tensor: one hand-over to the threads instead of several for each.
        let (report, quantized) = context.install(|| -> Result<_> {
            if let Some(scales) = learned {
                scales.update(context, store, lr / config.base_learning_rate as f32, step);
            }
            let report = optimizer.step(context, store, &state)?;
            Ok((report, store.quantize(context)?))
        })?;
        let probes = config.trust_radius_rule == RadiusRule::ReductionRatio && config.use_trust_region;
        if probes && (step + 1).is_multiple_of(config.reduction_probe_interval) {
            let after = batch_loss(&mut self.objective, &self.context, config, step, &batch, 0.0, &mut Vec::new())?;
            self.objective.take_gradient_errors(); // counted with the step's own
            self.optimizer.observe_reduction((loss - after) as f32);
        }
        let settles = config.freeze_flip_rate > 0.0 && step >= config.warmup_steps;
        if settles {
            let (threshold, patience) = (config.freeze_flip_rate as f32, config.freeze_patience);
            self.freezing.observe(self.objective.store_mut(), threshold, patience);
        }
        let mut precisions = BTreeMap::new();
        if config.adaptive_bits && (step + 1).is_multiple_of(config.precision_interval) && step + 1 < config.max_steps {
            let randomness = StepRandomness { seed: config.seed, step: (step * parts as u64) as u32 };
            let examples = &batch.examples[..config.batch_size.min(batch.examples.len())];
            precisions = self.plan_precisions(examples, randomness)?;
        }
        if let Some(clusters) = self.sampler.clusters.as_ref().filter(|_| !self.example_losses.is_empty()) {
            let labels = batch.examples.iter().map(|&example| clusters.labels()[example] as usize);
            self.cluster_losses.observe(labels.zip(self.example_losses.iter().copied()));
        }
        let config = &self.config;
        let tokens = (batch.examples.len() * self.objective.tokens_per_example()) as u64;
        let elapsed = start.elapsed().as_secs_f64();
        self.steps_done += 1;
        self.flip_rate = quantized.flip_rate;
        self.tokens += tokens;
        self.seconds += elapsed;
        let metrics = StepMetrics {
            step: self.steps_done,
            tokens: self.tokens,
            loss,
            lr,
            lr_multiplier: report.lr_multiplier,
            trust_radius: report.trust_radius.is_finite().then_some(report.trust_radius),
            update_norm: report.update_norm,
            constraint_active: report.constraint_active,
            grad_norm,
            quant_error: quantized.quant_error,
            flip_rate: quantized.flip_rate,
            alignment: report.alignment,
            gradient_error: errors.largest,
            f32_gradients: errors.in_f32.iter().map(|&id| self.objective.store().spec(id).name.clone()).collect(),
            cluster: batch.cluster,
            cluster_losses: match self.steps_done.is_multiple_of(config.log_interval) {
                true => self.cluster_losses.means.iter().map(|mean| mean.is_finite().then_some(*mean)).collect(),
                false => Vec::new(),
            },
            mean_bits: config.adaptive_bits.then(|| self.mean_bits()),
            precisions,
            frozen: Freezing::frozen(self.objective.store()),
            skipped: None,
            seconds: self.seconds,
            tokens_per_s: tokens as f64 / elapsed.max(1e-9),
        };
        self.batch = batch;
        self.record(metrics)
    }

    /// Tells everybody about a step.
    pub(super) fn record(&mut self, metrics: StepMetrics) -> Result<StepMetrics> {
        if let Some((_, log)) = &mut self.run {
            log.append(&metrics)?;
        }
        self.history.steps.push(metrics.clone());
        if let Some(progress) = &mut self.progress {
            progress(Progress::Step(&metrics));
        }
        Ok(metrics)
    }

    /// Loss on the held-out examples, with the custom metrics; `None` if there is nothing to evaluate.
    pub fn evaluate(&mut self) -> Result<Option<EvaluationMetrics>> {
        let Some(evaluation) = self.objective.evaluate(&self.context)? else { return Ok(None) };
        let mut custom = BTreeMap::new();
        if let Some(evaluate) = &mut self.evaluation {
            custom = evaluate(&mut self.objective, &self.context)?;
            custom.retain(|_, value| value.is_finite());
        }
        if !evaluation.loss.is_finite() {
            let reason = self.not_finite(evaluation.loss, 0.0);
            return Err(Error::Training(format!("evaluation after step {}: {reason}", self.steps_done)));
        }
        let metrics = EvaluationMetrics {
            step: self.steps_done,
            val_loss: evaluation.loss,
            val_bits_per_byte: evaluation.bits_per_byte,
            custom,
        };
        if let Some((_, log)) = &mut self.run {
            log.append(&metrics)?;
        }
        self.history.evaluations.push(metrics.clone());
        if let Some(progress) = &mut self.progress {
            progress(Progress::Evaluation(&metrics));
        }
        Ok(Some(metrics))
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Factor on the scheduled learning rate: of the batch's cluster, or of the control.
    fn rate_factor(&self, step: u64, cluster: Option<usize>) -> f32 {
        let of_cluster = match cluster.filter(|_| self.config.cluster_learning_rates) {
            Some(cluster) => self.cluster_losses.rate_factor(cluster),
            None => 1.0,
        };
        let random = match self.config.random_multiplier {
            0.0 => 1.0,
            std => {
                let (low, high) = (step as u32, (step >> 32) as u32);
                libm::exp(std * RandomStream::new(self.config.seed, RANDOM_MULTIPLIER_PURPOSE, low, high).normal())
            }
        };
        (of_cluster * random) as f32
    }
}

/// Mean loss of a step's batch, taken in the parts of gradient accumulation; `scale` times each part's gradient is added to
/// the store's. The losses of examples are appended to `losses`, where the objective knows them.
fn batch_loss<O: Objective>(
    objective: &mut O,
    context: &Context,
    config: &TrainConfig,
    step: u64,
    batch: &Batch,
    scale: f32,
    losses: &mut Vec<f64>,
) -> Result<f64> {
    let parts = config.grad_accumulation;
    let mut loss = 0.0;
    let mut weights = batch.weights.chunks(config.batch_size);
    for (part, examples) in batch.examples.chunks(config.batch_size).enumerate() {
        let number = step * parts as u64 + part as u64;
        let randomness = StepRandomness { seed: config.seed, step: number as u32 };
        loss += match weights.next() {
            Some(weights) => objective.weighted_loss_and_gradients(context, examples, weights, randomness, scale)?,
            None if scale == 0.0 => objective.loss(context, examples, randomness)?,
            None => objective.loss_and_gradients(context, examples, randomness, scale)?,
        } / parts as f64;
        losses.extend_from_slice(objective.example_losses());
    }
    Ok(loss)
}

/// Quantizes the gradient of every parameter.
fn quantize(context: &Context, store: &mut ParamStore, seed: u64, step: u32) -> Result<()> {
    for id in store.ids() {
        let draw = GradientDraw { seed, step, tensor: id.index() as u32 };
        quantize_gradients(context, &GradientQuantizer::default(), draw, store.gradient_mut(id))?;
    }
    Ok(())
}
