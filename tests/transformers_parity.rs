//! Models of Hugging Face's transformers: the same logits and gradients from the same files, and again from the files
//! that are written here.
//!
//! Reads the folder `HYBRIDQ_TRANSFORMERS_DIR` that `tests/peers/export_transformers.py` writes.

use std::path::{Path, PathBuf};

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::SafetensorsFile;
use hybridq::models::Model;
use hybridq::nn::{Batch, Executor, Mode, Precision, StepRandomness};

mod peers;

/// Largest difference of a logit, relative to the largest logit.
const LOGITS: f64 = 1e-4;
/// Largest `||ours - theirs|| / ||theirs||` of a parameter's gradient.
const GRADIENTS: f64 = 1e-3;

fn cases() -> Vec<PathBuf> {
    peers::cases("HYBRIDQ_TRANSFORMERS_DIR", "export_transformers.py", "transformers", "expected.safetensors")
}

/// What transformers computed.
struct Expected {
    /// Sequence after sequence, without the last token of each.
    tokens: Vec<u32>,
    targets: Vec<u32>,
    sequences: usize,
    length: usize,
    logits: Vec<f32>,
    vocabulary: usize,
    loss: f64,
}

impl Expected {
    fn read(folder: &Path) -> Self {
        let file = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
        let shape = file.tensor("logits").unwrap().shape.clone();
        let [sequences, length, vocabulary] = shape[..] else { panic!("logits of shape {shape:?}") };
        let all = file.elements::<i32>("tokens", &[sequences, length + 1]).unwrap();
        let ids = |from: usize| -> Vec<u32> {
            all.chunks(length + 1).flat_map(|row| row[from..from + length].iter().map(|&id| id as u32)).collect()
        };
        let logits = file.elements::<f32>("logits", &shape).unwrap().into_owned();
        let loss = f64::from(file.elements::<f32>("loss", &[1]).unwrap()[0]);
        Expected { tokens: ids(0), targets: ids(1), sequences, length, logits, vocabulary, loss }
    }

    /// The largest difference from the logits after `position`, relative to the largest logit of all.
    fn difference(&self, position: usize, found: &[f32]) -> f64 {
        let largest = self.logits.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        let rows = self.logits.chunks(self.length * self.vocabulary);
        let expected = rows.flat_map(|row| &row[position * self.vocabulary..][..self.vocabulary]);
        let off = found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert_eq!(found.len(), self.sequences * self.vocabulary);
        f64::from(off / largest)
    }
}

/// The largest difference of logits: of the last tokens after one pass, and of all tokens one by one through the cache.
fn logits_difference(model: &mut Model, context: &Context, expected: &Expected) -> f64 {
    let Expected { sequences, length, .. } = *expected;
    let mut executor = Executor::new(&model.plan, Mode::Generate, sequences * length);
    let batch = Batch { tokens: &expected.tokens, targets: &[], sequences, length, ..Batch::default() };
    let mut cache = model.key_value_cache(sequences, length);
    let whole = executor.generate(&model.plan, context, &mut model.store, batch, &mut cache).unwrap();
    let mut worst = expected.difference(length - 1, &whole);
    // A stretched rotary base grows with every token that is read: cached keys keep the rotation of their time.
    let by_token = !matches!(model.config.rope_scaling, Some(hybridq::nn::ops::RopeScaling::Dynamic { .. }));
    cache.clear();
    for position in (0..length).filter(|_| by_token) {
        let column: Vec<u32> = expected.tokens.chunks(length).map(|row| row[position]).collect();
        let batch = Batch { tokens: &column, targets: &[], sequences, length: 1, ..Batch::default() };
        let found = executor.generate(&model.plan, context, &mut model.store, batch, &mut cache).unwrap();
        worst = worst.max(expected.difference(position, &found));
    }
    worst
}

/// The largest relative difference of a parameter's gradient, after a check of the loss.
fn gradients_difference(model: &mut Model, context: &Context, expected: &Expected, theirs: &Model) -> (f64, String) {
    let Expected { sequences, length, .. } = *expected;
    let mut executor = Executor::new(&model.plan, Mode::Train, sequences * length);
    let batch = Batch { tokens: &expected.tokens, targets: &expected.targets, sequences, length, ..Batch::default() };
    model.store.zero_gradients();
    let randomness = StepRandomness::default();
    let loss = executor.step(&model.plan, context, &mut model.store, batch, randomness, 1.0).unwrap();
    assert!((loss / expected.loss - 1.0).abs() < LOGITS, "loss {loss}, expected {}", expected.loss);
    let mut worst = (0f64, String::new());
    for id in model.store.ids() {
        let (ours, theirs) = (model.store.gradient(id), theirs.store.weight(id));
        let off: f64 = ours.iter().zip(theirs).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
        let norm: f64 = theirs.iter().map(|&b| f64::from(b).powi(2)).sum();
        let relative = (off / norm.max(1e-300)).sqrt();
        if relative > worst.0 || !relative.is_finite() {
            worst = (relative, model.store.spec(id).name.clone());
        }
    }
    worst
}

#[test]
fn logits_and_gradients_are_transformers() {
    let context = Context::new(ContextOptions::default()).unwrap();
    for folder in cases() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let mut model = Model::load(&folder).unwrap();
        assert_eq!(model.config.precision != Precision::F32, name.starts_with("ternary") || name.starts_with("packed"));
        model.store.quantize(&context).unwrap();
        let expected = Expected::read(&folder);
        let off = logits_difference(&mut model, &context, &expected);
        let gradients = folder.join("gradients");
        let (worst, parameter) = if gradients.is_dir() {
            gradients_difference(&mut model, &context, &expected, &Model::load(&gradients).unwrap())
        } else {
            (0.0, "not compared".into())
        };
        println!("{name:32} logits {off:.1e}  gradients {worst:.1e} ({parameter})");
        assert!(off < LOGITS, "{name}: logits differ by {off:.2e} of the largest");
        assert!(worst < GRADIENTS, "{name}: gradient of {parameter} differs by {worst:.2e}");

        // What is written here is read again to the last bit.
        let copy = tempfile::tempdir().unwrap();
        model.save(copy.path()).unwrap();
        let again = Model::load(copy.path()).unwrap();
        assert_eq!(again.config, model.config, "{name}");
        for id in model.store.ids() {
            assert!(model.store.weight(id) == again.store.weight(id), "{name}: {}", model.store.spec(id).name);
        }
    }
}
