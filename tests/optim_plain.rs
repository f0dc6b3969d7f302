//! AdamW and SGD as optimizers: torch's numbers, threads, saved state, bad input.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::{Init, ParamKind, ParamSpec, ParamStore, Precision};
use hybridq::optim::{
    LearningRateSchedule, Optimizer, OptimizerConfig, OptimizerKind, OptimizerState, StatePrecision, TrainingState,
};
use hybridq::tensor::RandomStream;

/// Printed by tests/peers/optim_torch.py (torch 2.15).
const TORCH_ADAMW: [[f64; 4]; 5] = [
    [0.509500027, -1.23874998, -0.00999999978, 1.98800004],
    [0.512478471, -1.24189377, -0.0050970423, 1.97922564],
    [0.516772866, -1.24519253, -0.00769846328, 1.97810495],
    [0.515359282, -1.24440706, -0.00985370949, 1.97402036],
    [0.513364077, -1.24642146, -0.00793773215, 1.97112072],
];
const TORCH_SGD: [[f64; 4]; 5] = [
    [0.512000024, -1.24374998, -0.00249999994, 1.98800004],
    [0.517288029, -1.24938118, 0.00275249942, 1.97521198],
    [0.526529968, -1.25569987, -0.00252300384, 1.97172761],
    [0.521821141, -1.25263107, -0.00726843346, 1.95911992],
    [0.514561415, -1.25861645, -0.00153205218, 1.94831383],
];

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn spec(name: &str, shape: &[usize], kind: ParamKind) -> ParamSpec {
    let init = Init::Normal { std: 0.1 };
    ParamSpec { name: name.into(), shape: shape.to_vec(), kind, precision: Precision::F32, init }
}

fn several() -> ParamStore {
    let specs = vec![
        spec("matrix", &[300, 131], ParamKind::Linear),
        spec("gain", &[17], ParamKind::Gain),
        spec("table", &[5, 3], ParamKind::Embedding),
    ];
    let mut store = ParamStore::new(specs).unwrap();
    store.initialize(3);
    store
}

fn draw_gradients(store: &mut ParamStore, step: u64) {
    for id in store.ids() {
        let mut stream = RandomStream::new(5, 920, step as u32, id.index() as u32);
        store.gradient_mut(id).fill_with(|| stream.normal() as f32 * 0.01);
    }
}

fn run(optimizer: &mut dyn Optimizer, context: &Context, store: &mut ParamStore, steps: std::ops::Range<u64>) {
    for step in steps {
        draw_gradients(store, step);
        let state = TrainingState {
            step,
            loss: 3.0 / (step + 1) as f32,
            learning_rate: 0.003,
            weight_decay: 0.1,
            gradient_norm: 1.0 + (step % 3) as f64,
            cluster: Some(step as usize % 4),
            ..TrainingState::default()
        };
        optimizer.step(context, store, &state).unwrap();
    }
}

fn bits(store: &ParamStore) -> Vec<u32> {
    store.ids().flat_map(|id| store.weight(id).iter().map(|w| w.to_bits()).collect::<Vec<_>>()).collect()
}

fn config(optimizer: OptimizerKind) -> OptimizerConfig {
    OptimizerConfig { optimizer, ..OptimizerConfig::default() }
}

#[test]
fn five_steps_agree_with_torch() {
    for (kind, table) in [(OptimizerKind::AdamW, TORCH_ADAMW), (OptimizerKind::Sgd, TORCH_SGD)] {
        let mut store = ParamStore::new(vec![spec("w", &[4], ParamKind::Linear)]).unwrap();
        let w = store.ids().next().unwrap();
        store.weight_mut(w).copy_from_slice(&[0.5, -1.25, 0.0, 2.0]);
        let mut optimizer = config(kind).build(&store).unwrap();
        for (t, expected) in table.iter().enumerate() {
            for (i, gradient) in store.gradient_mut(w).iter_mut().enumerate() {
                *gradient = ((7 * t + 3 * i) % 11) as f32 / 4.0 - 1.25;
            }
            let state = TrainingState { learning_rate: 0.01, weight_decay: 0.1, ..TrainingState::default() };
            optimizer.step(&context(1), &mut store, &state).unwrap();
            for (found, expected) in store.weight(w).iter().zip(expected) {
                let found = f64::from(*found);
                assert!((found - expected).abs() <= 4e-7 * expected.abs().max(0.5), "{kind:?} {t}: {found} {expected}");
            }
        }
    }
}

/// m = 0.1 g, v = 0.05 g^2: after correction the first step of AdamW has length lr whatever the gradient.
#[test]
fn first_step_by_hand_and_decay_by_kind() {
    let mut store = several();
    let before: Vec<Vec<f32>> = store.ids().map(|id| store.weight(id).to_vec()).collect();
    store.ids().for_each(|id| store.gradient_mut(id).fill(-7.0));
    let state = TrainingState { learning_rate: 0.5, weight_decay: 0.25, ..TrainingState::default() };
    let report = config(OptimizerKind::AdamW).build(&store).unwrap().step(&context(2), &mut store, &state).unwrap();
    let mut squares = 0.0;
    for id in store.ids() {
        let decays = store.spec(id).kind != ParamKind::Gain;
        for (new, old) in store.weight(id).iter().zip(&before[id.index()]) {
            let expected = old * if decays { 0.875 } else { 1.0 } + 0.5;
            assert!((new - expected).abs() < 1e-6);
            squares += f64::from(new - old).powi(2);
        }
    }
    assert!((report.update_norm / squares.sqrt() - 1.0).abs() < 1e-5);
    assert!(!report.constraint_active && report.efficiency == 1.0 && report.lr_multiplier == 1.0);
}

#[test]
fn threads_do_not_change_a_bit() {
    for kind in [OptimizerKind::AdamW, OptimizerKind::Sgd, OptimizerKind::Hybrid] {
        let [one, two] = [1, 2].map(|threads| {
            let mut store = several();
            run(config(kind).build(&store).unwrap().as_mut(), &context(threads), &mut store, 0..20);
            bits(&store)
        });
        assert_eq!(one, two, "{kind:?}");
    }
}

#[test]
fn state_goes_through_json_text_and_resumes_exactly() {
    let context = context(2);
    let (f32, bf16, int8) = (StatePrecision::F32, StatePrecision::Bf16, StatePrecision::Int8Blocks);
    let (adamw, sgd, hybrid) = (OptimizerKind::AdamW, OptimizerKind::Sgd, OptimizerKind::Hybrid);
    let cases = [(adamw, f32), (adamw, bf16), (adamw, int8), (sgd, f32), (hybrid, f32), (hybrid, bf16), (hybrid, int8)];
    for (kind, state_precision) in cases {
        let config = OptimizerConfig { auxiliary_nn_output_size: 3, state_precision, ..config(kind) };
        let mut store = several();
        let mut optimizer = config.build(&store).unwrap();
        run(optimizer.as_mut(), &context, &mut store, 0..13);
        let saved = optimizer.state();
        let text = saved.scalars.to_string();
        let restored = OptimizerState { tensors: saved.tensors.clone(), scalars: text.parse().unwrap() };
        let mut resumed = config.build(&store).unwrap();
        resumed.load_state(&restored).unwrap();
        let mut other = several();
        for id in store.ids() {
            other.weight_mut(id).copy_from_slice(store.weight(id));
        }
        run(optimizer.as_mut(), &context, &mut store, 13..40);
        run(resumed.as_mut(), &context, &mut other, 13..40);
        assert_eq!(bits(&store), bits(&other), "{kind:?}");
        assert_eq!(optimizer.state(), resumed.state());
    }
}

/// Moments of fewer bits: less memory, the same on every number of threads, weights near those of f32 moments.
#[test]
fn moments_in_fewer_bits() {
    let after = |state_precision, threads| {
        let (mut store, start) = (several(), several());
        let config = OptimizerConfig { state_precision, seed: 4, ..config(OptimizerKind::AdamW) };
        let mut optimizer = config.build(&store).unwrap();
        run(optimizer.as_mut(), &context(threads), &mut store, 0..40);
        let moved = |id| store.weight(id).iter().zip(start.weight(id)).map(|(w, s)| w - s).collect::<Vec<f32>>();
        (store.ids().flat_map(moved).collect::<Vec<f32>>(), optimizer.state_bytes())
    };
    let (exact, whole) = after(StatePrecision::F32, 1);
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    for (precision, share, bound) in [(StatePrecision::Bf16, 0.5, 0.02), (StatePrecision::Int8Blocks, 0.26, 0.1)] {
        let (rounded, bytes) = after(precision, 1);
        assert!(rounded == after(precision, 3).0, "{precision:?}: threads");
        assert!((bytes as f64) < share * whole as f64 + 64.0, "{precision:?}: {bytes} of {whole} bytes");
        let mut difference = rounded.iter().zip(&exact).map(|(a, b)| a - b);
        let off = norm(&mut difference) / norm(&mut exact.iter().copied());
        println!("{precision:?}: {off}");
        assert!(off < bound, "{precision:?}: {off} of the way off");
    }
    let refused = OptimizerConfig { state_precision: StatePrecision::Bf16, ..config(OptimizerKind::Sgd) };
    let message = refused.build(&several()).unwrap_err().to_string();
    assert!(message.starts_with("optimizer_state_precision: expected f32"), "{message}");
}

#[test]
fn load_rejects_what_does_not_fit_and_changes_nothing() {
    let mut store = several();
    let mut optimizer = config(OptimizerKind::Hybrid).build(&store).unwrap();
    run(optimizer.as_mut(), &context(1), &mut store, 0..3);
    let good = optimizer.state();
    let mut wrong_shape = good.clone();
    wrong_shape.tensors[1].shape = vec![1, 17];
    let mut missing = good.clone();
    missing.tensors.pop();
    let mut scalars = good.clone();
    scalars.scalars = serde_json::json!({"inner": 3});
    let owned: Vec<_> = good.tensors.iter().map(|tensor| tensor.values.bytes().to_vec()).collect();
    let mut fresh = config(OptimizerKind::Hybrid).build(&store).unwrap();
    for (state, name) in [(wrong_shape, "gain"), (missing, "table"), (scalars, "hybrid")] {
        let error = fresh.load_state(&state).unwrap_err().to_string();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
        assert!(fresh.state().tensors.iter().all(|tensor| tensor.values.bytes().iter().all(|&byte| byte == 0)));
    }
    fresh.load_state(&good).unwrap();
    assert!(
        fresh.state().tensors.iter().zip(&owned).all(|(tensor, values)| tensor.values.bytes() == values.as_slice())
    );
}

#[test]
fn bad_gradients_skip_and_zero_gradients_do_not_move() {
    for kind in [OptimizerKind::AdamW, OptimizerKind::Sgd, OptimizerKind::Hybrid] {
        let mut store = several();
        let mut optimizer = config(kind).build(&store).unwrap();
        let context = context(2);
        run(optimizer.as_mut(), &context, &mut store, 0..2);
        let (before, moments) =
            (bits(&store), optimizer.state().tensors.iter().map(|t| t.values.bytes().to_vec()).collect::<Vec<_>>());
        for bad in [f32::NAN, f32::INFINITY] {
            let gain = store.find("gain").unwrap();
            store.gradient_mut(gain)[16] = bad;
            let state = TrainingState { learning_rate: 0.1, ..TrainingState::default() };
            let report = optimizer.step(&context, &mut store, &state).unwrap();
            assert_eq!(report.skipped.as_deref(), Some("gain"));
            assert_eq!(bits(&store), before);
        }
        let after = optimizer.state();
        assert!(after.tensors.iter().zip(&moments).all(|(tensor, values)| tensor.values.bytes() == values.as_slice()));
        assert!(after.scalars.to_string().contains("\"skipped\":2"));

        let mut fresh = config(kind).build(&store).unwrap();
        store.zero_gradients();
        let state = TrainingState { learning_rate: 0.1, ..TrainingState::default() };
        for _ in 0..3 {
            let report = fresh.step(&context, &mut store, &state).unwrap();
            assert!(report.update_norm == 0.0 && report.efficiency == 1.0 && !report.constraint_active);
        }
        assert_eq!(bits(&store), before);
        for (learning_rate, weight_decay) in [(f32::NAN, 0.0), (-0.1, 0.0), (0.1, f32::INFINITY)] {
            let state = TrainingState { learning_rate, weight_decay, ..TrainingState::default() };
            assert!(fresh.step(&context, &mut store, &state).is_err());
        }
        let mut other = ParamStore::new(vec![spec("w", &[4], ParamKind::Linear)]).unwrap();
        assert!(fresh.step(&context, &mut other, &state).is_err());
    }
}

#[test]
fn schedules() {
    let cosine = LearningRateSchedule::WarmupCosine { warmup_steps: 40, final_fraction: 0.1 };
    // quality.py's lr_at with --lr 1e-3 --steps 600 --warmup 40, at steps 0, 39, 40, 320 and 599.
    for (step, expected) in [(0, 2.5e-5), (39, 1e-3), (40, 1e-3), (320, 5.5e-4), (599, 1.0000708e-4), (900, 1e-4)] {
        let found = cosine.learning_rate(1e-3, step, 600);
        assert!((found / expected - 1.0f32).abs() < 1e-6, "{step}: {found} {expected}");
    }
    assert_eq!(cosine.weight_decay(0.1, 599, 600), 0.1);
    let stages = LearningRateSchedule::TwoStage { warmup_steps: 10, second_fraction: 0.25 };
    let rates: Vec<f32> = (0..100).map(|step| stages.learning_rate(1.0, step, 100)).collect();
    assert_eq!((rates[0], rates[9], rates[10]), (0.1, 1.0, 1.0));
    assert!(rates[49] > 0.55 && rates[50] == 0.25 && rates[99] > 0.0 && rates[99] < 0.01);
    assert_eq!((stages.weight_decay(0.1, 49, 100), stages.weight_decay(0.1, 50, 100)), (0.1, 0.0));
    assert_eq!(LearningRateSchedule::Constant.learning_rate(0.3, 70, 10), 0.3);
    assert!(stages.learning_rate(1.0, 5, 0).is_finite() && cosine.learning_rate(1.0, 50, 40).is_finite());
}
