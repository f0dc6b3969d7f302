//! Decoder models as wholes: generation beside the full pass, packed weights, threads, files, a model with known answers.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::generate::{GenerateOptions, SamplerOptions};
use hybridq::kernels::KernelTable;
use hybridq::models::{Activation, Model, ModelConfig, ModelType, preset};
use hybridq::nn::ops::RopeScaling;
use hybridq::nn::{Batch, Executor, GradPrecision, HeadPrecision, Mode, Precision, StepRandomness};

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

/// A model small enough for tests, of every form.
fn small(model_type: ModelType, precision: Precision) -> ModelConfig {
    let plain = matches!(model_type, ModelType::Plain | ModelType::Gpt2);
    ModelConfig {
        model_type,
        hidden_size: 32,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: if plain { 4 } else { 2 },
        vocab_size: 50,
        max_position_embeddings: 100,
        hidden_act: if plain { Activation::GeluPytorchTanh } else { Activation::Silu },
        initializer_range: 0.2,
        precision,
        ..preset("tiny").unwrap()
    }
}

fn forms() -> Vec<ModelConfig> {
    let windowed = ModelConfig { sliding_window: Some(5), ..small(ModelType::Bitnet, Precision::Ternary) };
    let relu2 = ModelConfig {
        hidden_act: Activation::Relu2,
        tie_word_embeddings: false,
        ..small(ModelType::Bitnet, Precision::Int8)
    };
    let biased = ModelConfig {
        attention_bias: true,
        mlp_bias: true,
        head_dim: Some(6),
        rope_scaling: Some(RopeScaling::Linear { factor: 3.0 }),
        ..small(ModelType::Llama, Precision::Ternary)
    };
    vec![
        small(ModelType::Plain, Precision::F32),
        small(ModelType::Plain, Precision::Ternary),
        small(ModelType::Llama, Precision::F32),
        small(ModelType::Bitnet, Precision::Ternary),
        small(ModelType::Gpt2, Precision::F32),
        small(ModelType::Gpt2, Precision::Ternary),
        small(ModelType::Llama, Precision::Ternary),
        biased,
        windowed,
        relu2,
    ]
}

fn ready(config: ModelConfig, context: &Context) -> Model {
    let mut model = Model::new(config, 3).unwrap();
    model.store.quantize(context).unwrap();
    model
}

fn ids(count: usize, vocabulary: usize, salt: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 7 + i * 3 + salt) % vocabulary) as u32).collect()
}

fn train_step(model: &mut Model, context: &Context, sequences: usize, length: usize) -> (f64, Vec<f32>) {
    let mut executor = Executor::new(&model.plan, Mode::Train, sequences * length);
    train_step_with(&mut executor, model, context, sequences, length)
}

fn train_step_with(
    executor: &mut Executor,
    model: &mut Model,
    context: &Context,
    sequences: usize,
    length: usize,
) -> (f64, Vec<f32>) {
    let tokens = ids(sequences * length, model.config.vocab_size, 0);
    let targets = ids(sequences * length, model.config.vocab_size, 1);
    let batch = Batch { tokens: &tokens, targets: &targets, sequences, length, ..Batch::default() };
    model.store.zero_gradients();
    let randomness = StepRandomness { seed: 1, step: 2 };
    let loss = executor.step(&model.plan, context, &mut model.store, batch, randomness, 1.0).unwrap();
    (loss, model.store.gradients().to_vec())
}

/// Logits after `tokens` (two sequences), read in pieces of the lengths given.
fn generate(model: &mut Model, context: &Context, tokens: [&[u32]; 2], pieces: &[usize]) -> Vec<f32> {
    let total: usize = pieces.iter().sum();
    let mut executor = Executor::new(&model.plan, Mode::Generate, 2 * total);
    let mut cache = model.key_value_cache(2, total);
    let (mut start, mut logits) = (0, Vec::new());
    for &length in pieces {
        let piece: Vec<u32> = tokens.iter().flat_map(|row| &row[start..start + length]).copied().collect();
        let batch = Batch { tokens: &piece, targets: &[], sequences: 2, length, ..Batch::default() };
        logits = executor.generate(&model.plan, context, &mut model.store, batch, &mut cache).unwrap();
        start += length;
    }
    logits
}

#[test]
fn generation_with_the_cache_equals_the_full_pass() {
    let context = context(2);
    for config in forms() {
        let mut model = ready(config, &context);
        let (a, b) = (ids(70, 50, 4), ids(70, 50, 9));
        let whole = generate(&mut model, &context, [&a, &b], &[70]);
        let largest = whole.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        for pieces in [vec![1; 70], vec![3, 1, 65, 1]] {
            let logits = generate(&mut model, &context, [&a, &b], &pieces);
            // Products of other shapes round differently, and int8 activations may fall to the neighbouring value.
            let allowed = if model.config.precision == Precision::F32 { 1e-4 } else { 2e-2 } * largest;
            let off = whole.iter().zip(&logits).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(off <= allowed, "{:?} {:?}: {off} of {largest}", model.config.model_type, model.config.precision);
        }
        // The loss of the last position agrees with the logits: both passes are the same function.
        let mut executor = Executor::new(&model.plan, Mode::Evaluate, 70);
        let targets = vec![7; 70];
        let mut sum = |count: usize| {
            let batch = Batch {
                tokens: &a[..count],
                targets: &targets[..count],
                sequences: 1,
                length: count,
                ..Batch::default()
            };
            let randomness = StepRandomness::default();
            executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap() * count as f64
        };
        let last = sum(70) - sum(69);
        let row: Vec<f64> = whole[..50].iter().map(|&logit| f64::from(logit)).collect();
        let expected = row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[7];
        assert!((last - expected).abs() < 1e-2 * expected.abs().max(1.0), "{last} {expected}");
    }
}

/// One query head of one sequence, by the formula, in f64.
fn naive_attention(q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>], position: usize, window: usize) -> Vec<f64> {
    let first = (position + 1).saturating_sub(window);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scale = 1.0 / (q[0].len() as f64).sqrt();
    let weights: Vec<f64> = (first..=position).map(|key| (scale * dot(&q[position], &k[key])).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let column = |i: usize| (first..=position).zip(&weights).map(|(key, weight)| weight / sum * v[key][i]).sum();
    (0..v[0].len()).map(column).collect()
}

#[test]
fn attention_equals_the_formula() {
    use hybridq::nn::ops::AttentionShape;
    use hybridq::nn::{Init, KeyValueCache, ParamKind, ParamStore, PlanBuilder};
    let (heads, kv_heads, head_dim, length) = (4, 2, 5, 131);
    for window in [None, Some(1), Some(70)] {
        let mut builder = PlanBuilder::new();
        let mut table = |name: &str, rows: usize, cols: usize| {
            let init = Init::Normal { std: 1.0 };
            builder.parameter(name, &[rows, cols], ParamKind::Embedding, Precision::F32, init)
        };
        let width = heads * head_dim;
        let (values, identity) =
            (table("values", length, width + 2 * kv_heads * head_dim), table("identity", width, width));
        let qkv = builder.embedding(values);
        let y = builder.attention_fused(qkv, AttentionShape { heads, kv_heads, head_dim, window, dropout: 0.0 });
        builder.language_model_head(y, identity, HeadPrecision::F32);
        let (plan, specs) = builder.finish();
        let mut store = ParamStore::new(specs).unwrap();
        store.initialize(8);
        for (index, weight) in store.weight_mut(identity).iter_mut().enumerate() {
            *weight = if index % (width + 1) == 0 { 1.0 } else { 0.0 };
        }
        let rows = |store: &ParamStore, start: usize| -> Vec<Vec<f64>> {
            let row = |row: &[f32]| row[start..start + head_dim].iter().map(|&x| f64::from(x)).collect();
            store.weight(values).chunks(width + 2 * kv_heads * head_dim).map(row).collect()
        };
        let tokens: Vec<u32> = (0..length as u32).collect();
        let context = context(2);
        for count in [1, 2, 64, 65, 71, 131] {
            let mut executor = Executor::new(&plan, Mode::Generate, count);
            let mut cache = KeyValueCache::new(1, count, &plan.cache_widths());
            let batch =
                Batch { tokens: &tokens[..count], targets: &[], sequences: 1, length: count, ..Batch::default() };
            let found = executor.generate(&plan, &context, &mut store, batch, &mut cache).unwrap();
            for head in 0..heads {
                let kv = width + head / 2 * head_dim;
                let (q, k, v) =
                    (rows(&store, head * head_dim), rows(&store, kv), rows(&store, kv + kv_heads * head_dim));
                let expected = naive_attention(&q, &k, &v, count - 1, window.unwrap_or(usize::MAX));
                for (found, expected) in found[head * head_dim..].iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }
}

/// Forward and backward passes of quantized layers read the packed copies alone.
#[test]
fn latent_weights_are_not_read_after_packing() {
    let context = context(2);
    for gradient_precision in [GradPrecision::F32, GradPrecision::Int8] {
        for config in forms().into_iter().filter(|config| config.precision != Precision::F32) {
            let mut model = ready(ModelConfig { gradient_precision, ..config }, &context);
            let (loss, gradients) = train_step(&mut model, &context, 2, 9);
            assert!(loss.is_finite() && gradients.iter().any(|&g| g != 0.0));
            for id in model.store.ids() {
                if model.store.spec(id).precision != Precision::F32 {
                    model.store.weight_mut(id).fill(f32::NAN);
                }
            }
            let (again, same) = train_step(&mut model, &context, 2, 9);
            assert_eq!(loss.to_bits(), again.to_bits());
            assert!(gradients.iter().zip(&same).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }
}

/// A head whose table has one huge column gives the layers that end in the residual stream gradients with an outlier: these
/// alone fall back to f32, and their gradients come closer to the exact ones.
#[test]
fn gradients_with_outliers_fall_back_to_f32() {
    let context = context(2);
    let config = ModelConfig {
        hidden_size: 256,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        tie_word_embeddings: false,
        ..small(ModelType::Plain, Precision::Ternary)
    };
    let with_outlier = |config: ModelConfig, outlier: f32| {
        let mut model = ready(config, &context);
        let head = model.store.find("head.weight").unwrap();
        model.store.weight_mut(head).iter_mut().step_by(256).for_each(|w| *w *= outlier);
        model
    };
    let int8 = ModelConfig { gradient_precision: GradPrecision::Int8, ..config.clone() };
    let step = |config: &ModelConfig, outlier, limit| {
        let mut model = with_outlier(config.clone(), outlier);
        let mut executor = Executor::new(&model.plan, Mode::Train, 80);
        executor.limit_gradient_errors(limit);
        let (_, gradients) = train_step_with(&mut executor, &mut model, &context, 2, 40);
        let errors = executor.take_gradient_errors();
        assert!(executor.take_gradient_errors().in_f32.is_empty());
        let names: Vec<String> = errors.in_f32.iter().map(|&id| model.store.spec(id).name.clone()).collect();
        println!("outlier {outlier}, limit {limit}: error {}, in f32: {names:?}", errors.largest);
        (gradients, names)
    };
    let (_, names) = step(&int8, 1.0, 0.25);
    assert!(names.is_empty(), "{names:?}");
    let (exact, _) = step(&config, 1000.0, 0.25);
    let (rounded, _) = step(&int8, 1000.0, f32::INFINITY);
    let (watched, names) = step(&int8, 1000.0, 0.25);
    assert!(names.iter().any(|name| name == "blocks.1.fc2.weight"), "{names:?}");
    assert!(names.len() < 4, "the others stay in int8: {names:?}");
    // The layers before it see the difference.
    let fc1 = {
        let model = with_outlier(config.clone(), 1.0);
        let before = model.store.ids().take_while(|&id| model.store.spec(id).name != "blocks.1.fc1.weight");
        let start: usize = before.map(|id| model.store.spec(id).len().next_multiple_of(16)).sum();
        start..start + 80 * 256
    };
    let off = |found: &[f32]| -> f64 {
        let (found, exact) = (&found[fc1.clone()], &exact[fc1.clone()]);
        let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let mut differences = found.iter().zip(exact).map(|(a, b)| a - b);
        (squares(&mut differences) / squares(&mut exact.iter().copied())).sqrt()
    };
    println!("off by {} in int8, {} with the limit", off(&rounded), off(&watched));
    assert!(off(&watched) < off(&rounded), "{} {}", off(&watched), off(&rounded));
    // With all of them in f32 the gradients are those of f32.
    let (all, _) = step(&int8, 1000.0, 0.0);
    assert!(all.iter().zip(&exact).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn gradient_checkpoints_save_memory_and_change_no_bit() {
    let context = context(2);
    for config in forms() {
        let config = ModelConfig { num_hidden_layers: 5, head_precision: HeadPrecision::Int8, ..config };
        let mut model = ready(config, &context);
        let (loss, gradients) = train_step(&mut model, &context, 2, 33);
        let everything = Executor::new(&model.plan, Mode::Train, 66).planned_bytes();
        for blocks in [1, 2, 3, 9] {
            let mut executor = Executor::with_checkpoints(&model.plan, blocks, 66);
            if blocks < 3 {
                let bytes = executor.planned_bytes();
                assert!(
                    bytes * 10 < everything * 8,
                    "{blocks} blocks: {bytes} bytes, {everything} without checkpoints"
                );
            }
            // Twice: the second step begins with what the first left.
            for _ in 0..2 {
                let (again, same) = train_step_with(&mut executor, &mut model, &context, 2, 33);
                assert_eq!(loss.to_bits(), again.to_bits());
                assert!(gradients.iter().zip(&same).all(|(a, b)| a.to_bits() == b.to_bits()), "{blocks} blocks");
            }
        }
    }
}

#[test]
fn steps_do_not_depend_on_threads_or_instruction_set() {
    for config in forms() {
        for (gradient_precision, head_precision) in
            [(GradPrecision::F32, HeadPrecision::F32), (GradPrecision::Int8, HeadPrecision::Int8)]
        {
            let config = ModelConfig { gradient_precision, head_precision, ..config.clone() };
            let mut results = Vec::new();
            for table in KernelTable::available() {
                for threads in [1, 2, 5] {
                    let options = ContextOptions { threads: Some(threads), isa: Some(table.isa()) };
                    let context = Context::new(options).unwrap();
                    let mut model = ready(config.clone(), &context);
                    let (loss, gradients) = train_step(&mut model, &context, 3, 70);
                    results.push((loss.to_bits(), gradients.iter().map(|g| g.to_bits()).collect::<Vec<u32>>()));
                }
            }
            assert!(results.iter().all(|result| *result == results[0]), "{:?}", config);
        }
    }
}

/// int8 gradients are unbiased: their mean over seeds comes close to the exact one.
#[test]
fn int8_gradients_average_to_the_exact_ones() {
    let context = context(2);
    let config = ModelConfig { num_hidden_layers: 1, ..small(ModelType::Plain, Precision::Ternary) };
    let (_, exact) = train_step(&mut ready(config.clone(), &context), &context, 2, 40);
    average_to(&exact, ModelConfig { gradient_precision: GradPrecision::Int8, ..config.clone() }, 5.0, &context);
    // The rounding to bf16 is to nearest, and stays.
    average_to(&exact, ModelConfig { gradient_precision: GradPrecision::Bf16, ..config.clone() }, 3.0, &context);
    // The rounding of the head's input, that of the forward pass, stays.
    average_to(&exact, ModelConfig { head_precision: HeadPrecision::Int8, ..config }, 3.0, &context);
}

fn average_to(exact: &[f32], config: ModelConfig, gain: f64, context: &Context) {
    let mut model = ready(config, context);
    let tokens = ids(80, 50, 0);
    let targets = ids(80, 50, 1);
    let batch = Batch { tokens: &tokens, targets: &targets, sequences: 2, length: 40, ..Batch::default() };
    let mut executor = Executor::new(&model.plan, Mode::Train, 80);
    let distance = |a: &[f64], count: f64| -> f64 {
        let off: f64 = a.iter().zip(exact).map(|(a, &b)| (a / count - f64::from(b)).powi(2)).sum();
        (off / exact.iter().map(|&b| f64::from(b).powi(2)).sum::<f64>()).sqrt()
    };
    let mut sum = vec![0f64; exact.len()];
    let mut first = 0.0;
    for step in 0..64 {
        model.store.zero_gradients();
        let randomness = StepRandomness { seed: 1, step };
        executor.step(&model.plan, context, &mut model.store, batch, randomness, 1.0).unwrap();
        sum.iter_mut().zip(model.store.gradients()).for_each(|(sum, &g)| *sum += f64::from(g));
        if step == 0 {
            first = distance(&sum, 1.0);
        }
    }
    let mean = distance(&sum, 64.0);
    // The error of a mean of 64 independent unbiased values is an eighth.
    assert!(first < 0.05 && mean < first / gain, "one step {first}, mean of 64 {mean}");
}

/// Several chunks of tokens and blocks of the vocabulary, neither of a round size.
#[test]
fn head_of_a_large_vocabulary_in_integers() {
    let context = context(2);
    for model_type in [ModelType::Plain, ModelType::Llama] {
        let config = ModelConfig { num_hidden_layers: 1, vocab_size: 5003, ..small(model_type, Precision::F32) };
        let mut exact = ready(config.clone(), &context);
        let (loss, _) = train_step(&mut exact, &context, 3, 99);
        let mut rounded = ready(ModelConfig { head_precision: HeadPrecision::Int8, ..config }, &context);
        let (rounded_loss, _) = train_step(&mut rounded, &context, 3, 99);
        assert!((rounded_loss - loss).abs() < 1e-3 * loss, "{model_type:?}: loss {rounded_loss}, in f32 {loss}");
        for id in exact.store.ids() {
            let (exact, gradient) = (exact.store.gradient(id), rounded.store.gradient(id));
            let norm =
                |of: &dyn Fn(usize) -> f32| (0..exact.len()).map(|i| f64::from(of(i)).powi(2)).sum::<f64>().sqrt();
            let off = norm(&|i| gradient[i] - exact[i]) / norm(&|i| exact[i]);
            assert!(off < 0.01, "{model_type:?}, {}: {off}", rounded.store.spec(id).name);
        }
    }
}

#[test]
fn quantize_reports_flips_errors_and_bad_weights() {
    let context = context(2);
    let mut model = Model::new(small(ModelType::Plain, Precision::Ternary), 3).unwrap();
    let first = model.store.quantize(&context).unwrap();
    // Gaussian weights: absmean ternary leaves 0.263 of the mean square.
    assert!(first.flip_rate == 0.0 && (first.quant_error - 0.263f64.sqrt()).abs() < 0.02, "{first:?}");
    assert_eq!(model.store.quantize(&context).unwrap(), first);
    let id = model.store.find("blocks.1.fc1.weight").unwrap();
    let total = model.store.ids().filter(|&id| model.store.spec(id).precision == Precision::Ternary);
    let total: usize = total.map(|id| model.store.spec(id).len()).sum();
    let flipped = model.store.weight_mut(id).iter_mut().map(|w| *w = -*w).count();
    let report = model.store.quantize(&context).unwrap();
    let share = report.flip_rate * total as f64 / flipped as f64;
    // About 0.69 of Gaussian weights are beyond half the mean; the others stay zero.
    assert!((share - 0.69).abs() < 0.05, "{share}");
    model.store.weight_mut(id)[17] = f32::NAN;
    let error = model.store.quantize(&context).unwrap_err().to_string();
    assert!(error.starts_with("blocks.1.fc1.weight: element 17 is NaN"), "{error}");
}

#[test]
fn a_saved_model_is_the_same_and_damage_is_named() {
    let context = context(1);
    let folder = tempfile::tempdir().unwrap();
    for config in forms() {
        let mut model = ready(config, &context);
        model.save(folder.path()).unwrap();
        let mut loaded = Model::load(folder.path()).unwrap();
        loaded.store.quantize(&context).unwrap();
        assert_eq!(loaded.config, model.config);
        assert_eq!(train_step(&mut model, &context, 1, 6), train_step(&mut loaded, &context, 1, 6));
    }
    let message = |folder: &Path| Model::load(folder).unwrap_err().to_string();
    let config = small(ModelType::Llama, Precision::F32);
    Model::new(config.clone(), 1).unwrap().save(folder.path()).unwrap();
    let change = |change: &dyn Fn(&mut ModelConfig)| {
        let mut config = config.clone();
        change(&mut config);
        std::fs::write(folder.path().join("config.json"), config.to_json()).unwrap();
    };
    change(&|config| config.num_hidden_layers = 1);
    assert!(message(folder.path()).contains("model.layers.1.") && message(folder.path()).contains("not a tensor of"));
    change(&|config| config.num_hidden_layers = 3);
    assert!(message(folder.path()).contains("model.layers.2."), "{}", message(folder.path()));
    change(&|config| config.intermediate_size = 81);
    assert!(message(folder.path()).contains("mlp."), "{}", message(folder.path()));
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert!(message(folder.path()).contains("config.json"));
    assert!(message(Path::new("/no/such/folder")).contains("/no/such/folder/config.json"));
}

#[test]
fn bad_batches_are_refused() {
    let context = context(1);
    for config in [small(ModelType::Plain, Precision::F32), small(ModelType::Bitnet, Precision::Ternary)] {
        let mut model = ready(config, &context);
        let mut executor = Executor::new(&model.plan, Mode::Train, 200);
        let mut message = |tokens: &[u32], targets: &[u32]| {
            let batch = Batch { tokens, targets, sequences: 1, length: tokens.len(), ..Batch::default() };
            let step = executor.step(&model.plan, &context, &mut model.store, batch, StepRandomness::default(), 1.0);
            step.unwrap_err().to_string()
        };
        assert_eq!(message(&[3, 50], &[0, 0]), "token: expected below the vocabulary's size 50, found 50");
        assert_eq!(message(&[3, 4], &[0, 99]), "target: expected below the vocabulary's size 50, found 99");
        assert!(message(&[1; 101], &[1; 101]).starts_with("sequence length: expected at most 100 tokens"));
        assert!(message(&[1; 201], &[1; 201]).contains("tokens"));
        assert!(message(&[], &[]).contains("tokens"));
        // The executor is still good after a refusal.
        let batch = Batch { tokens: &[1, 2], targets: &[2, 3], sequences: 1, length: 2, ..Batch::default() };
        executor.step(&model.plan, &context, &mut model.store, batch, StepRandomness::default(), 1.0).unwrap();
    }
}

/// The Llama-architecture model stories260K: rotary embeddings, grouped heads, gated SiLU and the tied head against
/// known greedy continuations, from the Hugging Face folder and from what import makes of it.
#[test]
fn stories260k_continues_as_known() {
    let Some(folder) = std::env::var_os("HYBRIDQ_STORIES_DIR").map(PathBuf::from) else {
        eprintln!("SKIPPED: stories260K: HYBRIDQ_STORIES_DIR names no folder (config.json and model.safetensors)");
        return;
    };
    let context = context(2);
    let imported = tempfile::tempdir().unwrap();
    hybridq::train::import_model(&folder, imported.path()).unwrap();
    for folder in [folder.as_path(), imported.path()] {
        let mut model = Model::load(folder).unwrap();
        let tokenizer = hybridq::train::open_model_tokenizer(folder).unwrap();
        let sampler = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
        let options = GenerateOptions { sampler, tokens: 48, stop: Vec::new() };
        let piece = |_: &str| ControlFlow::Continue(());
        let found = hybridq::generate::generate(&context, &mut model, &tokenizer, "", &options, piece).unwrap();
        assert_eq!(found.tokens[..12], [403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421]);
        let known = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
        assert!(found.text.starts_with(known), "{}", found.text);
    }
}
