//! The memory that is planned before the first step is what the steps take.

use std::process::Command;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::models::{Model, ModelConfig, PRESETS, preset};
use hybridq::nn::{Batch, Executor, GradPrecision, HeadPrecision, Precision, StepRandomness};

/// Presets of decoders, small.
fn small_models() -> impl Iterator<Item = ModelConfig> {
    let decoders = PRESETS.into_iter().filter(|name| !["bert", "bart", "lstm", "gru"].contains(name));
    decoders.map(|name| ModelConfig {
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        vocab_size: 97,
        max_position_embeddings: 64,
        ..preset(name).unwrap()
    })
}

#[test]
fn steps_take_no_more_scratch_than_planned() {
    let context = Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap();
    let tokens: Vec<u32> = (0..70).map(|i| i * 31 % 97).collect();
    let batch = Batch { tokens: &tokens, targets: &tokens, sequences: 2, length: 35, ..Batch::default() };
    for config in small_models() {
        // Plain and GPT-2 forms have as many key heads as heads.
        let config = match config.validate() {
            Ok(()) => config,
            Err(_) => ModelConfig { num_key_value_heads: 4, ..config },
        };
        for precision in [Precision::F32, Precision::Ternary, Precision::Int4] {
            for (gradients, head) in [
                (GradPrecision::F32, HeadPrecision::F32),
                (GradPrecision::Bf16, HeadPrecision::F32),
                (GradPrecision::Int8, HeadPrecision::Int8),
            ] {
                let config =
                    ModelConfig { precision, gradient_precision: gradients, head_precision: head, ..config.clone() };
                let mut model = Model::new(config, 1).unwrap();
                model.store.quantize(&context).unwrap();
                for (blocks, batches) in [(0, 1), (1, 1), (2, 1), (0, 2)] {
                    if batches > 1 {
                        model.sum_batches();
                    }
                    let mut executor = Executor::with_checkpoints(&model.plan, blocks, 70);
                    let planned = executor.planned_bytes();
                    for step in 0..4 {
                        if step % batches == 0 {
                            model.store.zero_gradients();
                        }
                        let randomness = StepRandomness { seed: 1, step };
                        executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap();
                    }
                    let name = format!("{:?} {precision} {gradients:?}, checkpoints {blocks}", model.config.model_type);
                    assert_eq!(executor.planned_bytes(), planned, "{name}, {batches} batches a step");
                }
            }
        }
    }
}

/// The integer head works in the layers' gradients while they are zero, and gives the same bits in memory of its own.
#[test]
fn the_heads_memory_changes_no_bit() {
    let context = Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap();
    let tokens: Vec<u32> = (0..70).map(|i| i * 31 % 97).collect();
    let batch = Batch { tokens: &tokens, targets: &tokens, sequences: 2, length: 35, ..Batch::default() };
    for config in small_models().filter(|config| config.validate().is_ok()) {
        let config =
            ModelConfig { gradient_precision: GradPrecision::Int8, head_precision: HeadPrecision::Int8, ..config };
        let run = |is_touched: bool| {
            let mut model = Model::new(config.clone(), 1).unwrap();
            model.store.quantize(&context).unwrap();
            let mut executor = Executor::with_checkpoints(&model.plan, 0, 70);
            let planned = executor.planned_bytes();
            if is_touched {
                model.store.gradients_mut();
            }
            let randomness = StepRandomness { seed: 1, step: 3 };
            let loss = executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap();
            let bits: Vec<u32> = model.store.gradients().iter().map(|gradient| gradient.to_bits()).collect();
            (loss, bits, executor.planned_bytes() - planned)
        };
        let ((loss, bits, more), (own_loss, own_bits, own)) = (run(false), run(true));
        let model_type = &config.model_type;
        assert!(loss == own_loss && bits == own_bits, "{model_type:?}");
        assert!(more == 0 && own > 0, "{model_type:?}: {more} and {own} bytes more");
    }
}

/// The number before ` MiB` in the line that begins with `start`.
fn mib(text: &str, start: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no line {start}: {text}"));
    let words: Vec<&str> = line.split_whitespace().collect();
    words[words.iter().position(|&word| word == "MiB").unwrap() - 1].parse().unwrap()
}

#[cfg(all(feature = "cli", target_os = "linux"))]
#[test]
fn the_peak_of_a_run_is_the_one_it_printed() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..20_000).map(|i| format!("{} bottles of beer on the wall\n", i * 7919 % 100)).collect();
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    let kept = "latent_precision = \"bf16\"\nkept_gradient_precision = \"bf16\"\noptimizer_state_precision = \"int8-blocks\"\n";
    let cases = [
        ("small-plain", "16", "gradient_checkpointing = 0\n".to_string()),
        ("small-plain", "16", "gradient_checkpointing = 1\n".to_string()),
        ("small-plain", "8", format!("{kept}gradient_precision = \"bf16\"\n")),
        // Spectral steps.
        ("tiny", "8", "parameter_clusters = 4\n".to_string()),
        ("small", "2", "latent_precision = \"bf16\"\nkept_gradient_precision = \"bf16\"\n".to_string()),
        ("small", "2", "latent_precision = \"int8\"\nkept_gradient_precision = \"bf16\"\n".to_string()),
    ];
    for (model, batch, settings) in cases {
        std::fs::write(folder.path().join("settings.toml"), &settings).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_hybridq"))
            .current_dir(folder.path())
            .args(["train", "--data", "text.txt", "--model", model, "--steps", "3", "--batch", batch])
            .args(["--threads", "2", "--eval-windows", "4", "--config", "settings.toml"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let planned = mib(&text, "memory ");
        let measured = mib(&text, "memory   ");
        let share = planned / measured;
        let settings = settings.replace('\n', ", ");
        println!("{model}, batch {batch}, {settings}planned {planned} MiB, measured {measured} MiB");
        assert!((0.95..1.05).contains(&share), "{model}, {settings}planned {planned} MiB, measured {measured} MiB");
    }
}
