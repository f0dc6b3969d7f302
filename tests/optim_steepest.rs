//! Steps in the max and spectral norms: against exact solutions by an f64 Jacobi eigenvalue solver, bounds, threads,
//! saved state, gradients of any size.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::{Init, ParamKind, ParamSpec, ParamStore, Precision};
use hybridq::optim::{
    NewtonSchulz, Optimizer, OptimizerConfig, OptimizerState, RadiusMode, TrainingState, TrustNorm, UpdateReport,
};
use hybridq::tensor::RandomStream;

mod singular_values;
use singular_values::{normal, product, singular_values, transposed};

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Same singular vectors, singular values in the band: then the step is the exact one up to the band.
#[test]
fn orthogonal_factor_against_exact_singular_values() {
    let shapes =
        [(1, 1), (1, 9), (9, 1), (2, 2), (5, 5), (7, 3), (3, 7), (31, 33), (64, 65), (65, 64), (67, 130), (129, 40)];
    for iterations in [1, 2, 3, 5] {
        let newton_schulz = NewtonSchulz::new(iterations);
        for (at, (rows, cols)) in shapes.into_iter().enumerate() {
            let x = normal(rows * cols, at as u64);
            let length = 0.7f32;
            let mut factor = x.clone();
            newton_schulz.orthogonalize(&context(1), rows, cols, length, &mut factor);
            let (before, after) = (singular_values(&x, rows, cols), singular_values(&factor, rows, cols));
            let name = format!("{rows} x {cols}, {iterations} iterations");
            assert!(after[0] <= f64::from(length) * (1.0 + 1e-3), "{name}: {}", after[0]);
            // The 8-norm is at most side^(1/8) times the largest.
            let bound = before.iter().map(|s| s.powi(8)).sum::<f64>().powf(0.125);
            let resolved = before.iter().filter(|s| **s >= bound * newton_schulz.least_resolved() * 1.01).count();
            let within = after.iter().filter(|s| **s >= 0.6 * f64::from(length) * (1.0 - 1e-3)).count();
            assert!(within >= resolved, "{name}: {within} of {resolved}");
            // X^T O is symmetric if and only if the singular vectors are the same (and positive, by its trace).
            let (x64, o64): (Vec<f64>, Vec<f64>) =
                (x.iter().map(|&v| v.into()).collect(), factor.iter().map(|&v| v.into()).collect());
            let (xt, ot) = (transposed(&x64, rows, cols), transposed(&o64, rows, cols));
            let symmetric = product(&xt, &ot, rows);
            let (mut asymmetry, mut size) = (0.0f64, 0.0f64);
            for i in 0..cols {
                for j in 0..cols {
                    asymmetry += (symmetric[i * cols + j] - symmetric[j * cols + i]).powi(2);
                    size += symmetric[i * cols + j].powi(2);
                }
            }
            // Rounding is amplified like the smallest singular values: a few thousandths at five iterations.
            let rounding = (5e-6 / newton_schulz.least_resolved()).max(1e-4);
            assert!(asymmetry.sqrt() < rounding * size.sqrt(), "{name}: {asymmetry} {size}");
            let reached: f64 = (0..cols).map(|i| symmetric[i * cols + i]).sum();
            let best = f64::from(length) * before.iter().sum::<f64>();
            assert!(reached > 0.58 * best && reached <= best * (1.0 + 1e-3), "{name}: {reached} of {best}");
        }
    }
}

/// Singular values from 1 to 1e-4: what is below the resolved share comes out smaller, never larger or with another sign.
#[test]
fn tiny_singular_values_stay_below_the_others() {
    let n = 40;
    let mut q = normal(n * n, 3);
    NewtonSchulz::new(8).orthogonalize(&context(1), n, n, 1.0, &mut q);
    let x: Vec<f32> = (0..n * n).map(|i| q[i] * 10f32.powf(-4.0 * (i / n) as f32 / (n - 1) as f32)).collect();
    for iterations in 1..=8 {
        let mut factor = x.clone();
        NewtonSchulz::new(iterations).orthogonalize(&context(1), n, n, 1.0, &mut factor);
        let found = singular_values(&factor, n, n);
        assert!(found[0] <= 1.0 + 1e-3, "{iterations}: {found:?}");
        let agreement: f64 = x.iter().zip(&factor).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!(agreement > 0.6 * singular_values(&x, n, n).iter().sum::<f64>());
    }
}

#[test]
fn gradients_of_any_size() {
    let newton_schulz = NewtonSchulz::new(3);
    let x = normal(17 * 23, 5);
    let mut expected = x.clone();
    newton_schulz.orthogonalize(&context(1), 17, 23, 1.0, &mut expected);
    for scale in [1e-30f32, 1e-10, 1e10, 1e30] {
        let mut scaled: Vec<f32> = x.iter().map(|x| x * scale).collect();
        newton_schulz.orthogonalize(&context(1), 17, 23, 1.0, &mut scaled);
        let difference: Vec<f32> = scaled.iter().zip(&expected).map(|(a, b)| a - b).collect();
        assert!(norm(&difference) < 1e-3 * norm(&expected), "{scale}");
    }
    let mut zeros = vec![0.0; 6];
    newton_schulz.orthogonalize(&context(1), 2, 3, 1.0, &mut zeros);
    assert_eq!(zeros, [0.0; 6]);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = vec![1.0, bad, 0.0, 2.0];
        newton_schulz.orthogonalize(&context(1), 2, 2, 1.0, &mut values);
        assert_eq!(values, [0.0; 4]);
    }
    newton_schulz.orthogonalize(&context(1), 0, 3, 1.0, &mut []);
}

const SHAPES: [(&str, &[usize], ParamKind); 5] = [
    ("wide", &[40, 90], ParamKind::Linear),
    ("tall", &[131, 60], ParamKind::Linear),
    ("row", &[1, 50], ParamKind::Linear),
    ("gain", &[33], ParamKind::Gain),
    ("table", &[20, 12], ParamKind::Embedding),
];

fn store() -> ParamStore {
    let spec = |(name, shape, kind): (&str, &[usize], ParamKind)| ParamSpec {
        name: name.into(),
        shape: shape.to_vec(),
        kind,
        precision: Precision::F32,
        init: Init::Normal { std: 0.05 },
    };
    let mut store = ParamStore::new(SHAPES.map(spec).to_vec()).unwrap();
    store.initialize(4);
    store
}

fn config(norm: TrustNorm) -> OptimizerConfig {
    OptimizerConfig { trust_norm: norm, initial_trust_radius: 1.0, ..OptimizerConfig::default() }
}

fn without_network(norm: TrustNorm) -> OptimizerConfig {
    OptimizerConfig { use_auxiliary_nn: false, ..config(norm) }
}

fn draw_gradients(store: &mut ParamStore, step: u64) {
    for id in store.ids() {
        let mut stream = RandomStream::new(6, 941, step as u32, id.index() as u32);
        store.gradient_mut(id).fill_with(|| stream.normal() as f32 * 0.01);
    }
}

fn step(
    optimizer: &mut dyn Optimizer,
    threads: usize,
    store: &mut ParamStore,
    step: u64,
    rate: f32,
    decay: f32,
) -> UpdateReport {
    draw_gradients(store, step);
    let state = TrainingState {
        step,
        loss: 3.0 / (step + 1) as f32,
        learning_rate: rate,
        weight_decay: decay,
        gradient_norm: 1.0,
        cluster: None,
        ..TrainingState::default()
    };
    optimizer.step(&context(threads), store, &state).unwrap()
}

fn changes(store: &ParamStore, before: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let change = |id: hybridq::nn::ParamId| {
        store.weight(id).iter().zip(&before[id.index()]).map(|(new, old)| new - old).collect::<Vec<f32>>()
    };
    store.ids().map(change).collect()
}

fn weights(store: &ParamStore) -> Vec<Vec<f32>> {
    store.ids().map(|id| store.weight(id).to_vec()).collect()
}

/// A small rate decides the length, a large one meets the bound; both are those of the norm, tensor by tensor.
#[test]
fn steps_fill_the_ball_of_their_norm_and_never_leave_it() {
    for norm_kind in [TrustNorm::Max, TrustNorm::Spectral] {
        for (mode, radius) in [(RadiusMode::Relative, 0.02f32), (RadiusMode::Absolute, 0.003)] {
            for rate in [1e-5f32, 3.0] {
                let config =
                    OptimizerConfig { radius_mode: mode, initial_trust_radius: radius, ..without_network(norm_kind) };
                let mut store = store();
                let before = weights(&store);
                let mut optimizer = config.build(&store).unwrap();
                let report = step(optimizer.as_mut(), 2, &mut store, 0, rate, 0.0);
                assert_eq!(report.constraint_active, rate > 1.0);
                let changes = changes(&store, &before);
                let whole = changes.iter().map(|change| norm(change).powi(2)).sum::<f64>().sqrt();
                assert!(
                    (report.update_norm / whole - 1.0).abs() < 1e-3,
                    "{norm_kind:?}: {} {whole}",
                    report.update_norm
                );
                for ((name, shape, _), (change, old)) in SHAPES.iter().zip(changes.iter().zip(&before)) {
                    let matrix = ["wide", "tall"].contains(name);
                    if norm_kind == TrustNorm::Spectral && !matrix {
                        continue;
                    }
                    let (found, count, wanted) = if norm_kind == TrustNorm::Max {
                        let largest = change.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                        let least = change.iter().fold(f32::INFINITY, |least, x| least.min(x.abs()));
                        assert!(least > 0.99 * largest, "{name}");
                        (f64::from(largest), old.len(), f64::from(rate) * 0.2)
                    } else {
                        let values = singular_values(change, shape[0], shape[1]);
                        assert!(values[values.len() / 2] > 0.6 * values[0], "{name}: {values:?}");
                        let longer = shape[0].max(shape[1]) as f64;
                        (values[0], shape[0].min(shape[1]), f64::from(rate) * 0.2 * longer.sqrt())
                    };
                    let bound = f64::from(radius)
                        * if mode == RadiusMode::Relative { norm(old) / (count as f64).sqrt() } else { 1.0 };
                    let expected = wanted.min(bound);
                    // Newton-Schulz ends below the ball, at no singular value above it.
                    assert!(found <= expected * 1.001 && found > 0.9 * expected, "{name} {mode:?}: {found} {expected}");
                }
            }
        }
    }
}

/// The momentum's sign: after two opposite gradients, the newer one weighs less than nine tenths of it.
#[test]
fn max_norm_steps_follow_the_sign_of_nesterovs_momentum() {
    let mut store = store();
    let mut optimizer = without_network(TrustNorm::Max).build(&store).unwrap();
    let before = weights(&store);
    for (at, sign) in [1.0f32, -0.2].into_iter().enumerate() {
        store.ids().for_each(|id| store.gradient_mut(id).fill(sign));
        let state = TrainingState { step: at as u64, loss: 1.0, learning_rate: 1e-3, ..TrainingState::default() };
        optimizer.step(&context(1), &mut store, &state).unwrap();
    }
    // m1 = 0.05, m2 = 0.0475 - 0.01 = 0.0375; 0.95 m2 - 0.05 * 0.2 > 0: both steps go down.
    for change in changes(&store, &before) {
        assert!(change.iter().all(|change| (change + 2.0 * 0.2e-3).abs() < 1e-6), "{}", change[0]);
    }
}

#[test]
fn threads_do_not_change_a_bit_and_saved_state_goes_on_exactly() {
    for norm in [TrustNorm::Max, TrustNorm::Spectral] {
        let bits = |store: &ParamStore| -> Vec<u32> { weights(store).concat().iter().map(|w| w.to_bits()).collect() };
        let run = |threads: usize| {
            let mut store = store();
            let mut optimizer = config(norm).build(&store).unwrap();
            (0..12).for_each(|t| drop(step(optimizer.as_mut(), threads, &mut store, t, 0.01, 0.1)));
            bits(&store)
        };
        let whole = run(1);
        assert!(whole == run(2) && whole == run(5), "{norm:?}");

        let mut store = store();
        let mut first = config(norm).build(&store).unwrap();
        (0..7).for_each(|t| drop(step(first.as_mut(), 2, &mut store, t, 0.01, 0.1)));
        let state = first.state();
        let names: Vec<&str> = state.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert!(names.contains(&"steepest.momentum.wide") && !names.contains(&"adamw.first_moment.wide"), "{names:?}");
        assert_eq!(names.contains(&"adamw.first_moment.gain"), norm == TrustNorm::Spectral);
        let scalars = serde_json::from_str(&state.scalars.to_string()).unwrap();
        let copy = OptimizerState { tensors: state.tensors.clone(), scalars };
        let mut second = config(norm).build(&store).unwrap();
        second.load_state(&copy).unwrap();
        (7..12).for_each(|t| drop(step(second.as_mut(), 2, &mut store, t, 0.01, 0.1)));
        assert!(bits(&store) == whole, "{norm:?}");

        let mut missing = copy.clone();
        missing.tensors.retain(|tensor| tensor.name != "steepest.update.tall");
        let before = format!("{:?}", second.state());
        assert!(second.load_state(&missing).unwrap_err().to_string().contains("steepest.update.tall"));
        assert_eq!(before, format!("{:?}", second.state()), "an error leaves the optimizer as it was");
    }
}

#[test]
fn zero_and_broken_gradients() {
    for norm in [TrustNorm::Max, TrustNorm::Spectral] {
        let mut store = store();
        let mut optimizer = config(norm).build(&store).unwrap();
        let before = weights(&store);
        let state = TrainingState { loss: 1.0, learning_rate: 0.01, ..TrainingState::default() };
        let report = optimizer.step(&context(2), &mut store, &state).unwrap();
        assert_eq!((report.update_norm, report.efficiency), (0.0, 1.0));
        assert_eq!(weights(&store), before);
        let tall = store.find("tall").unwrap();
        store.gradient_mut(tall)[3] = f32::NAN;
        let report = optimizer.step(&context(2), &mut store, &state).unwrap();
        assert_eq!(report.skipped.as_deref(), Some("tall"));
        assert_eq!(weights(&store), before);
    }
    for (name, config) in [
        ("steepest_momentum", OptimizerConfig { steepest_momentum: 1.0, ..Default::default() }),
        ("steepest_rms", OptimizerConfig { steepest_rms: 0.0, ..Default::default() }),
        ("newton_schulz_iterations", OptimizerConfig { newton_schulz_iterations: 0, ..Default::default() }),
    ] {
        assert!(config.build(&store()).unwrap_err().to_string().starts_with(name), "{name}");
    }
}

/// `|W x - y|^2` over many directions of very different curvature: one rate, no tuning per direction.
#[test]
fn spectral_steps_solve_an_ill_conditioned_regression_sooner() {
    let n = 24;
    let target = normal(n * n, 8);
    let curvature = |j: usize| 10f32.powf(-3.0 * j as f32 / (n - 1) as f32);
    let loss_after = |norm: TrustNorm| {
        let spec = ParamSpec {
            name: "w".into(),
            shape: vec![n, n],
            kind: ParamKind::Linear,
            precision: Precision::F32,
            init: Init::Constant(0.0),
        };
        let mut store = ParamStore::new(vec![spec]).unwrap();
        let w = store.ids().next().unwrap();
        let config = OptimizerConfig { radius_mode: RadiusMode::Absolute, ..without_network(norm) };
        let config = match norm {
            TrustNorm::L2 => OptimizerConfig { inner: hybridq::optim::OptimizerKind::Sgd, ..config },
            _ => config,
        };
        let mut optimizer = config.build(&store).unwrap();
        let mut loss = 0.0;
        for t in 0..300 {
            let (weights, gradients) = store.weight_and_gradient_mut(w);
            loss = 0.0;
            for (i, gradient) in gradients.iter_mut().enumerate() {
                let error = weights[i] - target[i];
                *gradient = curvature(i % n) * error;
                loss += 0.5 * f64::from(curvature(i % n) * error * error);
            }
            let rate = 0.1 * (1.0 - t as f32 / 300.0);
            let state = TrainingState { step: t, loss: loss as f32, learning_rate: rate, ..TrainingState::default() };
            optimizer.step(&context(1), &mut store, &state).unwrap();
        }
        loss
    };
    let (spectral, plain) = (loss_after(TrustNorm::Spectral), loss_after(TrustNorm::L2));
    assert!(spectral < 0.5 * plain, "{spectral} {plain}");
}
