//! Parameter sharing: a shared model is the unshared one with equal weights, its gradients are sums, its files hold each
//! tensor once.

use std::collections::BTreeMap;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::SafetensorsFile;
use hybridq::models::{BlockPart, ExportType, Model, ModelConfig, ModelType, Sharing, SharingRule, preset};
use hybridq::nn::{Batch, Executor, GradPrecision, Mode, Precision, StepRandomness};
use hybridq::optim::{OptimizerConfig, OptimizerKind, TrainingState};

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap()
}

/// Six blocks of the form of a preset.
fn small(name: &str, precision: Precision, sharing: Sharing) -> ModelConfig {
    ModelConfig {
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        vocab_size: 31,
        max_position_embeddings: 16,
        initializer_range: 0.2,
        precision,
        parameter_sharing: sharing,
        ..preset(name).unwrap()
    }
}

/// Every strategy, and combinations, with the number of different attention and feed-forward parts of six blocks.
fn strategies() -> Vec<(Vec<SharingRule>, [usize; 2])> {
    let custom = |part| SharingRule::Custom { groups: vec![vec![5, 0], vec![2, 3, 4]], part };
    vec![
        (vec![], [6, 6]),
        (vec![SharingRule::CrossLayer { interval: 2 }], [3, 3]),
        (vec![SharingRule::CrossLayer { interval: 4 }], [2, 2]),
        (vec![SharingRule::Alternate], [2, 2]),
        (vec![SharingRule::Attention], [1, 6]),
        (vec![SharingRule::FeedForward], [6, 1]),
        (vec![custom(None)], [3, 3]),
        (vec![custom(Some(BlockPart::FeedForward))], [6, 3]),
        (vec![SharingRule::Attention, SharingRule::CrossLayer { interval: 2 }], [1, 3]),
        (vec![SharingRule::Attention, SharingRule::FeedForward], [1, 1]),
    ]
}

/// Loss and gradients by name of a step on fixed tokens.
fn step(model: &mut Model, context: &Context) -> f64 {
    let tokens: Vec<u32> = (0..20).map(|i| i * i * 7 % 31).collect();
    let targets: Vec<u32> = (0..20).map(|i| i * 5 % 31).collect();
    let batch = Batch { tokens: &tokens, targets: &targets, sequences: 2, length: 10, ..Batch::default() };
    model.store.quantize(context).unwrap();
    model.store.zero_gradients();
    let mut executor = Executor::new(&model.plan, Mode::Train, 20);
    executor.step(&model.plan, context, &mut model.store, batch, StepRandomness::default(), 1.0).unwrap()
}

#[test]
fn a_shared_model_is_the_unshared_one_with_equal_weights() {
    let context = context();
    for (name, precision) in [
        ("tiny", Precision::Ternary),
        ("small-llama", Precision::F32),
        ("gpt2", Precision::F32),
        ("small-plain", Precision::Ternary),
        ("bert", Precision::F32),
        ("bert", Precision::Ternary),
    ] {
        for (rules, parts) in strategies() {
            let sharing = Sharing { rules, precision: None };
            let mut shared = Model::new(small(name, precision, sharing), 3).unwrap();
            let mut unshared = Model::new(small(name, precision, Sharing::default()), 4).unwrap();
            let info = shared.config.sharing_info().unwrap();
            let owner: BTreeMap<String, String> = info
                .shared
                .iter()
                .flat_map(|tensor| tensor.users.iter().map(|user| (user.clone(), tensor.name.clone())))
                .collect();
            for id in unshared.store.ids() {
                let role = unshared.store.spec(id).name.clone();
                let from = shared.store.find(owner.get(&role).unwrap_or(&role)).unwrap();
                unshared.store.weight_mut(id).copy_from_slice(shared.store.weight(from));
            }
            let (loss, expected) = (step(&mut shared, &context), step(&mut unshared, &context));
            assert_eq!(loss.to_bits(), expected.to_bits(), "{name}: {info:?}");
            // A shared gradient is the sum of those of all uses.
            let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
            for id in unshared.store.ids() {
                let role = &unshared.store.spec(id).name;
                let sum = sums.entry(owner.get(role).unwrap_or(role).clone()).or_default();
                sum.resize(unshared.store.spec(id).len(), 0.0);
                sum.iter_mut().zip(unshared.store.gradient(id)).for_each(|(sum, &part)| *sum += f64::from(part));
            }
            for id in shared.store.ids() {
                let sum = &sums[&shared.store.spec(id).name];
                let largest = sum.iter().fold(1e-9f64, |most, value| most.max(value.abs()));
                let close = |(&a, &b): (&f32, &f64)| (f64::from(a) - b).abs() < 1e-5 * largest;
                assert!(shared.store.gradient(id).iter().zip(sum).all(close), "{}", shared.store.spec(id).name);
            }
            // The counts.
            let head = if shared.config.tie_word_embeddings { 31 * 24 } else { 0 };
            assert_eq!(info.total, unshared.store.total_elements() + head, "{info:?}");
            assert_eq!(info.unique, shared.store.total_elements());
            let part = |key: &str| shared.store.ids().filter(|&id| shared.store.spec(id).name.contains(key)).count();
            let keys = match shared.config.model_type {
                ModelType::Gpt2 => ["c_attn.weight", "c_fc.weight"],
                ModelType::Plain => [".qkv.weight", ".fc1.weight"],
                ModelType::Bert => ["self.query.weight", "intermediate.dense.weight"],
                _ => ["q_proj.weight", "up_proj.weight"],
            };
            assert_eq!(keys.map(part), parts, "{name}: {info:?}");
        }
    }
}

#[test]
fn files_hold_shared_tensors_once_and_exports_every_use() {
    let context = context();
    let sharing = Sharing { rules: vec![SharingRule::Alternate], precision: None };
    let mut model = Model::new(small("small-llama", Precision::Ternary, sharing), 3).unwrap();
    let loss = step(&mut model, &context);
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let file = SafetensorsFile::open(folder.path().join("model.safetensors")).unwrap();
    assert_eq!(file.tensors().len(), model.store.ids().count());
    let mut again = Model::load(folder.path()).unwrap();
    assert_eq!(
        (again.config == model.config, again.config.sharing_info().unwrap()),
        (true, model.config.sharing_info().unwrap())
    );
    assert_eq!(step(&mut again, &context).to_bits(), loss.to_bits());
    for kind in [ExportType::F32, ExportType::Packed] {
        let exported = tempfile::tempdir().unwrap();
        again.export(&context, exported.path(), kind).unwrap();
        let mut apart = Model::load(exported.path()).unwrap();
        assert!(apart.config.parameter_sharing.is_empty());
        assert_eq!(apart.store.total_elements() + 31 * 24, model.config.sharing_info().unwrap().total);
        let other = step(&mut apart, &context);
        // Packed scales come back within a rounding.
        assert!((other / loss - 1.0).abs() < if kind == ExportType::F32 { 1e-12 } else { 1e-3 }, "{other} {loss}");
    }
}

#[test]
fn shared_tensors_may_have_a_precision_of_their_own() {
    let context = context();
    for precision in [Precision::F32, Precision::Int8] {
        for name in ["tiny", "small-plain", "gpt2", "small-llama"] {
            let sharing = Sharing { rules: vec![SharingRule::FeedForward], precision: Some(precision) };
            let config =
                ModelConfig { gradient_precision: GradPrecision::Int8, ..small(name, Precision::Ternary, sharing) };
            let mut model = Model::new(config, 3).unwrap();
            assert!(step(&mut model, &context).is_finite());
            for id in model.store.ids() {
                let spec = model.store.spec(id);
                if spec.kind == hybridq::nn::ParamKind::Linear {
                    let feed_forward = ["mlp", "fc1", "fc2"].iter().any(|part| spec.name.contains(part));
                    assert_eq!(spec.precision, if feed_forward { precision } else { Precision::Ternary });
                }
            }
            let error = model.export(&context, std::path::Path::new("nowhere"), ExportType::F32).unwrap_err();
            assert!(error.to_string().contains("no export"), "{error}");
        }
    }
}

#[test]
fn optimizers_hold_one_state_a_tensor() {
    let context = context();
    let sharing = Sharing { rules: vec![SharingRule::CrossLayer { interval: 6 }], precision: None };
    let mut model = Model::new(small("tiny", Precision::Ternary, sharing), 3).unwrap();
    let info = model.config.sharing_info().unwrap();
    assert!(info.reduction > 0.6 && info.packed_bytes < 4 * info.unique, "{info:?}");
    assert_eq!(info.shared.len(), 8);
    assert_eq!(info.shared[0].users, ["model.embed_tokens.weight", "lm_head.weight"]);
    assert!(info.shared[1..].iter().all(|tensor| tensor.users.len() == 6 && tensor.users[0] == tensor.name));
    let adamw = OptimizerConfig { optimizer: OptimizerKind::AdamW, ..OptimizerConfig::default() };
    let mut optimizer = adamw.build(&model.store).unwrap();
    let first = step(&mut model, &context);
    for number in 0..20 {
        let state = TrainingState { step: number, learning_rate: 0.01, ..TrainingState::default() };
        optimizer.step(&context, &mut model.store, &state).unwrap();
        step(&mut model, &context);
    }
    let states: usize = optimizer.state().tensors.iter().map(|tensor| tensor.values.bytes().len() / 4).sum();
    assert_eq!(states, 2 * info.unique, "two moments a unique parameter");
    let last = step(&mut model, &context);
    assert!(last < 0.5 * first, "{first} {last}");
}
