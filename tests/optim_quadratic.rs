//! The auxiliary network on quadratics: started off the best step size, its multiplier comes close to it.
//!
//! "Best" is the fixed learning rate of plain gradient descent with the lowest loss after the same number of steps
//! from the same start, found by scanning a grid of 3 % steps.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::{Init, ParamKind, ParamSpec, ParamStore, Precision};
use hybridq::optim::{OptimizerConfig, OptimizerKind, TrainingState};
use hybridq::tensor::RandomStream;

const STEPS: u64 = 200;
const DIMENSIONS: usize = 64;

/// `sum curvature_i x_i^2 / 2`, curvatures from 1/condition to 1, spaced evenly in their logarithm.
struct Quadratic {
    curvatures: Vec<f32>,
    start: Vec<f32>,
    noise: f32,
    seed: u64,
}

impl Quadratic {
    fn new(condition: f32, seed: u64, noise: f32) -> Self {
        let position = |i: usize| i as f32 / (DIMENSIONS - 1) as f32;
        let curvatures = (0..DIMENSIONS).map(|i| condition.powf(position(i) - 1.0)).collect();
        let mut stream = RandomStream::new(seed, 900, 0, 0);
        let start = (0..DIMENSIONS).map(|_| stream.normal() as f32).collect();
        Quadratic { curvatures, start, noise, seed }
    }

    /// Loss after [`STEPS`] and the last multiplier.
    fn train(&self, context: &Context, config: &OptimizerConfig, rate: f32) -> (f64, f32) {
        let spec = ParamSpec {
            name: "x".into(),
            shape: vec![DIMENSIONS],
            kind: ParamKind::Bias,
            precision: Precision::F32,
            init: Init::Constant(0.0),
        };
        let mut store = ParamStore::new(vec![spec]).unwrap();
        let x = store.ids().next().unwrap();
        store.weight_mut(x).copy_from_slice(&self.start);
        let mut optimizer = config.build(&store).unwrap();
        let mut multiplier = 1.0;
        for step in 0..STEPS {
            let mut stream = RandomStream::new(self.seed, 901, step as u32, 0);
            let loss = self.loss(store.weight(x));
            let (weights, gradients) = store.weight_and_gradient_mut(x);
            for ((gradient, weight), curvature) in gradients.iter_mut().zip(&*weights).zip(&self.curvatures) {
                *gradient = curvature * weight + self.noise * stream.normal() as f32;
            }
            let norm = gradients.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
            let state = TrainingState {
                step,
                loss: loss as f32,
                learning_rate: rate,
                gradient_norm: norm,
                ..TrainingState::default()
            };
            let report = optimizer.step(context, &mut store, &state).unwrap();
            if report.skipped.is_some() {
                return (f64::INFINITY, multiplier);
            }
            multiplier = report.lr_multiplier;
        }
        let loss = self.loss(store.weight(x));
        (if loss.is_finite() { loss } else { f64::INFINITY }, multiplier)
    }

    fn loss(&self, x: &[f32]) -> f64 {
        let terms = x.iter().zip(&self.curvatures);
        terms.map(|(&x, &c)| 0.5 * f64::from(c) * f64::from(x) * f64::from(x)).sum()
    }

    /// By scan, with gradient descent written out here.
    fn best_rate(&self) -> f32 {
        let final_loss = |rate: f32| {
            let mut x = self.start.clone();
            for _ in 0..STEPS {
                x.iter_mut().zip(&self.curvatures).for_each(|(x, curvature)| *x -= rate * (curvature * *x));
            }
            let loss = self.loss(&x);
            if loss.is_finite() { loss } else { f64::INFINITY }
        };
        let rates = (0..100).map(|i| 0.2 * 1.03f32.powi(i));
        rates.min_by(|&a, &b| final_loss(a).total_cmp(&final_loss(b))).unwrap()
    }
}

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(1), isa: None }).unwrap()
}

fn adaptive() -> OptimizerConfig {
    OptimizerConfig { inner: OptimizerKind::Sgd, momentum: 0.0, use_trust_region: false, ..OptimizerConfig::default() }
}

#[test]
fn multiplier_finds_the_best_step_from_five_times_off() {
    let context = context();
    let frozen = OptimizerConfig { use_adaptive_lr: false, ..adaptive() };
    for condition in [5.0, 10.0, 30.0, 100.0] {
        for seed in 0..3 {
            let quadratic = Quadratic::new(condition, seed, 0.0);
            let best = quadratic.best_rate();
            for factor in [0.2, 0.5, 2.0, 5.0] {
                let (loss, multiplier) = quadratic.train(&context, &adaptive(), factor * best);
                let ratio = factor * multiplier;
                println!(
                    "condition {condition}, seed {seed}, start {factor}: {ratio:.3} of {best:.3}, loss {loss:.1e}"
                );
                assert!((0.8..=1.2).contains(&ratio), "condition {condition} seed {seed} start {factor}: {ratio}");
                let (_, multiplier) = quadratic.train(&context, &frozen, factor * best);
                assert_eq!(multiplier, 1.0);
            }
        }
    }
}

#[test]
fn noise_does_not_mislead_the_multiplier() {
    let context = context();
    let fixed = OptimizerConfig { optimizer: OptimizerKind::Sgd, ..adaptive() };
    let mean = |config: &OptimizerConfig, rate: f32| {
        let losses = (0..5).map(|seed| Quadratic::new(100.0, seed, 0.1).train(&context, config, rate).0);
        losses.sum::<f64>() / 5.0
    };
    for rate in [0.05, 0.2, 0.5] {
        let (with, without) = (mean(&adaptive(), rate), mean(&fixed, rate));
        assert!(with <= without, "rate {rate}: {with} with the network, {without} without");
        println!("noisy, rate {rate}: loss {with:.4} with the network, {without:.4} without");
    }
}
