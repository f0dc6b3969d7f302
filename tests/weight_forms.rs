//! What may change about quantized matrices and the weight of examples while a run trains: output scales, precisions, frozen
//! matrices, weighted losses. Each against an independent calculation.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::models::{ExportType, Model, ModelConfig, preset};
use hybridq::nn::{Batch, Executor, GradPrecision, HeadPrecision, Mode, ParamStore, Precision, StepRandomness};
use hybridq::optim::OptimizerConfig;
use hybridq::quant::{AdaptiveQuantizer, BitUnit, OutputScale, QuantizedWeight, mean_bits};
use hybridq::tensor::RandomStream;
use hybridq::train::{ArrayData, ArrayObjective, Objective, TrainConfig, Trainer};

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap()
}

fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 900, 0, 0);
    (0..count).map(|_| stream.normal() as f32).collect()
}

fn arrays(precision: Precision) -> ArrayObjective {
    let data = ArrayData { inputs: normal(30 * 6, 1), outputs: normal(30 * 2, 2), rows: 30 };
    ArrayObjective::new(data, None, &[6, 10, 2], precision, 3).unwrap()
}

const WEIGHTS: [f32; 3] = [0.5, 2.0, 1.25];

const FORMS: [Precision; 6] =
    [Precision::Binary, Precision::Ternary, Precision::Int2, Precision::FiveLevel, Precision::Int4, Precision::Int8];

/// Against products of the dequantized values, one by one, at every edge of blocks and tiles; on each count of threads the
/// same bits.
#[test]
fn inner_products_are_those_of_the_values() {
    let threads = [1, 2, 3].map(|threads| Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap());
    for (rows, cols) in [(1, 1), (3, 300), (64, 16), (65, 17), (128, 256), (130, 257), (200, 519)] {
        let (weights, other) = (normal(rows * cols, 7), normal(rows * cols, 8));
        for precision in FORMS {
            let mut matrix = QuantizedWeight::zeroed(precision, rows, cols).unwrap();
            matrix.requantize(&threads[1], precision, OutputScale::default(), &weights).unwrap();
            let mut values = vec![0.0; rows * cols];
            matrix.dequantize(&threads[1], &mut values);
            let products = || values.iter().zip(&other).map(|(&q, &g)| f64::from(q) * f64::from(g));
            let (expected, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let found = threads.each_ref().map(|context| matrix.inner_product(context, &other));
            assert!((found[0] - expected).abs() <= 1e-6 * size, "{precision} {rows} x {cols}: {found:?} {expected}");
            assert!(found.iter().all(|sum| sum.to_bits() == found[0].to_bits()), "{precision}: {found:?}");
        }
    }
}

#[test]
fn least_squares_scales_lose_least_and_factors_multiply_them() {
    let context = context();
    let (rows, cols) = (37, 53);
    let weights = normal(rows * cols, 5);
    for precision in FORMS {
        let quantized = |output: OutputScale| {
            let mut matrix = QuantizedWeight::zeroed(precision, rows, cols).unwrap();
            let found = matrix.requantize(&context, precision, output, &weights).unwrap();
            let mut values = vec![0.0; rows * cols];
            matrix.dequantize(&context, &mut values);
            let error: f64 = weights.iter().zip(&values).map(|(w, q)| f64::from(w - q).powi(2)).sum();
            assert!((found.squared_error - error).abs() < 1e-4 * error, "{precision}: {} {error}", found.squared_error);
            // The codes are read back from the values: none has changed.
            let again = matrix.requantize(&context, precision, output, &weights).unwrap();
            assert_eq!(again.changed, 0, "{precision}");
            (values, error, matrix.scales().len())
        };
        let (plain, error, scales) = quantized(OutputScale::default());
        let (fitted, least, _) = quantized(OutputScale { least_squares: true, factor: 1.0 });
        assert!(least <= error * (1.0 + 1e-9), "{precision}: {least} {error}");
        // Each run's residual is orthogonal to its values: what makes the square least.
        for (w, q) in weights.chunks(rows * cols / scales).zip(fitted.chunks(rows * cols / scales)) {
            let pairs = || w.iter().zip(q).map(|(&w, &q)| (f64::from(w), f64::from(q)));
            let (product, squares) =
                (pairs().map(|(w, q)| w * q).sum::<f64>(), pairs().map(|(_, q)| q * q).sum::<f64>());
            assert!((product - squares).abs() < 1e-5 * squares, "{precision}: {product} {squares}");
        }
        assert!(plain.iter().zip(&fitted).all(|(a, b)| (*a == 0.0) == (*b == 0.0)), "{precision}: the same codes");
        let (doubled, ..) = quantized(OutputScale { least_squares: true, factor: 2.0 });
        assert!(doubled.iter().zip(&fitted).all(|(a, b)| (a - 2.0 * b).abs() <= 1e-5 * b.abs()), "{precision}");
    }
}

/// What learned scales go by: the loss's derivative by the logarithm of a scale's factor is `<gradient, values>`.
#[test]
fn the_gradient_of_a_scale_is_that_of_finite_differences() {
    let context = context();
    let mut objective = arrays(Precision::Ternary);
    let id = objective.store().find("layers.0.weight").unwrap();
    let mut loss_at = |factor: f32| {
        objective.store_mut().set_output_scale(id, OutputScale { least_squares: true, factor });
        objective.store_mut().quantize(&context).unwrap();
        objective.store_mut().zero_gradients();
        let loss = objective.loss_and_gradients(&context, &[0, 3, 7, 9], StepRandomness::default(), 1.0).unwrap();
        let mut values = vec![0.0; 60];
        objective.store().quantized(id).unwrap().dequantize(&context, &mut values);
        let pairs = objective.store().gradient(id).iter().zip(&values);
        (loss, pairs.map(|(&g, &q)| f64::from(g) * f64::from(q)).sum::<f64>())
    };
    let h = 1e-2f64;
    let difference = (loss_at(h.exp() as f32).0 - loss_at((-h).exp() as f32).0) / (2.0 * h);
    let (_, product) = loss_at(1.0);
    assert!((difference - product).abs() < 1e-2 * product.abs().max(0.01), "{difference} {product}");
}

/// The expectation over every draw, exactly: an example of cluster `k` comes with probability `p_k / n_k` and counts
/// `(n_k / N) / p_k` times; the gradient expected is the gradient of the mean over the data.
#[test]
fn weighted_draws_have_the_gradient_of_the_whole() {
    let context = context();
    let mut objective = arrays(Precision::Ternary);
    objective.store_mut().quantize(&context).unwrap();
    let gradients = |objective: &mut ArrayObjective, draw: &[(usize, f32, f32)]| -> Vec<f32> {
        objective.store_mut().zero_gradients();
        for &(example, weight, scale) in draw {
            let randomness = StepRandomness::default();
            objective.weighted_loss_and_gradients(&context, &[example], &[weight], randomness, scale).unwrap();
        }
        objective.store().gradients().to_vec()
    };
    // Three clusters of 15, 10 and 5 examples.
    let clusters = [(0..15, 0.2f32), (15..25, 0.3), (25..30, 0.5)];
    let expected: Vec<_> = (0..30).map(|example| (example, 1.0, 1.0 / 30.0)).collect();
    let draws = clusters.iter().flat_map(|(members, p)| {
        let size = members.len() as f32;
        members.clone().map(move |example| (example, size / 30.0 / p, p / size))
    });
    let draws: Vec<_> = draws.collect();
    let (found, whole) = (gradients(&mut objective, &draws), gradients(&mut objective, &expected));
    let largest = whole.iter().fold(0f32, |most, g| most.max(g.abs()));
    assert!(found.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-5 * largest));
    assert!(largest > 0.0);
}

fn decoder(head: HeadPrecision, gradients: GradPrecision) -> Model {
    let config = ModelConfig {
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        vocab_size: 90,
        max_position_embeddings: 64,
        head_precision: head,
        gradient_precision: gradients,
        ..preset("tiny").unwrap()
    };
    Model::new(config, 4).unwrap()
}

#[test]
fn sequences_have_losses_and_weights() {
    let context = context();
    let tokens: Vec<u32> = (0..3 * 21).map(|i| i * 37 % 90).collect();
    let batch =
        |weights| Batch { tokens: &tokens, targets: &tokens, sequences: 3, length: 21, weights, ..Batch::default() };
    for head in [HeadPrecision::F32, HeadPrecision::Int8] {
        let mut model = decoder(head, GradPrecision::F32);
        model.store.quantize(&context).unwrap();
        let mut run = |batch: Batch<'_>| {
            let mut executor = Executor::new(&model.plan, Mode::Train, 63);
            model.store.zero_gradients();
            let randomness = StepRandomness::default();
            let loss = executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap();
            (loss, executor.sequence_losses().to_vec(), model.store.gradients().to_vec())
        };
        let (loss, losses, plain) = run(batch(&[]));
        assert!((losses.iter().sum::<f64>() / 3.0 - loss).abs() < 1e-9);
        let (same, _, ones) = run(batch(&[1.0; 3]));
        assert_eq!((same, ones), (loss, plain));
        let weights = WEIGHTS;
        let (weighted, again, found) = run(batch(&WEIGHTS));
        assert_eq!(again, losses, "losses of sequences are not weighted");
        let mean = losses.iter().zip(weights).map(|(loss, weight)| loss * f64::from(weight)).sum::<f64>() / 3.0;
        assert!((weighted - mean).abs() < 1e-6, "{weighted} {mean}");
        if head == HeadPrecision::Int8 {
            continue; // rounded stochastically: the gradients of parts are other draws
        }
        let mut sum = vec![0f64; found.len()];
        for (sequence, weight) in weights.into_iter().enumerate() {
            let part = &tokens[sequence * 21..][..21];
            let (alone, _, gradient) =
                run(Batch { tokens: part, targets: part, sequences: 1, length: 21, ..Batch::default() });
            assert!((alone - losses[sequence]).abs() < 1e-6);
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += f64::from(weight * g) / 3.0);
        }
        let largest = found.iter().fold(0f32, |most, g| most.max(g.abs()));
        let off = found.iter().zip(sum).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-4 * f64::from(largest), "{off} of {largest}");
    }
}

#[test]
fn frozen_matrices_stay_and_the_others_move_as_before() {
    let context = context();
    for (config, spectral) in [
        (OptimizerConfig::default(), false),
        (OptimizerConfig { trust_norm: hybridq::optim::TrustNorm::Spectral, ..OptimizerConfig::default() }, true),
        (OptimizerConfig { optimizer: hybridq::optim::OptimizerKind::AdamW, ..OptimizerConfig::default() }, false),
        (OptimizerConfig { optimizer: hybridq::optim::OptimizerKind::Sgd, ..OptimizerConfig::default() }, false),
    ] {
        let mut objective = arrays(Precision::Ternary);
        let store = objective.store_mut();
        let id = store.find("layers.0.weight").unwrap();
        store.set_frozen(id, true);
        store.quantize(&context).unwrap();
        let before: Vec<Vec<f32>> = store.ids().map(|id| store.weight(id).to_vec()).collect();
        let mut optimizer = config.build(store).unwrap();
        for step in 0..3 {
            objective.store_mut().zero_gradients();
            objective.loss_and_gradients(&context, &[1, 2, 3], StepRandomness::default(), 1.0).unwrap();
            let state = hybridq::optim::TrainingState {
                step,
                learning_rate: 0.01,
                weight_decay: 0.1,
                ..hybridq::optim::TrainingState::default()
            };
            optimizer.step(&context, objective.store_mut(), &state).unwrap();
            objective.store_mut().quantize(&context).unwrap();
        }
        let store: &ParamStore = objective.store();
        for (index, id_of) in store.ids().enumerate() {
            assert_eq!(store.weight(id_of) == before[index], id_of == id, "{} {spectral}", store.spec(id_of).name);
        }
    }
}

#[test]
fn budgets_count_the_scales_of_rows() {
    let unit = BitUnit { elements: 64 * 16, importance: 1.0, rows: 64 };
    assert_eq!(unit.bits(Precision::Ternary), 1024.0 * Precision::Ternary.bits());
    assert_eq!(unit.bits(Precision::Int4), 1024.0 * 4.0 + 32.0 * 63.0);
    // 4 bits and a scale for each 16 are 5.97 bits: too many for a mean of 5.
    let budget = AdaptiveQuantizer { mean_bits: 5.0, ..AdaptiveQuantizer::default() };
    let precisions = budget.allocate(&[unit]).unwrap();
    assert!(mean_bits(&[unit], &precisions) <= 5.005 && precisions[0] != Precision::Int4, "{precisions:?}");
    assert_eq!(budget.allocate(&[BitUnit { rows: 0, ..unit }]).unwrap(), [Precision::Int4]);
}

/// A matrix whose rounding matters gets more bits than one that the loss does not see.
#[test]
fn bits_go_where_the_loss_needs_them() {
    // Inputs too small to matter: what the first matrix does to them is nothing beside its bias.
    let inputs = normal(64 * 6, 8).into_iter().map(|x| 1e-4 * x).collect();
    let outputs = [2.0, -1.0].repeat(64);
    let data = ArrayData { inputs, outputs, rows: 64 };
    let objective = ArrayObjective::new(data, None, &[6, 12, 2], Precision::Ternary, 3).unwrap();
    let config = TrainConfig {
        adaptive_bits: true,
        target_bits: 1.3,
        precision_interval: 20,
        max_steps: 60,
        batch_size: 32,
        base_learning_rate: 0.02,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(context(), config, objective).unwrap();
    let summary = trainer.run().unwrap();
    assert!(summary.mean_bits.unwrap() <= 1.305, "{:?}", summary.mean_bits);
    let steps = &trainer.history().steps;
    let planned: Vec<u64> = steps.iter().filter(|step| !step.precisions.is_empty()).map(|step| step.step).collect();
    assert_eq!(planned, [20, 40], "the last interval trains what was planned");
    let last = &steps[39].precisions;
    assert!(last["layers.1.weight"].bits() > last["layers.0.weight"].bits(), "{last:?}");
}

/// Of a vocabulary of 90 or more, on two sequences.
fn loss_of(context: &Context, model: &mut Model) -> f64 {
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 90).collect();
    let batch = Batch { tokens: &tokens, targets: &tokens, sequences: 2, length: 20, ..Batch::default() };
    model.store.quantize(context).unwrap();
    let mut executor = Executor::new(&model.plan, Mode::Evaluate, 40);
    executor.step(&model.plan, context, &mut model.store, batch, StepRandomness::default(), 1.0).unwrap()
}

/// A model whose matrices have forms of their own computes the same once it was saved and read.
#[test]
fn forms_are_kept_in_model_folders() {
    let context = context();
    let mut model = decoder(HeadPrecision::F32, GradPrecision::F32);
    let ids: Vec<_> = model.store.ids().filter(|&id| model.store.spec(id).precision != Precision::F32).collect();
    for (index, &id) in ids.iter().enumerate() {
        model.store.set_precision(id, FORMS[index % FORMS.len()]).unwrap();
        // Ternary and plain: as declared, which the next test is about.
        let factor = if index % FORMS.len() == 1 { 1.0 } else { 1.0 + 0.1 * index as f32 };
        model.store.set_output_scale(id, OutputScale { least_squares: index % 2 == 0, factor });
    }
    let loss = |model: &mut Model| loss_of(&context, model);
    let before = loss(&mut model);
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let mut read = Model::load(folder.path()).unwrap();
    assert_eq!(loss(&mut read).to_bits(), before.to_bits());
    let error = model.export(&context, &folder.path().join("e"), ExportType::F32).unwrap_err();
    assert!(error.to_string().contains("weight_forms"), "{error}");
    // A precision that changes what a layer's inputs are cannot be set.
    let error = model.store.set_precision(ids[0], Precision::F32).unwrap_err().to_string();
    assert!(error.contains("precision"), "{error}");
}

/// Factors that are a matrix's only form, as learned scales are, become part of the weights that are written: files hold nothing
/// that others do not know.
#[test]
fn factors_alone_go_into_the_weights_of_files() {
    let context = context();
    let config = ModelConfig { num_hidden_layers: 2, vocab_size: 90, ..preset("tiny").unwrap() };
    let mut model = Model::new(config, 5).unwrap();
    let ids: Vec<_> = model.store.ids().filter(|&id| model.store.spec(id).precision != Precision::F32).collect();
    for (index, &id) in ids.iter().enumerate() {
        model.store.set_output_scale(id, OutputScale { least_squares: false, factor: 0.4 + 0.17 * index as f32 });
    }
    let loss = |model: &mut Model| loss_of(&context, model);
    let without = loss(&mut Model::new(model.config.clone(), 5).unwrap());
    let expected = loss(&mut model);
    assert!((expected - without).abs() > 1e-3, "the factors matter: {expected} {without}");
    let folder = tempfile::tempdir().unwrap();
    let [saved, exported, packed] = ["saved", "exported", "packed"].map(|name| folder.path().join(name));
    model.save(&saved).unwrap();
    model.export(&context, &exported, ExportType::F32).unwrap();
    model.export(&context, &packed, ExportType::Packed).unwrap();
    for path in [saved, exported, packed] {
        let text = std::fs::read_to_string(path.join("config.json")).unwrap();
        assert!(!text.contains("weight_forms") && text.contains("quantization_config"), "{text}");
        let found = loss(&mut Model::load(&path).unwrap());
        assert!((found - expected).abs() < 1e-5 * expected, "{}: {found} {expected}", path.display());
    }
}
