//! The optimizers on a task of another kind: Friedman's regression problem with a ternary perceptron, mean squared error.
//!
//! ```text
//! cargo run --release --example regression > bench/experiments/regression.md
//! ```
//!
//! `y = 10 sin(pi a b) + 20 (c - 1/2)^2 + 10 d + 5 e + noise` of five of ten inputs (Friedman, "Multivariate Adaptive Regression
//! Splines", 1991), y scaled to variance 1; 4,096 rows to train on, 2,048 others to measure; 10-128-128-1. Both optimizers get
//! seventy-two settings with one seed; the best of each runs with ten others.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::Precision;
use hybridq::optim::{OptimizerKind, TrustNorm};
use hybridq::tensor::RandomStream;
use hybridq::train::{ArrayData, ArrayObjective, TrainConfig, Trainer};

const INPUTS: usize = 10;
const STEPS: u64 = 1000;
/// Runs of each optimizer at its best setting.
const SEEDS: u64 = 10;
/// Steps between two evaluations.
const INTERVAL: u64 = 20;

fn data(rows: usize, seed: u64) -> ArrayData {
    let mut stream = RandomStream::new(seed, 960, 0, 0);
    let mut inputs = Vec::with_capacity(rows * INPUTS);
    let mut outputs = Vec::with_capacity(rows);
    for _ in 0..rows {
        let x: [f64; INPUTS] = std::array::from_fn(|_| stream.uniform());
        let y =
            10.0 * (std::f64::consts::PI * x[0] * x[1]).sin() + 20.0 * (x[2] - 0.5).powi(2) + 10.0 * x[3] + 5.0 * x[4];
        // Mean 14.4 and standard deviation 5 with the noise's 1.
        outputs.push(((y + stream.normal() - 14.4) / 5.0) as f32);
        inputs.extend(x.map(|x| (3.46 * (x - 0.5)) as f32));
    }
    ArrayData { inputs, outputs, rows }
}

fn base() -> TrainConfig {
    TrainConfig {
        max_steps: STEPS,
        batch_size: 64,
        warmup_steps: 50,
        use_auxiliary_nn: false,
        use_clustering: false,
        threads: Some(1),
        ..TrainConfig::default()
    }
}

/// `end`: the share of the rate that the cosine goes down to.
fn adamw(rate: f64, end: f64, decay: f64, beta2: f64) -> TrainConfig {
    TrainConfig {
        optimizer: OptimizerKind::AdamW,
        base_learning_rate: rate,
        min_lr_ratio: end,
        weight_decay: decay,
        adam_beta2: beta2,
        ..base()
    }
}

/// `rms`: of the matrices' steps for a rate of 1; what is no matrix goes by the rate alone.
fn spectral(rate: f64, end: f64, decay: f64, rms: f64) -> TrainConfig {
    TrainConfig {
        trust_norm: TrustNorm::Spectral,
        initial_trust_radius: 1.0,
        steepest_rms: rms,
        newton_schulz_iterations: 2,
        base_learning_rate: rate,
        min_lr_ratio: end,
        weight_decay: decay,
        ..base()
    }
}

/// Held-out losses at each evaluation.
fn curve(context: &Context, config: &TrainConfig, seed: u64) -> Vec<f64> {
    let config = TrainConfig { seed, ..config.clone() };
    let model =
        ArrayObjective::new(data(4096, 1), Some(data(2048, 2)), &[INPUTS, 128, 128, 1], Precision::Ternary, seed);
    let mut trainer =
        Trainer::new(context.clone(), config, model.expect("sizes that fit")).expect("a valid configuration");
    let mut losses = Vec::new();
    for step in 1..=STEPS {
        // A run that diverges has no later losses.
        if trainer.step().is_err() {
            break;
        }
        if step % INTERVAL == 0 {
            losses.push(trainer.evaluate().ok().flatten().map_or(f64::NAN, |evaluation| evaluation.val_loss));
        }
    }
    losses.resize((STEPS / INTERVAL) as usize, f64::INFINITY);
    losses
}

/// The mean of the last five evaluations: a ternary loss jumps from step to step.
fn last(losses: &[f64]) -> f64 {
    losses[losses.len() - 5..].iter().sum::<f64>() / 5.0
}

fn main() {
    let context = Context::new(ContextOptions { threads: Some(1), isa: None }).expect("one thread");
    let rates = [4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128];
    let grid = |make: &dyn Fn(f64, f64, f64, usize) -> (String, TrainConfig)| -> Vec<(String, TrainConfig)> {
        let pairs = rates.iter().flat_map(|&rate| [0.1, 0.0].map(|end| (rate, end)));
        let triples = pairs.flat_map(|(rate, end)| [1e-2, 1e-1, 1.0].map(|decay| (rate, end, decay)));
        triples.flat_map(|(rate, end, decay)| [0, 1].map(|fourth| make(rate, end, decay, fourth))).collect()
    };
    let arms = [
        grid(&|rate, end, decay, fourth| {
            let beta2 = [0.95, 0.99][fourth];
            let name = format!("AdamW, rate {rate} down to {end}, decay {decay}, second beta {beta2}");
            (name, adamw(rate, end, decay, beta2))
        }),
        grid(&|rate, end, decay, fourth| {
            let rms = [0.2, 0.8][fourth];
            let name = format!("spectral, rate {rate} down to {end}, decay {decay}, root mean square {rms}");
            (name, spectral(rate, end, decay, rms))
        }),
    ];
    println!("# Friedman's regression, ternary 10-128-128-1, {STEPS} steps of 64 rows\n");
    println!(
        "Mean squared error on held-out rows, of a variance of 1 with 0.04 of noise; means of the last five evaluations.\n"
    );
    println!("| setting, seed 0 | loss |\n|---|---|");
    let best = arms.map(|arm| {
        let losses: Vec<f64> = arm.iter().map(|(_, config)| last(&curve(&context, config, 0))).collect();
        for ((name, _), loss) in arm.iter().zip(&losses) {
            println!("| {name} | {loss:.4} |");
        }
        let index = (0..losses.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).expect("some");
        arm[index].clone()
    });
    let curves =
        best.each_ref().map(|(_, config)| (1..=SEEDS).map(|seed| curve(&context, config, seed)).collect::<Vec<_>>());
    let target = curves[0].iter().map(|losses| last(losses)).sum::<f64>() / SEEDS as f64;
    println!("\n| the best, seeds 1 to {SEEDS} | loss | spread | steps to AdamW's loss |\n|---|---|---|---|");
    for ((name, _), curves) in best.iter().zip(&curves) {
        let losses: Vec<f64> = curves.iter().map(|losses| last(losses)).collect();
        let mean = losses.iter().sum::<f64>() / SEEDS as f64;
        let spread = (losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / (SEEDS - 1) as f64).sqrt();
        // Of the mean curve over the seeds.
        let at = |index: usize| curves.iter().map(|losses| losses[index]).sum::<f64>() / SEEDS as f64;
        let reached = (0..curves[0].len()).find(|&index| at(index) <= target);
        let steps = reached.map_or("-".into(), |index| ((index as u64 + 1) * INTERVAL).to_string());
        println!("| {name} | {mean:.4} | {spread:.4} | {steps} |");
    }
}
