//! The hybrid optimizer: parts off, trust region, auxiliary network.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::{Init, ParamKind, ParamSpec, ParamStore, Precision};
use hybridq::optim::{
    AuxiliaryNetwork, FEATURES, Feedback, HybridOptimizer, Optimizer, OptimizerConfig, OptimizerKind, RadiusMode,
    RadiusRule, StateFeatures, TrainingState, TrustNorm, TrustScope, UpdateReport,
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

/// By the schedule the radius is the initial one times the scheduled over the base rate; of the first weights, it does not grow
/// with the weights.
#[test]
fn a_radius_follows_the_schedule_and_counts_the_first_weights() {
    let config = OptimizerConfig {
        base_learning_rate: 0.5,
        trust_radius_rule: RadiusRule::Schedule,
        ..bounded(TrustScope::Tensor, RadiusMode::Initial, 0.1)
    };
    let mut store = store();
    let first = weights(&store);
    let mut optimizer = config.build(&store).unwrap();
    let grow = |store: &mut ParamStore| {
        store.ids().for_each(|id| store.weight_mut(id).iter_mut().for_each(|weight| *weight *= 3.0));
    };
    for (t, rate) in [0.5, 0.25, 0.125].into_iter().enumerate() {
        grow(&mut store);
        let before = weights(&store);
        let report = step(optimizer.as_mut(), &mut store, t as u64, rate);
        assert_eq!(report.trust_radius, 0.1 * rate / 0.5);
        assert!(report.constraint_active);
        for ((new, old), first) in weights(&store).iter().zip(&before).zip(&first) {
            let length = norm(new.iter().zip(old).map(|(a, b)| a - b));
            let counted = norm(first.iter().copied()).max(0.01 * (first.len() as f64).sqrt());
            let bound = f64::from(report.trust_radius) * counted;
            assert!((length / bound - 1.0).abs() < 1e-3, "{length} {bound}");
        }
        // What the radius counts goes with the state.
        let mut again = config.build(&store).unwrap();
        again.load_state(&optimizer.state()).unwrap();
        optimizer = again;
    }
    let relative = OptimizerConfig { radius_mode: RadiusMode::Relative, ..config };
    let message = relative.build(&store).unwrap().load_state(&optimizer.state()).unwrap_err().to_string();
    assert!(message.contains("radius_mode"), "{message}");
}

/// Below a quarter of the predicted reduction the radius halves, above three quarters it doubles where it bit.
#[test]
fn a_radius_follows_the_reduction_ratio() {
    let at_rate = |rate: f32, share: f32| {
        let config = OptimizerConfig {
            trust_radius_rule: RadiusRule::ReductionRatio,
            ..bounded(TrustScope::Global, RadiusMode::Relative, 0.1)
        };
        let mut store = store();
        let mut optimizer = config.build(&store).unwrap();
        optimizer.observe_reduction(1.0); // nothing was done yet
        let before = weights(&store);
        assert_eq!(step(optimizer.as_mut(), &mut store, 0, rate).trust_radius, 0.1);
        let predicted: f64 = store
            .ids()
            .zip(weights(&store).iter().zip(&before))
            .map(|(id, (new, old))| {
                let changes = new.iter().zip(old).map(|(a, b)| f64::from(b - a));
                changes.zip(store.gradient(id)).map(|(change, &g)| change * f64::from(g)).sum::<f64>()
            })
            .sum();
        optimizer.observe_reduction(share * predicted as f32);
        optimizer.observe_reduction(f32::NAN);
        step(optimizer.as_mut(), &mut store, 1, rate).trust_radius
    };
    // A rate of 10 leaves the region, 1e-5 does not.
    assert_eq!([0.2, 0.3, 0.7, 0.8, -1.0].map(|share| at_rate(10.0, share)), [0.05, 0.1, 0.1, 0.2, 0.05]);
    assert_eq!([0.2, 0.8].map(|share| at_rate(1e-5, share)), [0.05, 0.1]);
    // Driven to its bounds it stays there, and steps go on.
    for (actual, bound) in [(f32::MAX, 1.0), (f32::MIN, 0.001)] {
        let config = OptimizerConfig {
            trust_radius_rule: RadiusRule::ReductionRatio,
            ..bounded(TrustScope::Global, RadiusMode::Relative, 0.1)
        };
        let mut store = store();
        let mut optimizer = config.build(&store).unwrap();
        let mut report = UpdateReport::default();
        for index in 0..30 {
            report = step(optimizer.as_mut(), &mut store, index, 10.0);
            assert!(report.update_norm.is_finite());
            optimizer.observe_reduction(actual);
        }
        assert_eq!(report.trust_radius, bound);
    }
}

/// With the warm start a learning rate ten times too low or too high ends in steps closer to the radius than without.
#[test]
fn a_warm_started_network_turns_a_wrong_rate_towards_the_radius() {
    for rate in [0.001, 0.01, 0.1] {
        let config = OptimizerConfig {
            base_learning_rate: rate,
            trust_norm: TrustNorm::Spectral,
            trust_radius_rule: RadiusRule::Schedule,
            steepest_rms: 0.8,
            // A step of spectral norm at the rate 0.01 fills it.
            ..bounded(TrustScope::Tensor, RadiusMode::Initial, 0.4)
        };
        let config = OptimizerConfig { use_auxiliary_nn: true, ..config };
        let mut store = store();
        let mut optimizer = config.build(&store).unwrap();
        let mut multiplier = 0.0;
        for t in 0..20 {
            multiplier = step(optimizer.as_mut(), &mut store, t, rate).lr_multiplier;
        }
        println!("rate {rate}: multiplier {multiplier}");
        match rate {
            0.001 => assert!(multiplier > 2.0, "{multiplier}"),
            0.1 => assert!(multiplier < 0.8, "{multiplier}"),
            _ => assert!((0.5..2.0).contains(&multiplier), "{multiplier}"),
        }
    }
}

#[test]
fn the_warm_start_fits_two_and_three_outputs_and_can_be_left_out() {
    for outputs in [2, 3] {
        let mut network = AuxiliaryNetwork::warm_started(outputs, 0.001, 0.25).unwrap();
        let output = network.decide([0.0; FEATURES]);
        assert!((output.radius / 0.25 - 1.0).abs() < 0.01 && output.direction_bias == 0.0, "{output:?}");
    }
    let mut network = AuxiliaryNetwork::new(16, 2, 0.001, 0.01, 0).unwrap();
    let count = 16 * (FEATURES + 3);
    assert!(network.set_weights(&vec![0.0; count - 1]).is_err());
    let mut weights = vec![0.0; count];
    weights[7] = f32::NAN;
    assert!(network.set_weights(&weights).is_err());
    let scheduled = OptimizerConfig { trust_radius_rule: RadiusRule::Schedule, ..OptimizerConfig::default() };
    let cold = OptimizerConfig { auxiliary_nn_warm_start: false, ..scheduled.clone() };
    for (config, warm) in [(scheduled, true), (cold, false), (OptimizerConfig::default(), false)] {
        let optimizer = config.build(&store()).unwrap();
        let warmed = AuxiliaryNetwork::warm_started(2, 0.001, 0.01).unwrap();
        assert_eq!(optimizer.auxiliary_network() == Some(&warmed), warm);
    }
}

/// Inputs beside the six of the running means; numbers that are not finite count as no news.
#[test]
fn inputs_tell_reach_flips_and_progress() {
    let state = TrainingState {
        step: 7,
        loss: 2.0,
        gradient_norm: 1.0,
        progress: 0.25,
        flip_rate: 0.005,
        log_reach: -1.5,
        ..TrainingState::default()
    };
    let inputs = StateFeatures::default().observe(&state);
    assert_eq!(inputs[..5], [0.0; 5]);
    assert_eq!((inputs[6], inputs[8]), (-1.5, 0.25));
    assert!((inputs[7] - 0.5f32.ln()).abs() < 1e-6);
    let odd = TrainingState { log_reach: f32::NAN, flip_rate: f32::NAN, progress: 9.0, ..state };
    assert_eq!(StateFeatures::default().observe(&odd)[6..], [0.0, 0.0, 3.0]);
}

fn network(radius: f32) -> AuxiliaryNetwork {
    AuxiliaryNetwork::new(16, 3, 0.001, radius, 1).unwrap()
}

const INPUTS: [f32; 9] = [0.1, -0.2, 0.0, 0.05, 0.3, 0.4, 0.0, -0.5, 0.3];

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
    let (early, late) =
        ([1.0, 1.0, 0.0, 0.5, 1.0, 0.1, 0.0, 0.0, 0.0], [-1.0, -1.0, 0.0, -0.5, 0.2, 0.7, 0.0, 0.0, 1.0]);
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
