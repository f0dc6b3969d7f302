//! Models as GGUF files: what is exported computes the same when it is loaded, and what llama.cpp would compute
//! differently is not exported. (llama.cpp itself: tests/peers/check_gguf.py.)

use std::path::Path;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::{GgmlType, GgufFile, GgufTensorData, GgufValue, write_gguf};
use hybridq::models::{Activation, GgufExportType, Model, ModelConfig, ModelType, preset};
use hybridq::nn::ops::RopeScaling;
use hybridq::nn::{Batch, Executor, Mode, Precision, StepRandomness};
use hybridq::train::{
    LanguageModelTrainer, RunPlace, TrainConfig, export_gguf, export_packed, import_model, open_model,
};

const TYPES: [GgufExportType; 5] =
    [GgufExportType::F32, GgufExportType::F16, GgufExportType::Q8_0, GgufExportType::Tq1_0, GgufExportType::Tq2_0];

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap()
}

/// Widths are multiples of 256, everything else is odd.
fn config(model_type: ModelType, precision: Precision) -> ModelConfig {
    let plain = matches!(model_type, ModelType::Gpt2 | ModelType::Plain);
    ModelConfig {
        model_type,
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: if plain { 4 } else { 2 },
        vocab_size: 37,
        max_position_embeddings: 23,
        hidden_act: if plain { Activation::GeluPytorchTanh } else { Activation::Silu },
        tie_word_embeddings: model_type != ModelType::Llama,
        attention_bias: model_type == ModelType::Llama,
        mlp_bias: model_type == ModelType::Llama,
        initializer_range: 0.08,
        precision,
        ..preset("small").unwrap()
    }
}

fn model(config: ModelConfig) -> Model {
    let mut model = Model::new(config, 11).unwrap();
    // Biases and gains start out all the same: make them differ.
    for id in model.store.ids() {
        if model.store.spec(id).shape.len() == 1 {
            let name = id.index();
            let weight = model.store.weight_mut(id).iter_mut().enumerate();
            weight.for_each(|(i, value)| *value += 0.02 * ((i * 7 + name) % 11) as f32);
        }
    }
    model.store.quantize(&context()).unwrap();
    model
}

const TOKENS: [u32; 9] = [3, 1, 4, 15, 9, 26, 5, 35, 8];

fn logits(model: &mut Model) -> Vec<f32> {
    let mut executor = Executor::new(&model.plan, Mode::Generate, TOKENS.len());
    let mut cache = model.key_value_cache(1, TOKENS.len());
    let batch = Batch { tokens: &TOKENS, targets: &[], sequences: 1, length: TOKENS.len(), ..Batch::default() };
    executor.generate(&model.plan, &context(), &mut model.store, batch, &mut cache).unwrap()
}

fn loss(model: &mut Model) -> f64 {
    let (tokens, targets) = (&TOKENS[..8], &TOKENS[1..]);
    let mut executor = Executor::new(&model.plan, Mode::Evaluate, tokens.len());
    let batch = Batch { tokens, targets, sequences: 1, length: tokens.len(), ..Batch::default() };
    executor.step(&model.plan, &context(), &mut model.store, batch, StepRandomness::default(), 1.0).unwrap()
}

/// The largest difference, relative to the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0f32, |most, a| most.max(a.abs()));
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

fn written(model: &Model, path: &Path, kind: GgufExportType) -> GgufFile {
    let tokenizer = vec![("tokenizer.ggml.model".to_string(), GgufValue::String("none".into()))];
    let bytes = model.export_gguf(&context(), path, kind, tokenizer).unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().len(), bytes);
    GgufFile::open(path).unwrap()
}

fn refusal(model: &Model, kind: GgufExportType) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let message = model.export_gguf(&context(), &path, kind, Vec::new()).unwrap_err().to_string();
    assert!(!path.exists(), "{message}");
    message
}

#[test]
fn every_form_and_type_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    for form in [ModelType::Llama, ModelType::Mistral, ModelType::Bitnet, ModelType::Gpt2] {
        for precision in [Precision::F32, Precision::Ternary] {
            let mut original = model(config(form, precision));
            let expected = (logits(&mut original), loss(&mut original));
            for kind in TYPES {
                let ternary_type = matches!(kind, GgufExportType::Tq1_0 | GgufExportType::Tq2_0);
                let case = format!("{form:?} {precision} {}", kind.name());
                if ternary_type && precision == Precision::F32 {
                    let message = refusal(&original, kind);
                    assert!(
                        message.contains("--type: expected f32, f16 or q8_0 (") && message.contains("is in f32"),
                        "{message}"
                    );
                    continue;
                }
                let path = folder.path().join(format!("{form:?}-{precision}-{}.gguf", kind.name()));
                let file = written(&original, &path, kind);
                let mut loaded = Model::load_gguf(&context(), &file).unwrap();
                let comes_back_ternary = ternary_type;
                assert_eq!(loaded.config.precision == Precision::Ternary, comes_back_ternary, "{case}");
                // Scales and tables lose bits; without int8 activations a ternary model computes something else slightly.
                let bound = match (kind, precision) {
                    (GgufExportType::F32, Precision::F32) => 1e-6,
                    (GgufExportType::F16, Precision::F32) => 2e-3,
                    (GgufExportType::Q8_0, Precision::F32) => 1e-1,
                    _ => 5e-2,
                };
                let off = difference(&expected.0, &logits(&mut loaded));
                assert!(off <= bound, "{case}: logits differ by {off}");
                let off = (loss(&mut loaded) - expected.1).abs();
                assert!(off <= f64::from(bound), "{case}: loss differs by {off}");

                let mut trainable = loaded.into_trainable(&context()).unwrap();
                trainable.store.quantize(&context()).unwrap();
                let exact = kind == GgufExportType::F32 && precision == Precision::F32;
                for (id, other) in original.store.ids().zip(trainable.store.ids()) {
                    let name = &original.store.spec(id).name;
                    if exact {
                        assert!(original.store.weight(id) == trainable.store.weight(other), "{case}: {name}");
                    }
                    let packed = |model: &Model, id| {
                        model.store.quantized(id).and_then(|form| form.packed()).map(|packed| packed.unpack(&context()))
                    };
                    if comes_back_ternary {
                        assert!(packed(&original, id) == packed(&trainable, other), "{case}: {name}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_packed_model_is_exported_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let original = model(config(ModelType::Llama, Precision::Ternary));
    let path = folder.path().join("a.gguf");
    let loaded = Model::load_gguf(&context(), &written(&original, &path, GgufExportType::Tq2_0)).unwrap();
    let again = folder.path().join("b.gguf");
    written(&loaded, &again, GgufExportType::Tq2_0);
    assert!(std::fs::read(path).unwrap() == std::fs::read(again).unwrap());
    let message = loaded.save(folder.path()).unwrap_err().to_string();
    assert!(message.contains("packed, has no weights"), "{message}");
}

#[test]
fn one_token_at_a_time_gives_the_logits_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let original = model(config(ModelType::Bitnet, Precision::Ternary));
    let file = written(&original, &folder.path().join("m.gguf"), GgufExportType::Tq1_0);
    let mut loaded = Model::load_gguf(&context(), &file).unwrap();
    let whole = logits(&mut loaded);
    let mut executor = Executor::new(&loaded.plan, Mode::Generate, 1);
    let mut cache = loaded.key_value_cache(1, TOKENS.len());
    let mut last = Vec::new();
    for token in TOKENS {
        let batch = Batch { tokens: &[token], targets: &[], sequences: 1, length: 1, ..Batch::default() };
        last = executor.generate(&loaded.plan, &context(), &mut loaded.store, batch, &mut cache).unwrap();
    }
    assert!(difference(&whole, &last) < 1e-5);
}

#[test]
fn rope_scaling_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let llama3 = |factor| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let ours = RopeScaling::Llama3 {
        factor: 3.0,
        low_freq_factor: 1.5,
        high_freq_factor: 5.0,
        original_max_position_embeddings: 15,
    };
    let path = folder.path().join("m.gguf");
    for scaling in [RopeScaling::Linear { factor: 4.0 }, ours, llama3(8.0), llama3(32.0)] {
        let scaled = model(ModelConfig { rope_scaling: Some(scaling), ..config(ModelType::Llama, Precision::F32) });
        let _ = std::fs::remove_file(&path);
        let file = written(&scaled, &path, GgufExportType::F32);
        let loaded = Model::load_gguf(&context(), &file).unwrap();
        assert_eq!(loaded.config.rope_scaling, Some(scaling));
        assert_eq!(file.find("rope_freqs.weight").is_some(), !matches!(scaling, RopeScaling::Linear { .. }));
        // Others' files do not name the parameters: known ones are found by their divisors.
        let stated = rewritten(&file, folder.path(), |key, _| key != "hybridq.rope_scaling", |_| true);
        let found = Model::load_gguf(&context(), &stated);
        if scaling == ours {
            assert!(found.unwrap_err().to_string().contains("\"rope_freqs.weight\": expected the divisors"));
        } else {
            assert_eq!(found.unwrap().config.rope_scaling, Some(scaling));
        }
    }
}

/// The file with only the metadata and tensors that are wanted.
fn rewritten(
    file: &GgufFile,
    folder: &Path,
    entry: impl Fn(&str, &GgufValue) -> bool,
    tensor: impl Fn(&str) -> bool,
) -> GgufFile {
    let entries: Vec<_> =
        file.metadata().iter().filter(|(key, value)| entry(key, value)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let tensors: Vec<_> = file
        .tensors()
        .iter()
        .filter(|entry| tensor(&entry.name))
        .map(|entry| {
            let bytes = file.bytes(entry).to_vec();
            GgufTensorData::new(entry.name.as_str(), entry.kind, &entry.shape, move || Ok(bytes.clone()))
        })
        .collect();
    let path = folder.join("rewritten.gguf");
    write_gguf(&path, &entries, &tensors).unwrap();
    GgufFile::open(path).unwrap()
}

#[test]
fn what_llama_cpp_computes_differently_is_refused() {
    let refused = |form, change: fn(&mut ModelConfig)| {
        let mut config = config(form, Precision::Ternary);
        change(&mut config);
        let message = refusal(&model(config), GgufExportType::Tq2_0);
        assert!(message.starts_with("no export to gguf: llama.cpp"), "{message}");
        message
    };
    assert!(refused(ModelType::Plain, |_| {}).contains("norms of their own"));
    assert!(refused(ModelType::Bitnet, |c| c.hidden_act = Activation::Relu2).contains("ReLU2"));
    assert!(refused(ModelType::Llama, |c| c.hidden_act = Activation::Relu2).contains("ReLU2"));
    assert!(refused(ModelType::Bitnet, |c| c.tie_word_embeddings = false).contains("as head"));
    assert!(refused(ModelType::Mistral, |c| c.sliding_window = Some(5)).contains("window of 5"));
    assert!(
        refused(ModelType::Llama, |c| c.rope_scaling = Some(RopeScaling::Dynamic { factor: 2.0 })).contains("dynamic")
    );
    // A window as long as the context changes nothing, and plain f32 is GPT-2.
    let folder = tempfile::tempdir().unwrap();
    let wide = ModelConfig { sliding_window: Some(23), ..config(ModelType::Mistral, Precision::Ternary) };
    written(&model(wide), &folder.path().join("wide.gguf"), GgufExportType::Tq2_0);
    let file =
        written(&model(config(ModelType::Plain, Precision::F32)), &folder.path().join("p.gguf"), GgufExportType::F16);
    assert_eq!(file.metadata()["general.architecture"].as_str(), Some("gpt2"));
}

#[test]
fn rows_that_are_not_whole_blocks_are_refused() {
    let odd =
        |intermediate_size| model(ModelConfig { intermediate_size, ..config(ModelType::Llama, Precision::Ternary) });
    let message = refusal(&odd(512 + 32), GgufExportType::Tq2_0);
    let expected = "--type: expected f32, f16 or q8_0 (model.layers.0.mlp.down_proj.weight has rows of 544; ternary types \
                    take multiples of 256, q8_0 of 32), found tq2_0";
    assert_eq!(message, expected);
    assert!(refusal(&odd(512 + 2), GgufExportType::Q8_0).contains("--type: expected f32 or f16 ("));
    let folder = tempfile::tempdir().unwrap();
    written(&odd(512 + 2), &folder.path().join("m.gguf"), GgufExportType::F16);
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(
        &model(config(ModelType::Llama, Precision::Ternary)),
        &folder.path().join("m.gguf"),
        GgufExportType::Tq2_0,
    );
    let fails = |file: GgufFile| {
        let message = Model::load_gguf(&context(), &file).unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1);
        message
    };
    let without =
        |name: &'static str| fails(rewritten(&file, folder.path(), |key, _| key != name, |tensor| tensor != name));
    assert!(without("llama.block_count").contains("llama.block_count: missing"));
    assert!(without("llama.attention.layer_norm_rms_epsilon").contains("missing"));
    assert!(without("general.architecture").contains("general.architecture: missing"));
    assert!(without("blk.1.attn_q.bias").contains("\"blk.1.attn_q.bias\": missing"));
    assert!(without("token_embd.weight").contains("\"token_embd.weight\": missing"));
    let with = |key: &str, value: GgufValue| {
        let mut entries: Vec<_> = file.metadata().clone().into_iter().filter(|entry| entry.0 != key).collect();
        entries.push((key.into(), value));
        let path = folder.path().join("with.gguf");
        let tensors: Vec<_> = file
            .tensors()
            .iter()
            .map(|tensor| {
                let bytes = file.bytes(tensor).to_vec();
                GgufTensorData::new(tensor.name.as_str(), tensor.kind, &tensor.shape, move || Ok(bytes.clone()))
            })
            .collect();
        write_gguf(&path, &entries, &tensors).unwrap();
        fails(GgufFile::open(path).unwrap())
    };
    let number = GgufValue::U32;
    assert!(
        with("general.architecture", GgufValue::String("mamba".into()))
            .contains("expected llama, bitnet, gpt2 or bert, found \"mamba\"")
    );
    assert!(with("llama.block_count", number(3)).contains("\"blk.2."));
    assert!(with("llama.block_count", number(1)).contains("\"blk.1."));
    assert!(with("llama.block_count", GgufValue::U64(1 << 60)).contains("num_hidden_layers"));
    assert!(with("llama.block_count", GgufValue::F32(2.0)).contains("llama.block_count: expected a size, found \"2\""));
    assert!(with("llama.embedding_length", GgufValue::U64(u64::MAX)).contains("hidden_size"));
    assert!(with("llama.attention.head_count", number(0)).contains("attention.head_count"));
    assert!(with("llama.feed_forward_length", number(256)).contains("expected shape"));
    assert!(with("llama.expert_count", number(8)).contains("llama.expert_count: expected 0, found 8"));
    assert!(with("llama.rope.dimension_count", number(32)).contains("expected 64, found 32"));
    assert!(with("llama.rope.scaling.type", GgufValue::String("yarn".into())).contains("yarn"));
    assert!(with("llama.logit_scale", GgufValue::F32(2.0)).contains("llama.logit_scale: unknown key"));
    assert!(with("hybridq.rope_scaling", GgufValue::String("{".into())).contains("hybridq.rope_scaling"));

    // Damaged blocks.
    let path = folder.path().join("m.gguf");
    let tensor = file.find("blk.0.ffn_up.weight").unwrap().range.clone();
    let good = std::fs::read(&path).unwrap();
    let damaged = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let path = folder.path().join("damaged.gguf");
        std::fs::write(&path, bytes).unwrap();
        fails(GgufFile::open(path).unwrap())
    };
    assert!(damaged(tensor.start + 5, 0xFF).contains("blk.0.ffn_up.weight"));
    assert!(damaged(tensor.start + 65, 0x7C).contains("a finite half-precision scale"));
    let embedding = file.find("token_embd.weight").unwrap().range.clone();
    assert!(damaged(embedding.start + 34 + 1, 0x7E).contains("token_embd.weight"));
    let norm = file.find("output_norm.weight").unwrap().range.clone();
    assert!(damaged(norm.start + 3, 0x7F).contains("output_norm.weight"), "NaN");
}

/// Scales that differ from row to row stay as they are; those that differ within a row make an f32 model.
#[test]
fn files_of_others_may_have_other_scales() {
    let folder = tempfile::tempdir().unwrap();
    let original = model(config(ModelType::Gpt2, Precision::Ternary));
    let file = written(&original, &folder.path().join("m.gguf"), GgufExportType::Tq2_0);
    let path = folder.path().join("changed.gguf");
    let block = |row: usize, block: usize| {
        let tensor = file.find("blk.0.ffn_up.weight").unwrap();
        assert_eq!(tensor.kind, GgmlType::TQ2_0);
        tensor.range.start + (row + block) * 66 + 64
    };
    let mut bytes = std::fs::read(file.path()).unwrap();
    bytes[block(3, 0)..][..2].copy_from_slice(&half::f16::from_f32(0.25).to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let mut rows = Model::load_gguf(&context(), &GgufFile::open(&path).unwrap()).unwrap();
    assert_eq!(rows.config.precision, Precision::Ternary);
    let id = rows.store.find("transformer.h.0.mlp.c_fc.weight").unwrap();
    let scales = rows.store.quantized(id).unwrap().scales();
    assert!(scales.len() == 512 && scales[3] == 0.25 && scales[2] == scales[4]);
    let with_rows = logits(&mut rows);
    let mut dense = rows.into_trainable(&context()).unwrap();
    assert_eq!(dense.config.precision, Precision::F32);
    assert!(difference(&with_rows, &logits(&mut dense)) < 5e-2);

    // ffn_down has two blocks a row.
    let down = file.find("blk.0.ffn_down.weight").unwrap().range.start + 64;
    bytes[down..][..2].copy_from_slice(&half::f16::from_f32(0.25).to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let loaded = Model::load_gguf(&context(), &GgufFile::open(&path).unwrap()).unwrap();
    assert_eq!(loaded.config.precision, Precision::F32);
    let id = loaded.store.find("transformer.h.0.mlp.c_proj.weight").unwrap();
    assert!(loaded.store.weight(id)[..256].iter().all(|value| [0.0, 0.25, -0.25].contains(value)));
}

#[test]
fn programs_paths_lead_in_and_out() {
    let (context, folder) = (context(), tempfile::tempdir().unwrap());
    let place = |name: &str| folder.path().join(name);
    let config = ModelConfig { vocab_size: 300, ..config(ModelType::Bitnet, Precision::Ternary) };
    let original = model(config);
    original.save(&place("folder")).unwrap();
    export_gguf(&context, &place("folder"), &place("m.gguf"), GgufExportType::Tq2_0).unwrap();
    let message =
        export_gguf(&context, &place("folder"), &place("m.gguf"), GgufExportType::F32).unwrap_err().to_string();
    assert!(message.starts_with("--out: expected a new file"), "{message}");
    let (loaded, tokenizer) = open_model(&context, &place("m.gguf")).unwrap();
    assert!(tokenizer.is_byte_level() && loaded.config.vocab_size == 300);
    let imported = import_model(&place("m.gguf"), &place("imported")).unwrap();
    assert_eq!(imported.config.precision, Precision::Ternary);
    let (mut again, _) = open_model(&context, &place("imported")).unwrap();
    again.store.quantize(&context).unwrap();
    for (id, other) in original.store.ids().zip(again.store.ids()) {
        let trits =
            |model: &Model, id| model.store.quantized(id).and_then(|form| form.packed()).map(|p| p.unpack(&context));
        assert!(trits(&original, id) == trits(&again, other));
    }
}

/// Training goes on from what others' files hold.
#[test]
fn training_starts_from_files() {
    let (context, folder) = (context(), tempfile::tempdir().unwrap());
    let place = |name: &str| folder.path().join(name);
    let original = model(ModelConfig { vocab_size: 256, ..config(ModelType::Bitnet, Precision::Ternary) });
    original.save(&place("folder")).unwrap();
    export_gguf(&context, &place("folder"), &place("m.gguf"), GgufExportType::Tq2_0).unwrap();
    export_packed(&context, &place("folder"), &place("m.packed")).unwrap();
    std::fs::write(place("text"), "ternary weights learn, too. ".repeat(200)).unwrap();
    let loss = |init: &str, steps: u64| {
        let config = TrainConfig {
            data: Some(place("text")),
            init: Some(place(init)),
            max_steps: steps,
            batch_size: 2,
            seq_length: 16,
            ..TrainConfig::for_model("tiny")
        };
        let mut trainer = LanguageModelTrainer::open(&context, config, RunPlace::Nowhere).unwrap();
        trainer.run().unwrap().final_loss.unwrap()
    };
    let first = loss("folder", 1);
    for init in ["m.gguf", "m.packed"] {
        // Embedding and head were rounded to 8 bits on the way.
        assert!((loss(init, 1) - first).abs() < 0.02, "{init}: {} and {first}", loss(init, 1));
        assert!(loss(init, 40) < first - 1.0, "{init}: learns from there");
    }
}
