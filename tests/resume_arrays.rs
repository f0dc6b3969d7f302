//! Runs that stop anywhere and go on: metrics equal those of a run that never stopped; damaged checkpoints are survived.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hybridq::Error;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::Precision;
use hybridq::optim::{RadiusMode, RadiusRule, TrustNorm};
use hybridq::tensor::RandomStream;
use hybridq::train::{
    ArrayData, ArrayObjective, Checkpoint, Objective, Progress, RunDirectory, StepMetrics, StopReason, TrainConfig,
    Trainer, WeightScale,
};

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap()
}

fn objective(data_seed: u64) -> ArrayObjective {
    let mut stream = RandomStream::new(data_seed, 7, 0, 0);
    let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| stream.normal() as f32).collect() };
    let data = ArrayData { inputs: draw(60 * 5), outputs: draw(60 * 2), rows: 60 };
    let held_out = ArrayData { inputs: draw(10 * 5), outputs: draw(10 * 2), rows: 10 };
    ArrayObjective::new(data, Some(held_out), &[5, 8, 2], Precision::Ternary, 3).unwrap()
}

fn config() -> TrainConfig {
    TrainConfig {
        max_steps: 40,
        batch_size: 8,
        base_learning_rate: 0.02,
        eval_interval: 6,
        checkpoint_interval: 7,
        ..TrainConfig::default()
    }
}

fn new_trainer(config: TrainConfig) -> Trainer<ArrayObjective> {
    Trainer::new(context(), config, objective(1)).unwrap()
}

fn resume(root: &Path, config: TrainConfig) -> hybridq::Result<Trainer<ArrayObjective>> {
    new_trainer(config).resume_in(RunDirectory::open(root).unwrap().unwrap())
}

/// The lines without their times.
fn metrics(root: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(root.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "tokens_per_s");
        line
    };
    text.lines().map(line).collect()
}

fn weights(trainer: &Trainer<ArrayObjective>) -> Vec<u32> {
    let store = trainer.objective().store();
    store.ids().flat_map(|id| store.weight(id).iter().map(|w| w.to_bits()).collect::<Vec<_>>()).collect()
}

/// The course of a run that never stops.
fn whole(folder: &Path) -> (Vec<serde_json::Value>, Vec<u32>) {
    let root = folder.join("whole");
    let mut trainer = new_trainer(config()).start_in(RunDirectory::create(Some(&root), "m").unwrap()).unwrap();
    trainer.run().unwrap();
    (metrics(&root), weights(&trainer))
}

/// A run that dies after `step`, leaving whatever it has written by then.
fn dead_after(root: &Path, step: u64) {
    let mut trainer = new_trainer(config()).start_in(RunDirectory::create(Some(root), "m").unwrap()).unwrap();
    for _ in 0..step {
        let done = trainer.step().unwrap().step;
        if done.is_multiple_of(config().eval_interval) {
            trainer.evaluate().unwrap();
        }
        if done.is_multiple_of(config().checkpoint_interval) {
            trainer.checkpoint().unwrap();
        }
    }
}

fn checkpoints(root: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(root.join("checkpoints")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_run_that_died_goes_on_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let whole = whole(folder.path());
    assert_eq!(whole.0.len(), 40 + 7);
    for step in [0, 3, 7, 13, 14, 39] {
        let root = folder.path().join(format!("dead-{step}"));
        dead_after(&root, step);
        assert!(checkpoints(&root).len() <= 2);
        // Half a line, as a kill inside a write leaves it, and a checkpoint that was never finished.
        let log = root.join("metrics.jsonl");
        let mut text = std::fs::read(&log).unwrap();
        text.extend(b"{\"step\": 99, \"lo");
        std::fs::write(&log, text).unwrap();
        std::fs::write(root.join("checkpoints/.hybridq-abcdef.tmp"), "unfinished").unwrap();
        let mut trainer = resume(&root, config()).unwrap();
        assert_eq!(trainer.steps_done(), step / 7 * 7);
        trainer.run().unwrap();
        assert_eq!((metrics(&root), weights(&trainer)), whole, "died after {step}");
        assert!(!root.join("checkpoints/.hybridq-abcdef.tmp").exists());
    }
}

/// Every way to move the radius, in every norm, with the network: state is complete.
#[test]
fn runs_go_on_exactly_with_every_part_of_the_optimizer() {
    for rule in [RadiusRule::Network, RadiusRule::Schedule, RadiusRule::ReductionRatio] {
        for (norm, mode) in [(TrustNorm::Spectral, RadiusMode::Initial), (TrustNorm::L2, RadiusMode::Relative)] {
            let config = TrainConfig {
                trust_radius_rule: rule,
                reduction_probe_interval: 3,
                trust_norm: norm,
                radius_mode: mode,
                initial_trust_radius: 0.02,
                ..config()
            };
            let mut whole = new_trainer(config.clone());
            (0..20).for_each(|_| drop(whole.step().unwrap()));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state");
            let mut first = new_trainer(config.clone());
            (0..11).for_each(|_| drop(first.step().unwrap()));
            first.save_state(&path).unwrap();
            let mut second = new_trainer(config);
            second.load_state(&path).unwrap();
            (0..9).for_each(|_| drop(second.step().unwrap()));
            assert_eq!(weights(&second), weights(&whole), "{rule:?} {norm:?}");
            let radii = |trainer: &Trainer<ArrayObjective>| -> Vec<Option<f32>> {
                trainer.history().steps.iter().map(|step| step.trust_radius).collect()
            };
            assert_eq!(radii(&second), radii(&whole)[11..]);
            if rule == RadiusRule::ReductionRatio {
                let changes: Vec<usize> = (1..20).filter(|&i| radii(&whole)[i] != radii(&whole)[i - 1]).collect();
                assert!(!changes.is_empty() && changes.iter().all(|step| step % 3 == 0), "{changes:?}");
            }
        }
    }
}

/// Precisions, scales, frozen matrices and losses of clusters that change on the way are part of the state.
#[test]
fn runs_go_on_exactly_with_forms_that_change() {
    let config = TrainConfig {
        adaptive_bits: true,
        precision_interval: 5,
        max_bits: 4.0,
        target_bits: 2.4,
        weight_scale: WeightScale::Learned,
        freeze_flip_rate: 0.02,
        freeze_patience: 4,
        warmup_steps: 2,
        loss_aware_sampling: true,
        random_multiplier: 0.3,
        ..config()
    };
    let mut whole = new_trainer(config.clone());
    (0..36).for_each(|_| drop(whole.step().unwrap()));
    let course = |trainer: &Trainer<ArrayObjective>| -> Vec<String> {
        let line = |step: &StepMetrics| {
            serde_json::to_string(&StepMetrics { seconds: 0.0, tokens_per_s: 0.0, ..step.clone() }).unwrap()
        };
        trainer.history().steps.iter().map(line).collect()
    };
    let steps = &whole.history().steps;
    assert!(steps.iter().any(|step| step.precisions.values().any(|&precision| precision != Precision::Ternary)));
    let frozen: Vec<usize> = steps.iter().map(|step| step.frozen).collect();
    assert!(frozen[35] > 0 && frozen[3] == 0, "matrices freeze on the way: {frozen:?}");
    assert!(steps.iter().all(|step| step.mean_bits.unwrap() <= 2.4 + 0.005));
    for at in [3, 11, 24] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut first = new_trainer(config.clone());
        (0..at).for_each(|_| drop(first.step().unwrap()));
        first.save_state(&path).unwrap();
        let mut second = new_trainer(config.clone());
        second.load_state(&path).unwrap();
        (at..36).for_each(|_| drop(second.step().unwrap()));
        assert_eq!(weights(&second), weights(&whole), "from step {at}");
        assert_eq!(course(&second), course(&whole)[at..], "from step {at}");
    }
}

#[test]
fn a_cancelled_run_goes_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let whole = whole(folder.path());
    let root = folder.path().join("cancelled");
    let mut directory = Some(RunDirectory::create(Some(&root), "m").unwrap());
    for stop_at in [5, 12, 31, 1000] {
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = cancel.clone();
        let trainer = new_trainer(config()).cancelled_by(cancel).on_progress(move |progress| {
            if let Progress::Step(step) = progress {
                flag.store(step.step == stop_at, Ordering::Relaxed);
            }
        });
        let mut trainer = match directory.take() {
            Some(directory) => trainer.start_in(directory).unwrap(),
            None => trainer.resume_in(RunDirectory::open(&root).unwrap().unwrap()).unwrap(),
        };
        let summary = trainer.run().unwrap();
        assert_eq!(summary.stop == StopReason::Interrupted, stop_at < 1000);
    }
    assert_eq!(metrics(&root), whole.0);
    // Going on with a finished run changes nothing.
    resume(&root, config()).unwrap().run().unwrap();
    assert_eq!(metrics(&root), whole.0);
    let began = TrainConfig { dense_rounding: Some(context().dense_rounding()), ..config() };
    assert_eq!(RunDirectory::open(&root).unwrap().unwrap().read_config().unwrap(), began);
}

/// Spoils a checkpoint.
type Damage = fn(&Path);

#[test]
fn damaged_checkpoints_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let whole = whole(folder.path());
    let damages: [(&str, Damage); 5] = [
        ("truncated", |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("bit-flipped tensor", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let last = bytes.len() - 5;
            bytes[last] ^= 4;
            std::fs::write(path, bytes).unwrap();
        }),
        ("bit-flipped header", |path| {
            let text = std::fs::read(path).unwrap();
            let at = text.windows(6).position(|w| w == b"tokens").unwrap() + 10;
            let mut bytes = text;
            bytes[at] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
        ("empty", |path| std::fs::write(path, "").unwrap()),
        ("foreign", |path| {
            let folder = tempfile::tempdir().unwrap();
            let directory = RunDirectory::create(Some(folder.path()), "m").unwrap();
            let mut other = Trainer::new(context(), config(), objective(2)).unwrap().start_in(directory).unwrap();
            for _ in 0..3 {
                other.step().unwrap();
            }
            other.checkpoint().unwrap();
            std::fs::copy(checkpoints(folder.path()).pop().unwrap(), path).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let root = folder.path().join(name);
        dead_after(&root, 16);
        let files = checkpoints(&root);
        assert_eq!(files.len(), 2);
        damage(&files[1]);
        assert!(Checkpoint::open(&files[1], None).is_err() || name == "foreign");
        let mut trainer = resume(&root, config()).unwrap();
        assert_eq!(trainer.steps_done(), 7, "{name}: the older one");
        trainer.run().unwrap();
        assert_eq!(metrics(&root), whole.0, "{name}");
        damage(&checkpoints(&root)[0]);
        damage(&checkpoints(&root)[1]);
        let message = resume(&root, config()).err().unwrap().to_string();
        assert!(message.contains("none of the 2 checkpoints can be used"), "{name}: {message}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    dead_after(&root, 7);
    let path = checkpoints(&root).pop().unwrap();
    let good = std::fs::read(&path).unwrap();
    let identity = Checkpoint::open(&path, None).unwrap().header.identity;
    for at in (0..good.len()).step_by(97) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        // Padding blanks of the header carry nothing: a change there either breaks the JSON or does not matter.
        let opened = Checkpoint::open(&path, Some(&identity));
        assert!(opened.is_err() || good[at] == b' ', "byte {at} of {}", good.len());
    }
}

#[test]
fn another_model_data_or_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    dead_after(&root, 8);
    let open = || RunDirectory::open(&root).unwrap().unwrap();
    let changed = [
        new_trainer(TrainConfig { seed: 5, ..config() }),
        new_trainer(TrainConfig { base_learning_rate: 0.03, ..config() }),
        Trainer::new(context(), config(), objective(2)).unwrap(),
    ];
    for trainer in changed {
        assert!(trainer.resume_in(open()).err().unwrap().to_string().contains("can be used"));
    }
    let longer = TrainConfig { max_steps: 50, threads: Some(1), log_interval: 3, ..config() };
    let mut trainer = new_trainer(longer.clone()).resume_in(open()).unwrap();
    assert_eq!(trainer.run().unwrap().steps, 50);
    let longer = TrainConfig { dense_rounding: Some(context().dense_rounding()), ..longer };
    assert_eq!(open().read_config().unwrap(), longer);
}

#[test]
fn a_folder_with_a_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    dead_after(&root, 1);
    let error = RunDirectory::create(Some(&root), "m").unwrap_err();
    assert!(matches!(error, Error::InvalidValue { .. }));
    assert!(error.to_string().starts_with("--out: expected a folder without a run, or --resume"), "{error}");
    assert_eq!(RunDirectory::open(&folder.path().join("nothing")).unwrap(), None);
}

#[test]
fn metrics_cut_short_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    dead_after(&root, 8);
    std::fs::write(root.join("metrics.jsonl"), "").unwrap();
    let message = resume(&root, config()).err().unwrap().to_string();
    assert!(message.contains("metrics.jsonl at byte 0: 0 bytes, the checkpoint expects at least"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_cannot_be_written_keeps_the_older_ones() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    dead_after(&root, 14);
    let before = checkpoints(&root);
    let mut trainer = resume(&root, config()).unwrap();
    trainer.step().unwrap();
    // A folder in the place of the file: renaming onto it fails for root as well.
    std::fs::create_dir(root.join("checkpoints/step-0000000015.safetensors")).unwrap();
    let error = trainer.checkpoint().unwrap_err().to_string();
    assert!(error.contains("step-0000000015.safetensors"), "{error}");
    std::fs::remove_dir(root.join("checkpoints/step-0000000015.safetensors")).unwrap();
    assert_eq!(checkpoints(&root), before, "nothing else was left or removed");
    assert_eq!(resume(&root, config()).unwrap().steps_done(), 14);
}

#[test]
fn reports_are_written_and_need_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    let mut trainer = new_trainer(config())
        .with_baselines(|| Ok(vec![("bigram <b>".to_string(), 3.5)]))
        .start_in(RunDirectory::create(Some(&root), "m").unwrap())
        .unwrap();
    trainer.run().unwrap();
    let html = std::fs::read_to_string(root.join("report.html")).unwrap();
    assert!(html.matches("<svg").count() >= 5 && html.contains("trust radius: "));
    assert!(html.contains("Loss of each data cluster") && !html.contains("<h2>Precisions"));
    assert!(html.contains("base_learning_rate") && html.contains("color-scheme: light dark"));
    for outside in ["<script", "<link", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.len() < 300_000, "{} bytes", html.len());
}

#[test]
fn reports_show_what_was_planned() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    let config = TrainConfig { adaptive_bits: true, precision_interval: 10, use_auxiliary_nn: false, ..config() };
    let mut trainer = new_trainer(config).start_in(RunDirectory::create(Some(&root), "m").unwrap()).unwrap();
    let summary = trainer.run().unwrap();
    assert!(summary.mean_bits.is_some_and(|bits| (1.0..=1.585 + 1e-3).contains(&bits)), "{:?}", summary.mean_bits);
    let html = std::fs::read_to_string(root.join("report.html")).unwrap();
    assert!(html.contains("<h2>Precisions") && html.contains("layers.1.weight"));
    // No network: no plot of its multiplier.
    assert!(html.contains("The same at every step: learning-rate multiplier: 1"), "{html}");
    assert!(!html.contains("<figcaption>Learning-rate multiplier"));
}

#[test]
fn a_run_keeps_how_dense_products_rounded_and_goes_on_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    let mut trainer = new_trainer(config()).start_in(RunDirectory::create(Some(&root), "m").unwrap()).unwrap();
    trainer.run().unwrap();
    let here = context().dense_rounding();
    let text = std::fs::read_to_string(root.join("config.toml")).unwrap();
    assert!(text.contains(&format!("dense_rounding = \"{here}\"")), "{text}");
    // As if the run had begun on a machine whose dense products round in another way: a warning, no error.
    let longer = TrainConfig { max_steps: 45, dense_rounding: Some("01234567".into()), ..config() };
    let mut trainer = resume(&root, longer).unwrap();
    assert_eq!(trainer.config().dense_rounding.as_deref(), Some("01234567"));
    assert_eq!(trainer.run().unwrap().steps, 45);
}
