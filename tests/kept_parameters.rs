//! Latent weights and gradients kept in bf16, and weights in int8: the passes compute from the rounded weights what they
//! compute from such weights in f32, sums of gradients are unbiased, runs do not depend on threads or instruction set and go on exactly.

mod small_models;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::{Isa, KernelTable};
use hybridq::models::{Model, ModelConfig, preset};
use hybridq::nn::{
    Batch, BufferKind, Executor, GradPrecision, HeadPrecision, Init, KeptPrecision, Mode, ParamKind, ParamSpec,
    ParamStore, PlanBuilder, Precision, StepRandomness,
};
use hybridq::optim::{OptimizerConfig, OptimizerKind, StatePrecision, TrainingState, TrustNorm};
use hybridq::train::{LanguageModelTrainer, RunPlace, TrainConfig};
use small_models::{context, ids, ready};

/// Odd sizes; more entries than a block of the head's table.
fn configs() -> Vec<ModelConfig> {
    let small = |name: &str| ModelConfig {
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        vocab_size: 2153,
        max_position_embeddings: 64,
        gradient_precision: GradPrecision::F32,
        head_precision: HeadPrecision::F32,
        ..preset(name).unwrap()
    };
    vec![
        small("small-plain"),
        ModelConfig { gradient_precision: GradPrecision::Int8, head_precision: HeadPrecision::Int8, ..small("tiny") },
        ModelConfig { gradient_precision: GradPrecision::Int8, ..small("small-llama") },
        ModelConfig { precision: Precision::Int4, ..small("gpt2") },
        ModelConfig { precision: Precision::F32, ..small("tiny") },
    ]
}

/// Loss and all gradients of a step.
fn step(model: &mut Model, context: &Context, mode: Mode, step: u32) -> (f64, Vec<f32>) {
    let vocabulary = model.config.vocab_size;
    let (tokens, targets) = (ids(70, vocabulary, 0), ids(70, vocabulary, 1));
    let batch = Batch { tokens: &tokens, targets: &targets, sequences: 2, length: 35, ..Batch::default() };
    let mut executor = Executor::new(&model.plan, mode, 70);
    let planned = executor.planned_bytes();
    model.store.zero_gradients();
    let randomness = StepRandomness { seed: 1, step };
    let loss = executor.step(&model.plan, context, &mut model.store, batch, randomness, 1.0).unwrap();
    assert_eq!(executor.planned_bytes(), planned, "scratch memory beyond the plan");
    (loss, model.store.ids().flat_map(|id| model.store.gradient_values(id).into_owned()).collect())
}

#[test]
fn passes_compute_what_they_do_from_such_weights_in_f32() {
    let context = context(2);
    // Gradients in f32 beside weights in int8: those can be held to a narrow bound.
    let forms = [(KeptPrecision::Bf16, KeptPrecision::Bf16), (KeptPrecision::Int8, KeptPrecision::F32)];
    for (config, (form, of_gradient)) in
        configs().into_iter().flat_map(|config| forms.map(|form| (config.clone(), form)))
    {
        let name = format!("{:?} {} {:?} {form:?}", config.model_type, config.precision, config.head_precision);
        let mut kept = ready(config.clone(), &context);
        let [before, of_gradients, _] = kept.store.memory_bytes();
        kept.keep_parameters(form, of_gradient, 1);
        kept.store.quantize(&context).unwrap();
        let in_bf16 = of_gradient == KeptPrecision::Bf16;
        assert_eq!(kept.store.is_in_fewer_bits(), [true, in_bf16]);
        let fewer = kept.store.memory_bytes()[1] * 10 < of_gradients * 7;
        assert!(fewer || config.precision == Precision::F32 || !in_bf16, "{name}");
        assert!(kept.store.memory_bytes()[0] < before, "{name}");

        let exact_gradients = config.gradient_precision == GradPrecision::F32;
        let mut exact = ready(config, &context);
        for id in exact.store.ids() {
            let rounded = kept.store.weight_values(id);
            // In int8: half a 127th of the largest of 256 elements.
            let near = |(w, r): (&[f32], &[f32])| {
                let largest = w.iter().fold(0.0f32, |most, w| most.max(w.abs()));
                let bound = |w: f32| if form == KeptPrecision::Int8 { largest / 250.0 } else { w.abs() / 256.0 };
                w.iter().zip(r).all(|(&w, &r)| (w - r).abs() <= bound(w).max(w.abs() / 256.0))
            };
            assert!(exact.store.weight(id).chunks(256).zip(rounded.chunks(256)).all(near), "{name}");
            exact.store.weight_mut(id).copy_from_slice(&rounded);
        }
        exact.store.quantize(&context).unwrap();
        for mode in [Mode::Evaluate, Mode::Train] {
            let ((loss, gradients), (expected, exact)) =
                (step(&mut kept, &context, mode, 2), step(&mut exact, &context, mode, 2));
            assert!((loss - expected).abs() < 2e-6 * expected, "{name}: loss {loss}, in f32 {expected}");
            // A row of the table is rounded once for each token that adds to it.
            let largest = exact.iter().fold(0.0f32, |most, g| most.max(g.abs()));
            // A gradient off by its last bit may be rounded the other way to int8.
            let is_exact = !in_bf16 && exact_gradients;
            let bounds = if is_exact { [1e-5, 1e-5] } else { [1.0 / 32.0, 1e-3] };
            for (g, e) in gradients.iter().zip(&exact) {
                assert!((g - e).abs() <= e.abs() * bounds[0] + bounds[1] * largest, "{name}: gradient {g}, in f32 {e}");
            }
        }
    }
}

/// The mean over the steps' random streams comes close to the gradient in f32.
#[test]
fn sums_of_gradients_are_unbiased() {
    const STEPS: u32 = 64;
    let context = context(2);
    let mut model = ready(configs().remove(0), &context);
    let (_, exact) = step(&mut model, &context, Mode::Train, 0);
    model.keep_parameters(KeptPrecision::F32, KeptPrecision::Bf16, 1);
    let distance = |found: &[f64], count: f64| {
        let off: f64 = found.iter().zip(&exact).map(|(f, &e)| (f / count - f64::from(e)).powi(2)).sum();
        (off / exact.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>()).sqrt()
    };
    let (mut sum, mut first) = (vec![0.0; exact.len()], 0.0);
    for number in 0..STEPS {
        let (_, gradients) = step(&mut model, &context, Mode::Train, number);
        sum.iter_mut().zip(&gradients).for_each(|(sum, &g)| *sum += f64::from(g));
        if number == 0 {
            first = distance(&sum, 1.0);
        }
    }
    let mean = distance(&sum, f64::from(STEPS));
    // Independent unbiased errors: an eighth.
    assert!(first > 1e-4 && first < 8e-3 && mean < first / 6.0, "one step {first}, mean of {STEPS} {mean}");
}

fn trainer(threads: usize, isa: Option<Isa>, changes: impl FnOnce(TrainConfig) -> TrainConfig) -> LanguageModelTrainer {
    let config = TrainConfig {
        data: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE").into()),
        max_steps: 20,
        batch_size: 2,
        seq_length: 32,
        latent_precision: KeptPrecision::Bf16,
        kept_gradient_precision: KeptPrecision::Bf16,
        gradient_clip_norm: 0.5,
        seed: 11,
        ..TrainConfig::for_model("tiny")
    };
    let context = Context::new(ContextOptions { threads: Some(threads), isa }).unwrap();
    LanguageModelTrainer::open(&context, changes(config), RunPlace::Nowhere).unwrap()
}

fn losses(trainer: &mut LanguageModelTrainer, steps: usize) -> Vec<f64> {
    (0..steps).map(|_| trainer.step().unwrap().loss).collect()
}

fn small_states(config: TrainConfig) -> TrainConfig {
    TrainConfig {
        trust_norm: TrustNorm::L2,
        optimizer_state_precision: StatePrecision::Int8Blocks,
        head_precision: Some(HeadPrecision::Int8),
        gradient_checkpointing: 1,
        ..config
    }
}

fn int8_weights(config: TrainConfig) -> TrainConfig {
    TrainConfig { latent_precision: KeptPrecision::Int8, ..small_states(config) }
}

/// Steps of a thirtieth of a quantum, which rounding to nearest would lose all of: the mean weight moves as it does in f32.
#[test]
fn updates_of_int8_weights_are_unbiased() {
    const STEPS: u64 = 60;
    const RATE: f32 = 1e-3;
    let context = context(2);
    let spec = ParamSpec {
        name: "w".into(),
        shape: vec![64, 300], // a part of a block at the end
        kind: ParamKind::Linear,
        precision: Precision::Ternary,
        init: Init::Normal { std: 1.0 },
    };
    let mut plan = PlanBuilder::new();
    let weight = plan.parameter(spec.name, &spec.shape, spec.kind, spec.precision, spec.init);
    let x = plan.buffer(BufferKind::Quantized, 300);
    plan.linear(x, weight, None, GradPrecision::Int8);
    let (mut plan, specs) = plan.finish();
    let mut store = ParamStore::new(specs).unwrap();
    store.initialize(5);
    plan.keep_parameters(&mut store, KeptPrecision::Int8, KeptPrecision::F32, 7);
    let before = store.weight_values(weight).into_owned();
    let config = OptimizerConfig {
        optimizer: OptimizerKind::Sgd,
        momentum: 0.0,
        weight_decay: 0.0,
        ..OptimizerConfig::default()
    };
    let mut optimizer = config.build(&store).unwrap();
    store.gradient_mut(weight).fill(-1.0);
    for step in 0..STEPS {
        let state = TrainingState { step, learning_rate: RATE, ..TrainingState::default() };
        optimizer.step(&context, &mut store, &state).unwrap();
    }
    let after = store.weight_values(weight).into_owned();
    let moved = before.iter().zip(&after).map(|(b, a)| f64::from(a - b));
    let (count, expected) = (before.len() as f64, f64::from(RATE) * STEPS as f64);
    let mean = moved.clone().sum::<f64>() / count;
    let deviation = (moved.map(|m| (m - mean).powi(2)).sum::<f64>() / count).sqrt();
    // Quanta are about 0.023: a step adds a deviation of 0.005, sixty 0.04.
    assert!((mean - expected).abs() < 5.0 * deviation / count.sqrt(), "mean {mean}, expected {expected}");
    assert!((0.01..0.1).contains(&deviation), "deviation {deviation}");
}

#[test]
fn runs_do_not_depend_on_threads_or_instruction_set() {
    for changes in [small_states as fn(TrainConfig) -> TrainConfig, int8_weights, |config| config] {
        let expected = losses(&mut trainer(1, Some(Isa::Portable), changes), 6);
        assert!(expected[5] < expected[0], "{expected:?}");
        for table in KernelTable::available() {
            for threads in [1, 2, 3] {
                let found = losses(&mut trainer(threads, Some(table.isa()), changes), 6);
                assert_eq!(found, expected, "{threads} threads, {}", table.isa().name());
            }
        }
    }
}

#[test]
fn runs_go_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for changes in [small_states as fn(TrainConfig) -> TrainConfig, int8_weights, |config| config] {
        let mut whole = trainer(2, None, changes);
        losses(&mut whole, 4);
        whole.save_state(&path).unwrap();
        let rest = losses(&mut whole, 4);
        let mut resumed = trainer(2, None, changes);
        resumed.load_state(&path).unwrap();
        assert_eq!(losses(&mut resumed, 4), rest);
        let weights = |trainer: &mut LanguageModelTrainer| -> Vec<u32> {
            let store = &trainer.objective_mut().generator().0.store;
            store.ids().flat_map(|id| store.weight_values(id).iter().map(|w| w.to_bits()).collect::<Vec<_>>()).collect()
        };
        assert!(weights(&mut resumed) == weights(&mut whole));
    }
    // Weights in f32 are no such state.
    let mut other = trainer(2, None, |config| TrainConfig { latent_precision: KeptPrecision::F32, ..config });
    assert!(other.load_state(&path).is_err());
}
