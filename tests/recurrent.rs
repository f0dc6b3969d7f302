//! Recurrent language models: parity with PyTorch's layers, states, threads, files, text, and a text that they learn.
//!
//! The parity reads the folder `HYBRIDQ_TORCH_RECURRENT_DIR` that `tests/peers/export_recurrent.py` writes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hybridq::data::Tokenizer;
use hybridq::dispatch::Context;
use hybridq::formats::SafetensorsFile;
use hybridq::generate::{GenerateOptions, SamplerOptions, generate};
use hybridq::models::{ExportType, Model, ModelConfig, ModelType, Sharing, SharingRule, preset};
use hybridq::nn::{Batch, Executor, GradPrecision, KeyValueCache, Mode, Precision, StepRandomness};
use hybridq::optim::{AdamW, Optimizer, TrainingState};
use small_models::{context, ids, ready};

mod peers;
mod small_models;

fn small(model_type: ModelType, precision: Precision) -> ModelConfig {
    let name = if model_type == ModelType::Lstm { "lstm" } else { "gru" };
    let width = 24;
    ModelConfig {
        hidden_size: width,
        intermediate_size: width,
        num_hidden_layers: 3,
        vocab_size: 50,
        initializer_range: 0.3,
        precision,
        ..preset(name).unwrap()
    }
}

const FORMS: [(ModelType, Precision); 4] = [
    (ModelType::Lstm, Precision::F32),
    (ModelType::Lstm, Precision::Ternary),
    (ModelType::Gru, Precision::F32),
    (ModelType::Gru, Precision::Ternary),
];

/// Columns `from..from + length` of `sequences` rows.
fn columns(all: &[u32], sequences: usize, from: usize, length: usize) -> Vec<u32> {
    all.chunks(all.len() / sequences).flat_map(|row| row[from..from + length].to_vec()).collect()
}

fn step(model: &mut Model, context: &Context, batch: Batch<'_>, cache: &mut KeyValueCache) -> f64 {
    let mut executor = Executor::new(&model.plan, Mode::Train, batch.tokens.len());
    let randomness = StepRandomness { seed: 1, step: 2 };
    model.store.zero_gradients();
    executor.step_with_state(&model.plan, context, &mut model.store, batch, cache, randomness, 1.0).unwrap()
}

fn cases() -> Vec<PathBuf> {
    peers::cases("HYBRIDQ_TORCH_RECURRENT_DIR", "export_recurrent.py", "torch", "expected.safetensors")
}

/// f32 logits within 1e-4, gradients of every parameter within 1e-3.
#[test]
fn losses_and_gradients_are_pytorchs_over_two_batches() {
    let context = context(2);
    for folder in cases() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let mut model = Model::load(&folder).unwrap();
        model.store.quantize(&context).unwrap();
        let theirs = Model::load(&folder.join("gradients")).unwrap();
        let file = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
        let [sequences, width] = file.tensor("tokens").unwrap().shape[..] else { panic!("tokens") };
        let length = width / 2;
        let all = file.elements::<i32>("tokens", &[sequences, width]).unwrap();
        let all: Vec<u32> = all.iter().map(|&id| id as u32).collect();
        let losses = file.elements::<f32>("losses", &[2]).unwrap();
        let mut cache = model.key_value_cache(sequences, width);
        for half in 0..2 {
            let tokens = columns(&all, sequences, half * length, length);
            let targets = columns(&all, sequences, half * length + 1, length);
            let batch = Batch { tokens: &tokens, targets: &targets, sequences, length, ..Batch::default() };
            let loss = step(&mut model, &context, batch, &mut cache);
            let expected = f64::from(losses[half]);
            assert!((loss / expected - 1.0).abs() < 1e-4, "{name}: loss {loss}, expected {expected}");
        }
        let mut worst = 0f64;
        for id in model.store.ids() {
            let (ours, theirs) = (model.store.gradient(id), theirs.store.weight(id));
            let off: f64 = ours.iter().zip(theirs).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
            let norm: f64 = theirs.iter().map(|&b| f64::from(b).powi(2)).sum();
            let relative = (off / norm.max(1e-300)).sqrt();
            assert!(relative < 1e-3, "{name}: gradient of {} differs by {relative:.2e}", model.store.spec(id).name);
            worst = worst.max(relative);
        }
        // The logits of the last position, read token by token.
        let expected = file.elements::<f32>("logits", &[sequences, model.config.vocab_size]).unwrap();
        let mut executor = Executor::new(&model.plan, Mode::Generate, sequences);
        cache.clear();
        let mut logits = Vec::new();
        for position in 0..width - 1 {
            let tokens = columns(&all, sequences, position, 1);
            let batch = Batch { tokens: &tokens, sequences, length: 1, ..Batch::default() };
            logits = executor.generate(&model.plan, &context, &mut model.store, batch, &mut cache).unwrap();
        }
        let largest = expected.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        let off = logits.iter().zip(&*expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest;
        println!("{name:28} logits {off:.1e}  gradients {worst:.1e}");
        assert!(off < 1e-4, "{name}: logits differ by {off:.2e}");
    }
}

#[test]
fn a_text_in_pieces_is_the_text() {
    let context = context(2);
    for (model_type, precision) in FORMS {
        let mut model = ready(small(model_type, precision), &context);
        let (tokens, targets) = (ids(33, 50, 0), ids(33, 50, 1));
        let mut whole = model.key_value_cache(3, 11);
        let mut pieces = model.key_value_cache(3, 11);
        let batch = Batch { tokens: &tokens, targets: &targets, sequences: 3, length: 11, ..Batch::default() };
        let loss = step(&mut model, &context, batch, &mut whole);
        let mut sum = 0.0;
        for (from, length) in [(0, 4), (4, 1), (5, 6)] {
            let (tokens, targets) = (columns(&tokens, 3, from, length), columns(&targets, 3, from, length));
            let batch = Batch { tokens: &tokens, targets: &targets, sequences: 3, length, ..Batch::default() };
            sum += step(&mut model, &context, batch, &mut pieces) * length as f64;
        }
        assert!((loss - sum / 11.0).abs() < 1e-5, "{model_type:?} {precision}: {loss} whole, {} in pieces", sum / 11.0);
        assert_eq!(pieces.len(), 11);
        // Forgotten, it is read as at first; states know no other positions.
        assert!(pieces.truncate(5).unwrap_err().to_string().contains("recurrent"));
        pieces.truncate(0).unwrap();
        assert_eq!(step(&mut model, &context, batch, &mut pieces).to_bits(), loss.to_bits());
    }
}

#[test]
fn steps_are_the_same_at_every_number_of_threads_and_without_kept_activations() {
    for (model_type, precision) in FORMS {
        let gradient_precision = if precision == Precision::F32 { GradPrecision::F32 } else { GradPrecision::Int8 };
        let config = ModelConfig { hidden_dropout: 0.1, gradient_precision, ..small(model_type, precision) };
        let (tokens, targets) = (ids(40, 50, 0), ids(40, 50, 1));
        let batch = Batch { tokens: &tokens, targets: &targets, sequences: 5, length: 8, ..Batch::default() };
        let run = |threads: usize, blocks: usize| {
            let context = context(threads);
            let mut model = ready(config.clone(), &context);
            let mut cache = model.key_value_cache(5, 16);
            let mut executor = Executor::with_checkpoints(&model.plan, blocks, 40);
            let mut losses = Vec::new();
            for step in 0..2 {
                let randomness = StepRandomness { seed: 4, step };
                let (plan, store) = (&model.plan, &mut model.store);
                let loss = executor.step_with_state(plan, &context, store, batch, &mut cache, randomness, 0.5).unwrap();
                losses.push(loss.to_bits());
            }
            assert!(model.store.gradients().iter().all(|g| g.is_finite()));
            (losses, model.store.gradients().to_vec())
        };
        let first = run(1, 0);
        assert!(first == run(2, 0) && first == run(3, 1), "{model_type:?} {precision}");
    }
}

#[test]
fn models_are_kept_shared_and_refused() {
    let context = context(1);
    for (model_type, precision) in FORMS {
        let rules = vec![SharingRule::CrossLayer { interval: 2 }];
        let parameter_sharing = Sharing { rules, precision: None };
        let tie_word_embeddings = precision == Precision::F32;
        let config = ModelConfig { parameter_sharing, tie_word_embeddings, ..small(model_type, precision) };
        let info = config.sharing_info().unwrap();
        assert!(info.shared.iter().any(|shared| shared.users.contains(&"layers.1.weight_hh".to_string())), "{info:?}");
        let model = ready(config, &context);
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let again = Model::load(folder.path()).unwrap();
        assert_eq!(again.config, model.config);
        assert!(model.store.ids().all(|id| model.store.weight(id) == again.store.weight(id)));
        let refused = model.export(&context, &folder.path().join("out"), ExportType::F32).unwrap_err().to_string();
        assert!(refused.contains("no export"), "{refused}");
        assert!(model.config.llama_cpp_obstacle().unwrap().contains(model_type.name()));
    }
    let read = |text: &str| ModelConfig::from_json(text, Path::new("c.json")).unwrap_err().to_string();
    assert!(
        read(r#"{"model_type": "lstm", "vocab_size": 9, "num_hidden_layers": 1}"#).contains("hidden_size: missing")
    );
    let heads =
        r#"{"model_type": "gru", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "rope_theta": 1e4}"#;
    assert!(read(heads).contains("rope_theta: unknown key"));
    // A state belongs to a plan and a number of sequences.
    let mut model = ready(small(ModelType::Gru, Precision::F32), &context);
    let tokens = ids(4, 50, 0);
    let batch = Batch { tokens: &tokens, sequences: 2, length: 2, ..Batch::default() };
    let mut executor = Executor::new(&model.plan, Mode::Generate, 4);
    for mut cache in [model.key_value_cache(3, 9), KeyValueCache::new(2, 9, &[])] {
        let found = executor.generate(&model.plan, &context, &mut model.store, batch, &mut cache).unwrap_err();
        assert!(found.to_string().starts_with("cache"), "{found}");
    }
}

/// Truncated backpropagation over this crate's own text, the state carried on: bits per byte fall below those of the byte
/// frequencies, and the model then writes on from a prompt.
#[test]
fn a_text_is_learned_with_the_state_carried_on() {
    let context = context(2);
    let text = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc/README.md")).unwrap();
    let text: Vec<u32> = text.iter().filter(|byte| byte.is_ascii()).map(|&byte| byte.into()).collect();
    let mut counts = [0f64; 256];
    text.iter().for_each(|&byte| counts[byte as usize] += 1.0);
    let share = |count: f64| count / text.len() as f64;
    let unigram: f64 =
        counts.iter().filter(|&&count| count > 0.0).map(|&count| -share(count) * share(count).ln()).sum();
    for (model_type, precision) in FORMS {
        let config = ModelConfig {
            hidden_size: 48,
            intermediate_size: 48,
            num_hidden_layers: 1,
            vocab_size: 256,
            initializer_range: 0.1,
            ..small(model_type, precision)
        };
        let mut model = ready(config, &context);
        let mut optimizer = AdamW::new(&model.store, 0.9, 0.99, 1e-8);
        const SEQUENCES: usize = 16;
        const LENGTH: usize = 16;
        let stretch = text.len() / SEQUENCES;
        let mut executor = Executor::new(&model.plan, Mode::Train, SEQUENCES * LENGTH);
        let mut cache = model.key_value_cache(SEQUENCES, stretch);
        let mut losses = Vec::new();
        for step in 0..240u32 {
            let from = step as usize * LENGTH % (stretch - LENGTH - 1);
            let at = |shift: usize| -> Vec<u32> {
                (0..SEQUENCES).flat_map(|row| &text[row * stretch + from + shift..][..LENGTH]).copied().collect()
            };
            let (tokens, targets) = (at(0), at(1));
            let batch =
                Batch { tokens: &tokens, targets: &targets, sequences: SEQUENCES, length: LENGTH, ..Batch::default() };
            let (plan, store) = (&model.plan, &mut model.store);
            store.zero_gradients();
            let randomness = StepRandomness { seed: 1, step };
            losses.push(executor.step_with_state(plan, &context, store, batch, &mut cache, randomness, 1.0).unwrap());
            let state = TrainingState { step: step.into(), learning_rate: 1e-2, ..TrainingState::default() };
            optimizer.step(&context, store, &state).unwrap();
            store.quantize(&context).unwrap();
        }
        let last = losses[200..].iter().sum::<f64>() / 40.0;
        println!("{model_type:?} {precision}: loss {last:.3}, byte frequencies {unigram:.3}");
        let share = if precision == Precision::F32 { 0.85 } else { 0.95 };
        assert!(last < share * unigram, "{model_type:?} {precision}: {last}");
        let options = GenerateOptions {
            tokens: 30,
            sampler: SamplerOptions { temperature: 0.0, ..SamplerOptions::default() },
            ..GenerateOptions::default()
        };
        let go_on = |_: &str| ControlFlow::Continue(());
        let written = generate(&context, &mut model, &Tokenizer::bytes(), "The ", &options, go_on).unwrap();
        assert_eq!(written.tokens.len(), 30);
    }
}
