//! The optimizers on a task of another kind: Friedman's regression problem with a ternary perceptron, mean squared error.
//!
//! ```text
//! cargo run --release --example regression > bench/experiments/regression.md
//! ```
//!
//! `y = 10 sin(pi a b) + 20 (c - 1/2)^2 + 10 d + 5 e + noise` of five of ten inputs (Friedman, "Multivariate Adaptive Regression
//! Splines", 1991), y scaled to variance 1; 4,096 rows to train on, 2,048 others to measure; 10-128-128-1. Both optimizers get
//! seventy-two settings with one seed; the best of each runs with ten others.

mod contest;

use contest::{Contest, Setting};
use hybridq::dispatch::Context;
use hybridq::nn::Precision;
use hybridq::optim::{OptimizerKind, TrustNorm};
use hybridq::tensor::RandomStream;
use hybridq::train::{ArrayData, ArrayObjective, TrainConfig, Trainer};

const INPUTS: usize = 10;
const STEPS: u64 = 1000;

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
        batch_size: 64,
        warmup_steps: 50,
        use_auxiliary_nn: false,
        use_clustering: false,
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

fn trainer(context: Context, config: TrainConfig) -> hybridq::Result<Trainer<ArrayObjective>> {
    let (layers, seed) = ([INPUTS, 128, 128, 1], config.seed);
    let objective = ArrayObjective::new(data(4096, 1), Some(data(2048, 2)), &layers, Precision::Ternary, seed)?;
    Trainer::new(context, config, objective)
}

/// Six rates, each down to a tenth or to 0, with three decays and two values of a fourth setting.
fn grid(make: impl Fn(f64, f64, f64, usize) -> Setting) -> Vec<Setting> {
    let rates = [4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128];
    let pairs = rates.iter().flat_map(|&rate| [0.1, 0.0].map(|end| (rate, end)));
    let triples = pairs.flat_map(|(rate, end)| [1e-2, 1e-1, 1.0].map(|decay| (rate, end, decay)));
    triples.flat_map(|(rate, end, decay)| [0, 1].map(|fourth| make(rate, end, decay, fourth))).collect()
}

fn main() {
    println!("# Friedman's regression, ternary 10-128-128-1, {STEPS} steps of 64 rows\n");
    println!(
        "Mean squared error on held-out rows, of a variance of 1 with 0.04 of noise; means of the last five evaluations.\n"
    );
    let adamw = grid(|rate, end, decay, fourth| {
        let beta2 = [0.95, 0.99][fourth];
        let name = format!("rate {rate} down to {end}, decay {decay}, second beta {beta2}");
        (name, adamw(rate, end, decay, beta2))
    });
    let spectral = grid(|rate, end, decay, fourth| {
        let rms = [0.2, 0.8][fourth];
        let name = format!("rate {rate} down to {end}, decay {decay}, root mean square {rms}");
        (name, spectral(rate, end, decay, rms))
    });
    Contest { steps: STEPS, interval: 20, seeds: 10 }.print([("AdamW", adamw), ("spectral", spectral)], trainer);
}
