//! Training beside PyTorch: the same initial weights, batches and schedule, step for step.
//!
//! Reads the folder `HYBRIDQ_PARITY_DIR` that `tests/peers/export_bitmodel.py` writes, and for whole runs the folder
//! `HYBRIDQ_PARITY_RUN_DIR` that it writes with `--validate`.

use std::path::{Path, PathBuf};

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::SafetensorsFile;
use hybridq::models::Model;
use hybridq::nn::{Batch, Executor, Mode, ParamKind, StepRandomness};
use hybridq::optim::{AdamW, Optimizer, TrainingState};

#[derive(serde::Deserialize)]
struct Run {
    learning_rates: Vec<f64>,
    losses: Vec<f64>,
    /// The losses in f64 arithmetic.
    exact_losses: Vec<f64>,
    gradient_norms: Vec<f64>,
    /// How far PyTorch's own gradients in f32 and f64 arithmetic are apart.
    gradient_spread: f64,
    /// Sequences of the first batch whose first tokens have gradients in short.safetensors.
    short: Vec<usize>,
}

fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: PyTorch parity: {variable} names no folder (see tests/peers/export_bitmodel.py)");
    }
    folder
}

/// Sequences of one token more than a batch's length, the tokens to read and the tokens to predict.
fn split(sequences: &[i32], length: usize) -> (Vec<u32>, Vec<u32>) {
    let ids = |from: usize| -> Vec<u32> {
        sequences.chunks(length + 1).flat_map(|row| row[from..from + length].iter().map(|&id| id as u32)).collect()
    };
    (ids(0), ids(1))
}

/// AdamW as make_optimizer of bitmodel.py sets it (betas 0.9 and 0.95, decay 0.1 of matrices and tables), in f64.
struct Reference {
    moments: Vec<[Vec<f64>; 2]>,
}

impl Reference {
    fn step(&mut self, model: &mut Model, rate: f64, step: i32) {
        for (id, [first, second]) in model.store.ids().zip(&mut self.moments) {
            let decays = matches!(model.store.spec(id).kind, ParamKind::Linear | ParamKind::Embedding);
            let (weights, gradients) = model.store.weight_and_gradient_mut(id);
            for (index, (weight, gradient)) in weights.iter_mut().zip(gradients).enumerate() {
                let (m, v, g) = (&mut first[index], &mut second[index], f64::from(*gradient));
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.95 * *v + 0.05 * g * g;
                let direction = (*m / (1.0 - 0.9f64.powi(step))) / ((*v / (1.0 - 0.95f64.powi(step))).sqrt() + 1e-8);
                let kept = if decays { 1.0 - rate * 0.1 } else { 1.0 };
                *weight = (f64::from(*weight) * kept - rate * direction) as f32;
            }
        }
    }
}

fn compare(folder: &Path, tolerance: f64) {
    let context = Context::new(ContextOptions::default()).unwrap();
    let mut model = Model::load(folder).unwrap();
    let run: Run = serde_json::from_str(&std::fs::read_to_string(folder.join("run.json")).unwrap()).unwrap();
    let gradients = SafetensorsFile::open(folder.join("gradients.safetensors")).unwrap();
    let batches = SafetensorsFile::open(folder.join("../batches.safetensors")).unwrap();
    let shape = batches.tensor("tokens").unwrap().shape.clone();
    let all = batches.elements::<i32>("tokens", &shape).unwrap();
    let (sequences, length) = (shape[1], shape[2] - 1);
    let mut executor = Executor::new(&model.plan, Mode::Train, sequences * length);
    model.store.quantize(&context).unwrap();
    assert!(!run.short.is_empty(), "no stretch for the sharp comparison");
    let short = SafetensorsFile::open(folder.join("short.safetensors")).unwrap();
    for sequence in run.short {
        let ids: Vec<u32> = all[sequence * (length + 1)..][..9].iter().map(|&id| id as u32).collect();
        let batch = Batch { tokens: &ids[..8], targets: &ids[1..], sequences: 1, length: 8, ..Batch::default() };
        model.store.zero_gradients();
        executor.step(&model.plan, &context, &mut model.store, batch, StepRandomness::default(), 1.0).unwrap();
        let what = format!("8 tokens of sequence {sequence}");
        compare_gradients(&what, &model, &short, &format!("{sequence}."), 1e-3);
    }
    let moments = model.store.ids().map(|id| [(); 2].map(|()| vec![0f64; model.store.spec(id).len()])).collect();
    let mut optimizer = Reference { moments };
    let (mut worst_loss, mut together, mut compared) = (0f64, true, 0);
    for (step, batch) in all.chunks(sequences * (length + 1)).enumerate() {
        let (tokens, targets) = split(batch, length);
        let batch = Batch { tokens: &tokens, targets: &targets, sequences, length, ..Batch::default() };
        model.store.quantize(&context).unwrap();
        model.store.zero_gradients();
        let randomness = StepRandomness { seed: 0, step: step as u32 };
        let loss = executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap();
        if step == 0 {
            // int8 activations on a rounding edge make whole batches differ, PyTorch's f32 from its f64 as well.
            let bound = (1.5 * run.gradient_spread).max(1e-3);
            compare_gradients("the first batch", &model, &gradients, "", bound);
        }
        let all = model.store.gradients_mut();
        let norm = all.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        let factor = (1.0 / (norm + 1e-6)).min(1.0);
        all.iter_mut().for_each(|g| *g = (f64::from(*g) * factor) as f32);
        let off = (loss / run.losses[step] - 1.0).abs();
        let expected = (run.losses[step], run.gradient_norms[step]);
        println!(
            "step {step}: loss {loss:.6} (PyTorch {:.6}), gradient norm {norm:.5} ({:.5})",
            expected.0, expected.1
        );
        // Where rounding alone has driven PyTorch's own runs apart, there is nothing left to compare with.
        let spread = (run.losses[step] / run.exact_losses[step] - 1.0).abs();
        together = together && spread < 0.5 * tolerance;
        if together {
            assert!(off < tolerance, "step {step}: loss {loss}, PyTorch {}", run.losses[step]);
            worst_loss = worst_loss.max(off);
            compared += 1;
        }
        optimizer.step(&mut model, run.learning_rates[step], step as i32 + 1);
    }
    println!("{}: {compared} steps, largest relative difference of a loss {worst_loss:.2e}", folder.display());
    assert!(compared >= 10, "PyTorch agrees with itself on the first {compared} losses only");
}

/// `||ours - theirs|| / ||theirs||` below `bound` for every parameter.
fn compare_gradients(what: &str, model: &Model, theirs: &SafetensorsFile, prefix: &str, bound: f64) {
    let mut worst = (0f64, String::new());
    for id in model.store.ids() {
        let spec = model.store.spec(id);
        let mut expected = vec![0f32; spec.len()];
        theirs.read_f32(&format!("{prefix}{}", spec.name), &spec.shape, &mut expected).unwrap();
        let pairs = model.store.gradient(id).iter().zip(&expected);
        let difference: f64 = pairs.map(|(&ours, &theirs)| (f64::from(ours) - f64::from(theirs)).powi(2)).sum();
        let norm: f64 = expected.iter().map(|&g| f64::from(g).powi(2)).sum();
        let relative = (difference / norm.max(1e-300)).sqrt();
        if relative > worst.0 {
            worst = (relative, spec.name.clone());
        }
    }
    println!("{what}: largest relative difference of a gradient {:.2e} ({}), bound {bound:.2e}", worst.0, worst.1);
    assert!(worst.0 < bound, "{what}: gradient of {} differs by {:.2e}", worst.1, worst.0);
}

#[derive(serde::Deserialize)]
struct WholeRun {
    learning_rates: Vec<f64>,
    losses: Vec<f64>,
    /// After every hundred steps.
    validation_losses: Vec<f64>,
}

/// Nats per token over windows of one token more than `length`.
fn validation_loss(context: &Context, model: &mut Model, windows: &[i32], length: usize) -> f64 {
    const SEQUENCES: usize = 16;
    let mut executor = Executor::new(&model.plan, Mode::Evaluate, SEQUENCES * length);
    let mut nats = 0.0;
    for windows in windows.chunks(SEQUENCES * (length + 1)) {
        let (tokens, targets) = split(windows, length);
        let sequences = tokens.len() / length;
        let batch = Batch { tokens: &tokens, targets: &targets, sequences, length, ..Batch::default() };
        let randomness = StepRandomness::default();
        let loss = executor.step(&model.plan, context, &mut model.store, batch, randomness, 1.0).unwrap();
        nats += loss * sequences as f64;
    }
    nats / (windows.len() / (length + 1)) as f64
}

/// Trains with the library's own clipping and AdamW; the last validation loss may exceed PyTorch's by `tolerance`.
fn whole_run(folder: &Path, tolerance: f64) {
    let context = Context::new(ContextOptions::default()).unwrap();
    let mut model = Model::load(folder).unwrap();
    let run: WholeRun = serde_json::from_str(&std::fs::read_to_string(folder.join("run.json")).unwrap()).unwrap();
    let file = SafetensorsFile::open(folder.join("../batches.safetensors")).unwrap();
    let shape = file.tensor("tokens").unwrap().shape.clone();
    let batches = file.elements::<i32>("tokens", &shape).unwrap();
    let windows = file.elements::<i32>("validation", &file.tensor("validation").unwrap().shape.clone()).unwrap();
    let (sequences, length) = (shape[1], shape[2] - 1);
    let mut executor = Executor::new(&model.plan, Mode::Train, sequences * length);
    let mut optimizer = AdamW::new(&model.store, 0.9, 0.95, 1e-8);
    model.store.quantize(&context).unwrap();
    let mut ratios = Vec::new();
    for (step, batch) in batches.chunks(sequences * (length + 1)).enumerate() {
        let (tokens, targets) = split(batch, length);
        let batch = Batch { tokens: &tokens, targets: &targets, sequences, length, ..Batch::default() };
        model.store.zero_gradients();
        let randomness = StepRandomness { seed: 0, step: step as u32 };
        let loss = executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap();
        let gradient_norm = context.clip_norm(model.store.gradients_mut(), 1.0);
        let state = TrainingState {
            step: step as u64,
            loss: loss as f32,
            learning_rate: run.learning_rates[step] as f32,
            weight_decay: 0.1,
            gradient_norm,
            cluster: None,
            ..TrainingState::default()
        };
        optimizer.step(&context, &mut model.store, &state).unwrap();
        model.store.quantize(&context).unwrap();
        if (step + 1) % 10 == 0 {
            println!("step {}: loss {loss:.4} (PyTorch {:.4})", step + 1, run.losses[step]);
        }
        if (step + 1) % 100 == 0 {
            let expected = run.validation_losses[ratios.len()];
            let loss = validation_loss(&context, &mut model, &windows, length);
            ratios.push(loss / expected);
            println!("step {}: validation loss {loss:.4} (PyTorch {expected:.4})", step + 1);
        }
    }
    let last = *ratios.last().expect("at least 100 steps");
    assert!(last < 1.0 + tolerance, "{}: the last validation loss is {last:.4} of PyTorch's", folder.display());
}

#[test]
fn f32_losses_and_gradients() {
    if let Some(folder) = folder("HYBRIDQ_PARITY_DIR") {
        compare(&folder.join("f32"), 1e-3);
    }
}

#[test]
fn ternary_losses_and_gradients() {
    if let Some(folder) = folder("HYBRIDQ_PARITY_DIR") {
        compare(&folder.join("ternary"), 1e-2);
    }
}

#[test]
fn whole_run_in_f32() {
    if let Some(folder) = folder("HYBRIDQ_PARITY_RUN_DIR") {
        whole_run(&folder.join("f32"), 0.01);
    }
}

#[test]
fn whole_run_in_ternary() {
    if let Some(folder) = folder("HYBRIDQ_PARITY_RUN_DIR") {
        whole_run(&folder.join("ternary"), 0.02);
    }
}
