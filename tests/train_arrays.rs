//! The trainer on plain arrays: defaults, learning, the hybrid's switches, callbacks, bad numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hybridq::Result;
use hybridq::cluster::BatchStrategy;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::{ParamStore, Precision, StepRandomness};
use hybridq::optim::OptimizerKind;
use hybridq::tensor::RandomStream;
use hybridq::train::{
    ArrayData, ArrayObjective, ClusterFeatures, Objective, Progress, RunDirectory, ScheduleKind, StepMetrics,
    StopReason, TrainConfig, Trainer,
};

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

/// `y = A x + 0.1` with a fixed A.
fn linear_data(rows: usize, seed: u64) -> ArrayData {
    let mut stream = RandomStream::new(seed, 7, 0, 0);
    let inputs: Vec<f32> = (0..rows * 4).map(|_| stream.normal() as f32).collect();
    let a = [[1.0f32, -1.0, 0.0, 1.0], [0.0, 1.0, 1.0, -1.0]];
    let outputs = inputs
        .chunks_exact(4)
        .flat_map(|x| a.map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum::<f32>() + 0.1))
        .collect();
    ArrayData { inputs, outputs, rows }
}

fn objective(precision: Precision) -> ArrayObjective {
    ArrayObjective::new(linear_data(96, 1), Some(linear_data(32, 2)), &[4, 2], precision, 3).unwrap()
}

fn config() -> TrainConfig {
    TrainConfig {
        max_steps: 120,
        batch_size: 16,
        base_learning_rate: 0.05,
        warmup_steps: 0,
        gradient_clip_norm: 0.0,
        ..TrainConfig::default()
    }
}

/// The bits of every loss and of the final weights.
fn course(config: TrainConfig, threads: usize) -> (Vec<u64>, Vec<u32>) {
    let mut trainer = Trainer::new(context(threads), config, objective(Precision::Ternary)).unwrap();
    trainer.run().unwrap();
    let losses = trainer.history().steps.iter().map(|step| step.loss.to_bits()).collect();
    let store = trainer.objective().store();
    let weights = store.ids().flat_map(|id| store.weight(id).iter().map(|w| w.to_bits()).collect::<Vec<_>>());
    (losses, weights.collect())
}

/// The table of the specification, section 6: names and defaults.
#[test]
fn defaults_are_those_of_the_specification() {
    let expected: toml::Table = toml::from_str(
        "use_quantization = true\nquantizer_scale = 1.0\ntarget_bits = 1.58\nuse_clustering = true\ndata_clusters = 8\n\
         parameter_clusters = 4\nuse_auxiliary_nn = true\nauxiliary_nn_hidden_size = 16\n\
         auxiliary_nn_learning_rate = 0.001\nuse_trust_region = true\ninitial_trust_radius = 0.01\n\
         trust_radius_adaptation = true\nbase_learning_rate = 0.001\nuse_adaptive_lr = true\nmax_steps = 1000\n\
         batch_size = 32\nmomentum = 0.9\nweight_decay = 1e-5\nlog_interval = 10\neval_interval = 50\n",
    )
    .unwrap();
    let table = TrainConfig::default().to_table();
    for (name, value) in &expected {
        assert_eq!(table.get(name), Some(value), "{name}");
    }
    for name in ["quantize_gradients", "quantize_parameters", "gradient_clip_norm", "clustering_warmup_steps"] {
        assert!(table.contains_key(name), "{name}");
    }
    let text = TrainConfig::default().to_toml();
    assert_eq!(TrainConfig::from_toml(&text, Path::new("c.toml")).unwrap(), TrainConfig::default());
}

#[test]
fn a_linear_model_is_learned_in_f32_and_nearly_in_ternary() {
    // The targets' weights are ternary, so even the quantized model can fit them.
    for (precision, limit) in [(Precision::F32, 1e-3), (Precision::Ternary, 0.5)] {
        let config = TrainConfig { max_steps: 400, ..config() };
        let mut trainer = Trainer::new(context(2), config, objective(precision)).unwrap();
        let first = trainer.evaluate().unwrap().unwrap().val_loss;
        let summary = trainer.run().unwrap();
        let last = summary.evaluation.unwrap().val_loss;
        assert!(last < limit && last < first / 4.0, "{precision:?}: {first} -> {last}");
        assert_eq!((summary.stop, summary.steps), (StopReason::Finished, 400));
    }
}

#[test]
fn a_perceptron_has_the_gradients_of_finite_differences() {
    let context = context(1);
    let mut objective = ArrayObjective::new(linear_data(6, 5), None, &[4, 3, 2], Precision::F32, 9).unwrap();
    let indices = [0, 2, 5];
    let randomness = StepRandomness::default();
    objective.store_mut().zero_gradients();
    objective.loss_and_gradients(&context, &indices, randomness, 1.0).unwrap();
    for id in objective.store().ids() {
        for index in 0..objective.store().spec(id).len() {
            let gradient = f64::from(objective.store().gradient(id)[index]);
            let mut at = |delta: f32| {
                let old = objective.store().weight(id)[index];
                objective.store_mut().weight_mut(id)[index] = old + delta;
                // Gradients pile up in the store, but this one is read out above.
                let loss = objective.loss_and_gradients(&context, &indices, randomness, 0.0).unwrap();
                objective.store_mut().weight_mut(id)[index] = old;
                loss
            };
            let numeric = (at(1e-3) - at(-1e-3)) / 2e-3;
            assert!((gradient - numeric).abs() < 2e-3 * (1.0 + numeric.abs()), "{id:?} {index}: {gradient} {numeric}");
        }
    }
}

#[test]
fn with_every_hybrid_part_off_the_run_is_the_plain_optimizers() {
    let plain = course(TrainConfig { optimizer: OptimizerKind::AdamW, ..config() }, 2);
    let off = TrainConfig {
        use_clustering: false,
        use_auxiliary_nn: false,
        use_trust_region: false,
        use_adaptive_lr: false,
        ..config()
    };
    assert_eq!(course(off, 2), plain);
    assert_ne!(course(config(), 2).1, plain.1, "with its parts on the hybrid differs");
}

#[test]
fn the_course_is_a_function_of_the_seed_and_not_of_the_threads() {
    for strategy in [BatchStrategy::Stratified, BatchStrategy::RoundRobin, BatchStrategy::Random] {
        let config = TrainConfig { batch_strategy: strategy, schedule: ScheduleKind::TwoStage, ..config() };
        assert_eq!(course(config.clone(), 1), course(config.clone(), 2));
        assert_ne!(course(config.clone(), 1).0, course(TrainConfig { seed: 1, ..config }, 1).0);
    }
}

#[test]
fn accumulated_batches_give_the_gradient_of_one_large_batch() {
    let run = |batch_size, grad_accumulation| {
        let config = TrainConfig {
            batch_size,
            grad_accumulation,
            max_steps: 5,
            optimizer: OptimizerKind::Sgd,
            momentum: 0.0,
            ..config()
        };
        let mut trainer = Trainer::new(context(1), config, objective(Precision::F32)).unwrap();
        trainer.run().unwrap();
        trainer.history().steps.iter().map(|step| step.loss).collect::<Vec<_>>()
    };
    for (whole, parts) in run(16, 1).into_iter().zip(run(4, 4)) {
        assert!((whole - parts).abs() < 1e-5, "{whole} {parts}");
    }
}

#[test]
fn callbacks_hear_of_every_step_and_evaluation_and_cancelling_ends_the_run() {
    let heard = Arc::new(Mutex::new((0, 0)));
    let cancel = Arc::new(AtomicBool::new(false));
    let (counts, flag) = (heard.clone(), cancel.clone());
    let config = TrainConfig { eval_interval: 4, ..config() };
    let mut trainer = Trainer::new(context(1), config, objective(Precision::Ternary))
        .unwrap()
        .cancelled_by(cancel)
        .on_evaluation(|objective, _| Ok(BTreeMap::from([("examples".to_string(), objective.examples() as f64)])))
        .on_progress(move |progress| match progress {
            Progress::Step(step) => {
                counts.lock().unwrap().0 += 1;
                flag.store(step.step == 10, Ordering::Relaxed);
            }
            Progress::Evaluation(evaluation) => {
                assert_eq!(evaluation.custom["examples"], 96.0);
                counts.lock().unwrap().1 += 1;
            }
            Progress::Checkpoint(_) => panic!("a run without a folder has no checkpoints"),
        });
    let summary = trainer.run().unwrap();
    assert_eq!((summary.stop, summary.steps), (StopReason::Interrupted, 10));
    assert_eq!(*heard.lock().unwrap(), (10, 2));
    assert!(summary.mean_multiplier > 0.0 && summary.final_radius.is_some());
}

#[test]
fn a_time_limit_shorter_than_a_step_ends_after_one_step() {
    let config = TrainConfig { time_limit: Some(1e-3), max_steps: 1_000_000, ..config() };
    let mut trainer = Trainer::new(context(1), config, objective(Precision::F32)).unwrap();
    let summary = trainer.run().unwrap();
    assert_eq!(summary.stop, StopReason::TimeLimit);
    assert!(summary.steps >= 1);
}

#[test]
fn patience_ends_a_run_that_no_longer_improves() {
    let config = TrainConfig { eval_interval: 1, convergence_patience: 3, max_steps: 5000, ..config() };
    let mut trainer = Trainer::new(context(1), config, objective(Precision::Ternary)).unwrap();
    let summary = trainer.run().unwrap();
    assert_eq!(summary.stop, StopReason::Converged);
    let losses: Vec<f64> = trainer.history().evaluations.iter().map(|evaluation| evaluation.val_loss).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(losses.iter().position(|&loss| loss == best), Some(losses.len() - 4));
}

/// A user's own model: one weight, whose loss is NaN at some steps.
struct Parabola {
    store: ParamStore,
    poison: std::ops::Range<u32>,
}

impl Parabola {
    fn new(poison: std::ops::Range<u32>) -> Self {
        use hybridq::nn::{Init, ParamKind, ParamSpec};
        let spec = ParamSpec {
            name: "position".into(),
            shape: vec![1],
            kind: ParamKind::Bias,
            precision: Precision::F32,
            init: Init::Constant(3.0),
        };
        let mut store = ParamStore::new(vec![spec]).unwrap();
        store.initialize(0);
        Parabola { store, poison }
    }
}

impl Objective for Parabola {
    fn store(&self) -> &ParamStore {
        &self.store
    }

    fn store_mut(&mut self) -> &mut ParamStore {
        &mut self.store
    }

    fn examples(&self) -> usize {
        1
    }

    fn loss_and_gradients(
        &mut self,
        _context: &Context,
        _indices: &[usize],
        randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64> {
        let id = self.store.find("position").unwrap();
        let x = if self.poison.contains(&randomness.step) { f32::NAN } else { self.store.weight(id)[0] };
        self.store.gradient_mut(id)[0] += gradient_scale * 2.0 * x;
        Ok(f64::from(x * x))
    }

    fn identity(&self) -> String {
        "parabola".into()
    }
}

#[test]
fn a_users_own_model_gets_the_hybrid_optimizer() {
    let config = TrainConfig { max_steps: 300, initial_trust_radius: 0.1, ..config() };
    let mut trainer = Trainer::new(context(1), config, Parabola::new(0..0)).unwrap();
    let summary = trainer.run().unwrap();
    assert!(summary.final_loss.unwrap() < 0.1, "{summary:?}");
    assert!(summary.constraint_activation_rate > 0.0);
    assert_eq!(summary.evaluation, None);
}

fn position(trainer: &Trainer<Parabola>) -> u32 {
    let store = trainer.objective().store();
    store.weight(store.find("position").unwrap())[0].to_bits()
}

/// Steps that are left out change nothing but what is counted.
#[test]
fn steps_that_are_not_finite_are_skipped_and_counted() {
    let config = TrainConfig { schedule: ScheduleKind::Constant, warmup_steps: 0, max_steps: 30, ..config() };
    let mut trainer = Trainer::new(context(1), config, Parabola::new(7..10)).unwrap();
    for step in 0..30 {
        let (before, state) = (position(&trainer), format!("{:?}", trainer.optimizer().state()));
        let metrics = trainer.step().unwrap();
        assert_eq!(metrics.step, step + 1);
        if (7..10).contains(&step) {
            let reason = "loss NaN is not finite: gradient of position, element 0, is NaN";
            assert_eq!(metrics.skipped.as_deref(), Some(reason));
            assert_eq!((position(&trainer), format!("{:?}", trainer.optimizer().state())), (before, state));
            assert_eq!((metrics.update_norm, metrics.flip_rate), (0.0, 0.0));
            // A line of metrics holds it, and reads again.
            let line = serde_json::to_string(&metrics).unwrap();
            let read: StepMetrics = serde_json::from_str(&line).unwrap();
            assert!(line.contains("\"loss\":null") && read.loss.is_nan() && read.skipped == metrics.skipped);
        } else {
            assert_eq!(metrics.skipped, None);
            assert_ne!(position(&trainer), before);
        }
    }
    let summary = trainer.run().unwrap();
    assert_eq!((summary.steps, summary.skipped_steps), (30, 3));
    assert!(summary.final_loss.unwrap().is_finite());
}

/// The last of the steps that may be skipped in a row ends the run, which stands before it, with a checkpoint.
#[test]
fn too_many_skipped_steps_in_a_row_stop_the_run() {
    let reason = "loss NaN is not finite: gradient of position, element 0, is NaN";
    for (most, end) in [(0, ""), (1, ""), (4, " (4 steps in a row, max_skipped_steps = 4)")] {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { max_skipped_steps: most, max_steps: 60, ..config() };
        let start = |poison| Trainer::new(context(1), config.clone(), Parabola::new(poison)).unwrap();
        let path = folder.path().join("run");
        let directory = RunDirectory::create(Some(&path), "parabola").unwrap();
        let mut trainer = start(7..100).start_in(directory).unwrap();
        let message = trainer.run().unwrap_err().to_string();
        let done = 7 + most.saturating_sub(1);
        assert_eq!(message, format!("step {}: {reason}{end}", done + 1));
        assert_eq!(trainer.steps_done(), done);
        // Resumed, it stands where it stood: the next such step is one too many again, a good one goes on.
        let resume = |poison| start(poison).resume_in(RunDirectory::open(&path).unwrap().unwrap()).unwrap();
        let mut again = resume(7..100);
        assert_eq!((again.steps_done(), position(&again)), (done, position(&trainer)));
        assert_eq!(again.step().unwrap_err().to_string(), message);
        let mut healed = resume(0..0);
        assert_eq!(healed.step().unwrap().skipped, None);
    }
    // Fewer than that go by.
    let config = TrainConfig { max_skipped_steps: 3, max_steps: 10, ..config() };
    let mut trainer = Trainer::new(context(1), config, Parabola::new(2..4)).unwrap();
    assert_eq!(trainer.run().unwrap().skipped_steps, 2);
}

/// One cluster, more clusters than examples (cut to as many), examples that are all the same (clusters that would be empty).
#[test]
fn odd_clusters_train() {
    let same = ArrayData { inputs: [0.5, -1.0, 2.0, 0.1].repeat(30), outputs: [1.0, -1.0].repeat(30), rows: 30 };
    for data in [linear_data(30, 4), same] {
        for clusters in [1, 7, 1000] {
            for (features, by_loss) in [(ClusterFeatures::Data, true), (ClusterFeatures::Random, false)] {
                let config = TrainConfig {
                    data_clusters: clusters,
                    cluster_features: features,
                    loss_aware_sampling: by_loss,
                    batch_strategy: BatchStrategy::RoundRobin,
                    cluster_learning_rates: !by_loss,
                    max_steps: 60,
                    ..config()
                };
                let objective = ArrayObjective::new(data.clone(), None, &[4, 2], Precision::Ternary, 3).unwrap();
                let mut trainer = Trainer::new(context(1), config, objective).unwrap();
                trainer.run().unwrap();
                let steps = &trainer.history().steps;
                assert!(steps.iter().all(|step| step.cluster_losses.is_empty() == (step.step % 10 != 0)));
                let last = steps.last().unwrap();
                assert_eq!(last.cluster_losses.len(), clusters.min(30));
                assert!(last.loss.is_finite(), "{clusters} {by_loss}");
                assert!(last.cluster_losses.iter().flatten().all(|loss| loss.is_finite()));
            }
        }
    }
}

/// An objective that cannot weigh its examples says so when batches are drawn by loss.
#[test]
fn draws_by_loss_need_weights() {
    let config = TrainConfig { random_multiplier: 0.5, ..config() };
    let mut trainer = Trainer::new(context(1), config, Parabola::new(0..0)).unwrap();
    let rates: Vec<f32> = (0..3).map(|_| trainer.step().unwrap().lr).collect();
    assert!(rates[0] != rates[1] && rates[1] != rates[2], "the control draws each step's rate: {rates:?}");
    let error =
        trainer.objective_mut().weighted_loss_and_gradients(&context(1), &[0], &[1.0], StepRandomness::default(), 1.0);
    let message = error.unwrap_err().to_string();
    assert!(message.starts_with("loss_aware_sampling: expected an objective that weighs examples"), "{message}");
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let error = |data: ArrayData, widths: &[usize]| {
        ArrayObjective::new(data, None, widths, Precision::F32, 0).unwrap_err().to_string()
    };
    let good = linear_data(3, 1);
    assert!(error(ArrayData { rows: 4, ..good.clone() }, &[4, 2]).contains("inputs: expected 1 or more rows x 4"));
    assert!(error(ArrayData { rows: 0, inputs: vec![], outputs: vec![] }, &[4, 2]).contains("inputs"));
    assert!(error(good.clone(), &[4, 3]).contains("outputs"));
    assert!(error(good.clone(), &[4]).contains("widths"));
    let mut bad = good.clone();
    bad.inputs[5] = f32::INFINITY;
    assert!(error(bad, &[4, 2]).contains("inputs: element 5 is inf"));
}
