//! Encoders of Hugging Face's transformers with every head, and encoder-decoders: the same outputs, losses, attention weights,
//! gradients and greedy texts from the same files.
//!
//! Reads the folder `HYBRIDQ_TRANSFORMERS_DIR` that `tests/peers/export_tasks.py` writes.

use std::path::{Path, PathBuf};

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::{Element, SafetensorsFile};
use hybridq::generate::{BeamOptions, translate};
use hybridq::models::{ExportType, Head, Model};
use hybridq::nn::{Batch, Executor, IGNORED, Mode, StepRandomness};

mod peers;

/// Largest difference of an output, relative to the largest one.
const OUTPUTS: f64 = 1e-4;
/// Largest `||ours - theirs|| / ||theirs||` of a parameter's gradient.
const GRADIENTS: f64 = 1e-3;

fn cases() -> Vec<PathBuf> {
    peers::cases("HYBRIDQ_TRANSFORMERS_DIR", "export_tasks.py", "transformers", "batch.safetensors")
}

/// What transformers was given and what it computed.
struct Case {
    tokens: Vec<u32>,
    token_types: Vec<u32>,
    lengths: Vec<u32>,
    source: Vec<u32>,
    greedy: Vec<u32>,
    targets: Vec<u32>,
    values: Vec<f32>,
    sequences: usize,
    outputs: Vec<f32>,
    attention: Vec<f32>,
    loss: f64,
}

impl Case {
    fn read(folder: &Path) -> Self {
        let file = SafetensorsFile::open(folder.join("batch.safetensors")).unwrap();
        fn all<T: Element>(file: &SafetensorsFile, name: &str) -> Vec<T> {
            let Some(tensor) = file.find(name) else { return Vec::new() };
            file.elements::<T>(name, &tensor.shape.clone()).unwrap().into_owned()
        }
        // A target that is ignored is negative there.
        let ids = |name| all::<i32>(&file, name).into_iter().map(|id| u32::try_from(id).unwrap_or(u32::MAX)).collect();
        let floats = |name| all::<f32>(&file, name);
        Case {
            tokens: ids("tokens"),
            token_types: ids("token_types"),
            lengths: ids("lengths"),
            source: ids("source"),
            greedy: ids("greedy"),
            targets: ids("targets"),
            values: floats("values"),
            sequences: file.tensor("tokens").unwrap().shape[0],
            outputs: floats("outputs"),
            attention: floats("attention"),
            loss: floats("loss")[0].into(),
        }
    }

    fn capacity(&self) -> usize {
        self.tokens.len().max(self.source.len())
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            targets: &self.targets,
            values: &self.values,
            token_types: &self.token_types,
            lengths: &self.lengths,
            sequences: self.sequences,
            length: self.tokens.len() / self.sequences,
            source: &self.source,
            weights: &[],
        }
    }
}

/// The largest difference relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    let off = found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    f64::from(off / largest)
}

/// The largest relative difference of a parameter's gradient, after a check of the loss.
fn gradients_difference(model: &mut Model, context: &Context, case: &Case, theirs: &Model) -> (f64, String) {
    let mut executor = Executor::new(&model.plan, Mode::Train, case.capacity());
    model.store.zero_gradients();
    let randomness = StepRandomness::default();
    let loss = executor.step(&model.plan, context, &mut model.store, case.batch(), randomness, 1.0).unwrap();
    assert!((loss / case.loss - 1.0).abs() < OUTPUTS, "loss {loss}, expected {}", case.loss);
    let mut worst = (0f64, String::new());
    let norm = |values: &[f32]| values.iter().map(|&b| f64::from(b).powi(2)).sum::<f64>().sqrt();
    let all = model.store.ids().map(|id| norm(theirs.store.weight(id))).fold(0.0, f64::hypot);
    for id in model.store.ids() {
        let (ours, theirs) = (model.store.gradient(id), theirs.store.weight(id));
        let name = &model.store.spec(id).name;
        if norm(theirs) < 1e-6 * all {
            // What adds the same to all scores of a softmax has no effect (the bias of keys, say): the rest is rounding.
            assert!(norm(ours) < 1e-6 * all, "{name}: a gradient");
            continue;
        }
        let off: Vec<f32> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
        let relative = norm(&off) / norm(theirs).max(1e-300);
        if relative > worst.0 || !relative.is_finite() {
            worst = (relative, name.clone());
        }
    }
    worst
}

/// The logits of the last position, the decoder's tokens read one by one.
fn token_by_token(model: &mut Model, context: &Context, case: &Case) -> Vec<f32> {
    let batch = case.batch();
    let mut cache = model.key_value_cache(case.sequences, batch.length);
    let mut executor = Executor::new(&model.plan, Mode::Generate, case.capacity());
    let mut logits = Vec::new();
    for position in 0..batch.length {
        let tokens: Vec<u32> = case.tokens.chunks(batch.length).map(|row| row[position]).collect();
        let batch = Batch { tokens: &tokens, targets: &[], length: 1, ..batch };
        logits = executor.generate(&model.plan, context, &mut model.store, batch, &mut cache).unwrap();
    }
    logits
}

#[test]
fn outputs_and_gradients_are_transformers() {
    let context = Context::new(ContextOptions::default()).unwrap();
    for folder in cases() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let case = Case::read(&folder);
        let mut model = Model::load(&folder).unwrap();
        let mut executor = Executor::new(&model.plan, Mode::Generate, case.capacity());
        let batch = Batch { targets: &[], ..case.batch() };
        let (off, off_attention) = if model.config.head == Head::Seq2Seq {
            let mut cache = model.key_value_cache(case.sequences, batch.length);
            let found = executor.generate(&model.plan, &context, &mut model.store, batch, &mut cache).unwrap();
            let by_token = token_by_token(&mut model, &context, &case);
            (difference(&found, &case.outputs).max(difference(&by_token, &case.outputs)), 0.0)
        } else {
            let (outputs, attention) =
                executor.predict_with_attention(&model.plan, &context, &mut model.store, batch).unwrap();
            let weights: Vec<f32> = attention.into_iter().flat_map(|layer| layer.values).collect();
            (difference(&outputs, &case.outputs), difference(&weights, &case.attention))
        };
        for (row, expected) in case.greedy.chunks((case.greedy.len() / case.sequences).max(1)).enumerate() {
            let source = &case.source[row * case.source.len() / case.sequences..][..case.source.len() / case.sequences];
            let options = BeamOptions { tokens: expected.len(), ..BeamOptions::default() };
            let found = translate(&context, &mut model, source, &options).unwrap().tokens;
            let known: Vec<u32> = expected.iter().copied().filter(|&id| id != IGNORED).collect();
            assert_eq!(found, known, "{name}: greedy text {row}");
        }
        let (worst, parameter) = if model.config.head == Head::None {
            (0.0, "no loss".into())
        } else {
            gradients_difference(&mut model, &context, &case, &Model::load(&folder.join("gradients")).unwrap())
        };
        println!("{name:26} outputs {off:.1e}  attention {off_attention:.1e}  gradients {worst:.1e} ({parameter})");
        assert!(off < OUTPUTS, "{name}: outputs differ by {off:.2e} of the largest");
        assert!(off_attention < OUTPUTS, "{name}: attention weights differ by {off_attention:.2e}");
        assert!(worst < GRADIENTS, "{name}: gradient of {parameter} differs by {worst:.2e}");

        // What is written here is read again to the last bit; tests/peers/check_tasks.py loads it with transformers.
        let kept = std::env::var_os("HYBRIDQ_TASKS_OUT").map(|out| PathBuf::from(out).join(&name));
        let temporary = tempfile::tempdir().unwrap();
        let out = kept.unwrap_or_else(|| temporary.path().join("model"));
        model.export(&context, &out, ExportType::F32).unwrap();
        let again = Model::load(&out).unwrap();
        assert_eq!(again.config, model.config, "{name}");
        for id in model.store.ids() {
            assert!(model.store.weight(id) == again.store.weight(id), "{name}: {}", model.store.spec(id).name);
        }
    }
}
