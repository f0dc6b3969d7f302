//! The hybrid optimizer: parts off, trust region, auxiliary network.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::{Init, ParamKind, ParamSpec, ParamStore, Precision};
use hybridq::optim::{
    AuxiliaryNetwork, Feedback, HybridOptimizer, Optimizer, OptimizerConfig, OptimizerKind, RadiusMode, TrainingState,
    TrustScope, UpdateReport,
};
use hybridq::tensor::RandomStream;

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap()
}

/// A matrix of ordinary size, a gain of ones and a bias of zeros.
fn store() -> ParamStore {
    let spec = |name: &str, shape: &[usize], kind, init| ParamSpec {
        name: name.into(),
        shape: shape.to_vec(),
        kind,
        precision: Precision::F32,
        init,
    };
    let specs = vec![
        spec("matrix", &[200, 100], ParamKind::Linear, Init::Normal { std: 0.02 }),
        spec("gain", &[50], ParamKind::Gain, Init::Constant(1.0)),
        spec("bias", &[50], ParamKind::Bias, Init::Constant(0.0)),
    ];
    let mut store = ParamStore::new(specs).unwrap();
    store.initialize(1);
    store
}

fn weights(store: &ParamStore) -> Vec<Vec<f32>> {
    store.ids().map(|id| store.weight(id).to_vec()).collect()
}

fn norm(values: impl IntoIterator<Item = f32>) -> f64 {
    values.into_iter().map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

fn step(optimizer: &mut dyn Optimizer, store: &mut ParamStore, step: u64, learning_rate: f32) -> UpdateReport {
    for id in store.ids() {
        let mut stream = RandomStream::new(9, 930, step as u32, id.index() as u32);
        store.gradient_mut(id).fill_with(|| stream.normal() as f32);
    }
    let loss = 2.0 + 1.0 / (step + 1) as f32;
    let state = TrainingState { step, loss, learning_rate, weight_decay: 0.1, ..TrainingState::default() };
    optimizer.step(&context(), store, &state).unwrap()
}

#[test]
fn all_parts_off_is_the_inner_optimizer_bit_for_bit() {
    for inner in [OptimizerKind::AdamW, OptimizerKind::Sgd] {
        let off =
            OptimizerConfig { inner, use_auxiliary_nn: false, use_trust_region: false, ..OptimizerConfig::default() };
        let plain = OptimizerConfig { optimizer: inner, ..off.clone() };
        // The network may also run without acting.
        let idle = OptimizerConfig { use_auxiliary_nn: true, use_adaptive_lr: false, ..off.clone() };
        let [mut a, mut b, mut c] = [store(), store(), store()];
        let (mut first, mut second) = (plain.build(&a).unwrap(), off.build(&b).unwrap());
        let mut third = idle.build(&c).unwrap();
        for t in 0..50 {
            let rate = 0.01 / (t + 1) as f32;
            let left = step(first.as_mut(), &mut a, t, rate);
            let right = step(second.as_mut(), &mut b, t, rate);
            step(third.as_mut(), &mut c, t, rate);
            // The plain optimizers do not take the alignment.
            assert_eq!(left, UpdateReport { alignment: 0.0, ..right });
        }
        assert!(weights(&a) == weights(&b) && weights(&a) == weights(&c), "{inner:?}");
        assert_eq!(first.state().tensors, second.state().tensors);
        assert!(second.auxiliary_network().is_none());
    }
}

fn bounded(scope: TrustScope, mode: RadiusMode, radius: f32) -> OptimizerConfig {
    OptimizerConfig {
        use_auxiliary_nn: false,
        trust_scope: scope,
        radius_mode: mode,
        initial_trust_radius: radius,
        ..OptimizerConfig::default()
    }
}

#[test]
fn updates_end_on_the_ball_and_shorter_ones_are_untouched() {
    for radius in [0.001, 0.01, 1.0] {
        for (scope, mode) in [
            (TrustScope::Global, RadiusMode::Relative),
            (TrustScope::Global, RadiusMode::Absolute),
            (TrustScope::Tensor, RadiusMode::Relative),
            (TrustScope::Tensor, RadiusMode::Absolute),
        ] {
            let mut store = store();
            let before = weights(&store);
            let mut optimizer = bounded(scope, mode, radius).build(&store).unwrap();
            let report = step(optimizer.as_mut(), &mut store, 0, 100.0);
            let change: Vec<Vec<f32>> = weights(&store)
                .iter()
                .zip(&before)
                .map(|(new, old)| new.iter().zip(old).map(|(a, b)| a - b).collect())
                .collect();
            let length = norm(change.iter().flatten().copied());
            assert!(report.constraint_active && report.constrained_share == 1.0 && report.trust_radius == radius);
            assert!((report.update_norm / length - 1.0).abs() < 1e-3, "{} {length}", report.update_norm);
            // AdamW's first step has length 1 per element, and decay 10 w.
            assert!((f64::from(report.efficiency) * 100.0 * 20_100f64.sqrt() / length - 1.0).abs() < 0.1);
            let floored = |w: &[f32]| norm(w.iter().copied()).max(0.01 * (w.len() as f64).sqrt());
            let bound = |weights: f64| f64::from(radius) * if mode == RadiusMode::Relative { weights } else { 1.0 };
            match scope {
                TrustScope::Global => {
                    let whole = before.iter().map(|w| floored(w).powi(2)).sum::<f64>().sqrt();
                    assert!((length / bound(whole) - 1.0).abs() < 1e-3);
                }
                TrustScope::Tensor => {
                    for (change, old) in change.iter().zip(&before) {
                        assert!((norm(change.iter().copied()) / bound(floored(old)) - 1.0).abs() < 1e-3);
                    }
                }
            }
        }
    }
    let (mut a, mut b) = (store(), store());
    let mut free = OptimizerConfig { optimizer: OptimizerKind::AdamW, ..OptimizerConfig::default() }.build(&a).unwrap();
    let mut wide = bounded(TrustScope::Global, RadiusMode::Relative, 1.0).build(&b).unwrap();
    step(free.as_mut(), &mut a, 0, 1e-4);
    let report = step(wide.as_mut(), &mut b, 0, 1e-4);
    assert!(!report.constraint_active && report.constrained_share == 0.0 && report.efficiency == 1.0);
    assert_eq!(weights(&a), weights(&b));
    assert!((report.quantized_efficiency(0.25) - 0.75).abs() < 1e-6);
}

#[test]
fn configuration_names_what_is_out_of_range() {
    let cases: [(&str, OptimizerConfig); 8] = [
        ("initial_trust_radius", OptimizerConfig { initial_trust_radius: 0.0, ..Default::default() }),
        ("initial_trust_radius", OptimizerConfig { initial_trust_radius: 1.5, ..Default::default() }),
        ("auxiliary_nn_hidden_size", OptimizerConfig { auxiliary_nn_hidden_size: 0, ..Default::default() }),
        ("auxiliary_nn_output_size", OptimizerConfig { auxiliary_nn_output_size: 4, ..Default::default() }),
        ("auxiliary_nn_learning_rate", OptimizerConfig { auxiliary_nn_learning_rate: f32::NAN, ..Default::default() }),
        ("momentum", OptimizerConfig { momentum: 1.0, ..Default::default() }),
        ("weight_decay", OptimizerConfig { weight_decay: -1.0, ..Default::default() }),
        ("inner", OptimizerConfig { inner: OptimizerKind::Hybrid, ..Default::default() }),
    ];
    for (name, config) in cases {
        assert!(config.build(&store()).unwrap_err().to_string().starts_with(name), "{name}");
    }
    let text = toml::to_string(&OptimizerConfig::default()).unwrap();
    assert_eq!(toml::from_str::<OptimizerConfig>(&text).unwrap(), OptimizerConfig::default());
    assert!(toml::from_str::<OptimizerConfig>("momentun = 0.9").is_err());
}

fn network(radius: f32) -> AuxiliaryNetwork {
    AuxiliaryNetwork::new(16, 3, 0.001, radius, 1).unwrap()
}

const INPUTS: [f32; 6] = [0.1, -0.2, 0.0, 0.05, 0.3, 0.4];

#[test]
fn starts_neutral_and_stays_within_bounds() {
    for radius in [0.001, 0.01, 1.0] {
        let mut network = network(radius);
        let start = network.decide(INPUTS);
        assert_eq!((start.multiplier, start.direction_bias), (1.0, 0.0));
        assert!((start.radius / radius - 1.0).abs() < 0.01, "{}", start.radius);
        for sign in [1.0, -1.0] {
            let feedback = Feedback {
                alignment: sign,
                actual_reduction: sign,
                predicted_reduction: 1.0,
                constraint_active: false,
            };
            for _ in 0..2000 {
                network.update_with_feedback(&feedback);
                let output = network.decide(INPUTS);
                assert!((0.1..=10.0).contains(&output.multiplier) && (0.001..=1.0).contains(&output.radius));
                assert!(output.direction_bias.abs() < 1.0);
            }
            let output = network.decide(INPUTS);
            assert!(if sign > 0.0 { output.multiplier > 5.0 } else { output.multiplier < 0.2 }, "{output:?}");
            assert!(output.direction_bias * sign > 0.5);
        }
    }
}

#[test]
fn radius_follows_the_agreement_of_actual_and_predicted_reduction() {
    let after = |actual: &dyn Fn(usize) -> f32, constraint_active: bool| {
        let mut network = network(0.01);
        for t in 0..300 {
            network.update_with_feedback(&Feedback {
                alignment: 0.0,
                actual_reduction: actual(t),
                predicted_reduction: 0.1,
                constraint_active,
            });
        }
        network.decide(INPUTS).radius
    };
    assert!(after(&|_| 0.09, true) > 0.03);
    assert!(after(&|_| 0.09, false) < 0.011, "an idle bound earns nothing");
    assert!(after(&|_| -0.09, true) < 0.005);
    let noise = after(&|t| if t % 2 == 0 { 0.3 } else { -0.299 }, true);
    assert!((0.006..0.016).contains(&noise), "{noise}");
    let losses_not_finite = after(&|_| f32::NAN, true);
    assert!((losses_not_finite / 0.01 - 1.0).abs() < 1e-3);
}

/// Gradients slightly against the last step and a loss that only fluctuates are what a run at a good rate shows for most of
/// its length: neither may move the outputs.
#[test]
fn a_run_at_a_good_rate_moves_nothing() {
    let mut network = network(0.01);
    let mut stream = RandomStream::new(3, 931, 0, 0);
    let mut last_loss = 2.0;
    for t in 0..3000 {
        let loss = 2.0 + 0.05 * stream.normal() as f32;
        network.update_with_feedback(&Feedback {
            alignment: -0.04 + 0.02 * stream.normal() as f32,
            actual_reduction: last_loss - loss,
            predicted_reduction: 0.02,
            constraint_active: true,
        });
        last_loss = loss;
        let output = network.decide(INPUTS);
        assert!((output.multiplier - 1.0).abs() < 0.05, "{t}: {output:?}");
        assert!((output.radius / 0.01 - 1.0).abs() < 0.2, "{t}: {output:?}");
    }
}

/// The hidden layer learns to tell states apart, which the biases alone cannot.
#[test]
fn inputs_come_to_matter() {
    let mut network = network(0.01);
    let (early, late) = ([1.0, 1.0, 0.0, 0.5, 1.0, 0.1], [-1.0, -1.0, 0.0, -0.5, 0.2, 0.7]);
    for t in 0..2000 {
        let (inputs, alignment) = if t % 2 == 0 { (early, 0.5) } else { (late, -0.5) };
        network.decide(inputs);
        network.update_with_feedback(&Feedback { alignment, ..Feedback::default() });
    }
    let ratio = network.decide(early).multiplier / network.decide(late).multiplier;
    assert!(ratio > 2.0, "{ratio}");
}

#[test]
fn network_is_saved_alone_and_counts_its_successes() {
    let mut network = network(0.02);
    for reduction in [0.5, -0.25, 0.5, 0.25] {
        network.decide(INPUTS);
        network.update_with_feedback(&Feedback {
            alignment: 0.3,
            actual_reduction: reduction,
            predicted_reduction: 0.1,
            constraint_active: true,
        });
    }
    let statistics = network.statistics();
    assert_eq!((statistics.samples, statistics.mean_reduction, statistics.success_rate), (4, 0.25, 0.75));
    let mut restored = AuxiliaryNetwork::from_json(&network.to_json()).unwrap();
    assert_eq!(restored, network);
    assert_eq!(restored.decide(INPUTS), network.decide(INPUTS));
    assert!(
        AuxiliaryNetwork::from_json(&network.to_json().replace("\"hidden_size\":16", "\"hidden_size\":15")).is_err()
    );
    assert!(AuxiliaryNetwork::from_json("{").is_err());

    let store = store();
    let config = OptimizerConfig { auxiliary_nn_output_size: 3, ..OptimizerConfig::default() };
    let mut optimizer = HybridOptimizer::new(&store, &config).unwrap();
    optimizer.set_auxiliary_network(network.clone()).unwrap();
    assert_eq!(optimizer.auxiliary_network(), Some(&network));
    let mut smaller = HybridOptimizer::new(&store, &OptimizerConfig::default()).unwrap();
    assert!(smaller.set_auxiliary_network(network).is_err());
}
