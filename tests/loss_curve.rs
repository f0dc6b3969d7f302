//! Twenty steps of the whole trainer on a fixed text: the same losses to the last bit at every number of threads and on
//! every instruction set, and near those stored here.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::{Isa, KernelTable};
use hybridq::nn::GradPrecision;
use hybridq::train::{LanguageModelTrainer, RunPlace, TrainConfig};

/// Losses of [`curve`] on a machine with AVX-512. The dense f32 products (attention, head) come from a crate that picks
/// its own instruction set by the machine, so other machines differ by rounding, which training then amplifies.
#[rustfmt::skip]
const STORED: [f64; 20] = [
    5.544502, 5.480712, 5.248339, 5.067775, 4.887347,
    4.725945, 4.541490, 4.517226, 4.143160, 4.670093,
    3.769947, 3.630700, 3.980167, 3.393417, 3.310818,
    3.750511, 3.641810, 3.411688, 3.106400, 3.112589,
];
const STORED_TOLERANCE: f64 = 2e-3;

/// Losses of twenty hybrid steps, every part on, of a small ternary model.
fn curve(threads: usize, isa: Isa, gradient_precision: GradPrecision) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.json");
    let json = r#"{"model_type": "bitnet", "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 2,
        "num_attention_heads": 3, "vocab_size": 256, "max_position_embeddings": 48, "hidden_act": "silu",
        "tie_word_embeddings": true, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "precision": "ternary"}"#;
    std::fs::write(&model, json).unwrap();
    let config = TrainConfig {
        data: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE").into()),
        model: model.to_str().unwrap().into(),
        max_steps: 20,
        batch_size: 3,
        seq_length: 48,
        base_learning_rate: 4e-3,
        warmup_steps: 5,
        data_clusters: 3,
        seed: 11,
        gradient_precision,
        ..TrainConfig::default()
    };
    let context = Context::new(ContextOptions { threads: Some(threads), isa: Some(isa) }).unwrap();
    let mut trainer = LanguageModelTrainer::open(&context, config, RunPlace::Nowhere).unwrap();
    (0..20).map(|_| trainer.step().unwrap().loss).collect()
}

#[test]
fn losses_do_not_depend_on_threads_or_instruction_set() {
    for gradients in [GradPrecision::F32, GradPrecision::Bf16, GradPrecision::Int8] {
        let expected = curve(1, Isa::Portable, gradients);
        for table in KernelTable::available() {
            for threads in [1, 2, 3] {
                let found = curve(threads, table.isa(), gradients);
                assert_eq!(found, expected, "{gradients:?}, {threads} threads, {}", table.isa().name());
            }
        }
    }
}

#[test]
fn losses_are_those_stored() {
    let found = curve(2, Isa::Portable, GradPrecision::F32);
    let near = found.iter().zip(STORED).all(|(found, stored)| (found - stored).abs() < STORED_TOLERANCE);
    assert!(near, "found {found:?}, stored {STORED:?}");
}
