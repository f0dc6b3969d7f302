//! Hugging Face folders that are whole, sharded, packed, damaged or made to harm; import and export.

use std::collections::BTreeMap;
use std::path::Path;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::{SafetensorsFile, SafetensorsFolder, TensorData, write_safetensors};
use hybridq::models::{ExportType, Model, ModelConfig, ModelType, PRESETS, preset};
use hybridq::nn::Precision;
use hybridq::tensor::RandomStream;
use hybridq::train::{export_model, import_model};
use proptest::prelude::*;
use serde_json::json;

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap()
}

/// A model small enough for tests, of the form of a preset.
fn small(name: &str, precision: Precision) -> Model {
    let config = ModelConfig {
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        num_key_value_heads: 3,
        vocab_size: 17,
        max_position_embeddings: 11,
        initializer_range: 0.3,
        precision,
        ..preset(name).unwrap()
    };
    let mut model = Model::new(config, 5).unwrap();
    model.store.quantize(&context()).unwrap();
    model
}

/// Writes `model` as two shards with an index; the first holds the tensors whose names end in `weight`.
fn save_sharded(model: &Model, folder: &Path) {
    model.save(folder).unwrap();
    let file = SafetensorsFile::open(folder.join("model.safetensors")).unwrap();
    let (mut shards, mut map): ([Vec<TensorData<'_>>; 2], _) = (Default::default(), BTreeMap::new());
    for tensor in file.tensors() {
        let shard = usize::from(!tensor.name.ends_with("proj.weight"));
        map.insert(tensor.name.clone(), shard_name(shard));
        let bytes = file.bytes(&tensor.name).unwrap();
        shards[shard].push(TensorData::raw(tensor.name.clone(), tensor.dtype, &tensor.shape, bytes));
    }
    for (number, shard) in shards.iter().enumerate() {
        write_safetensors(folder.join(shard_name(number)), &BTreeMap::new(), shard).unwrap();
    }
    drop(shards);
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    write_index(folder, &json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string());
}

fn shard_name(number: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", number + 1)
}

fn write_index(folder: &Path, text: &str) {
    let path = folder.join("model.safetensors.index.json");
    let _ = std::fs::remove_file(&path);
    std::fs::write(path, text).unwrap();
}

fn message(folder: &Path) -> String {
    let text = Model::load(folder).unwrap_err().to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn assert_same_weights(a: &Model, b: &Model) {
    for (id, other) in a.store.ids().zip(b.store.ids()) {
        assert!(a.store.weight(id) == b.store.weight(other), "{}", a.store.spec(id).name);
    }
}

#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = small("small-llama", Precision::F32);
    save_sharded(&model, folder.path());
    let loaded = Model::load(folder.path()).unwrap();
    assert_eq!(loaded.config, model.config);
    assert_same_weights(&model, &loaded);
    assert_eq!(SafetensorsFolder::open(folder.path()).unwrap().names().count(), model.store.ids().count());
}

#[test]
fn indices_that_do_not_fit_their_shards_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    save_sharded(&small("small-llama", Precision::F32), folder.path());
    let path = folder.path().join("model.safetensors.index.json");
    let good: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let norm = "model.norm.weight";
    let with = |tensor: &str, shard: &str| {
        let mut index = good.clone();
        index["weight_map"][tensor] = json!(shard);
        write_index(folder.path(), &index.to_string());
        message(folder.path())
    };
    for shard in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "x.bin", "a\u{0}.safetensors"] {
        let text = with(norm, shard);
        assert!(text.contains("shard") || text.contains("safetensors"), "{text}");
    }
    assert!(with(norm, "model.safetensors.index.json").contains("expected the name of a .safetensors file"));
    assert!(with(norm, "absent.safetensors").contains("absent.safetensors"));
    assert!(with(norm, &shard_name(0)).contains("\"model.norm.weight\": lies in"));
    assert!(with("phantom", &shard_name(0)).contains("\"phantom\": not in its shard"));
    let mut less = good.clone();
    less["weight_map"].as_object_mut().unwrap().remove(norm);
    write_index(folder.path(), &less.to_string());
    assert!(message(folder.path()).contains("the index says nothing"));
    let twice = format!(r#"{{"weight_map": {{"{norm}": "a.safetensors", "{norm}": "b.safetensors"}}}}"#);
    for (text, expected) in [
        (twice.as_str(), "occurs twice"),
        (r#"{"weight_map": {}, "weight_map": {}}"#, "occurs twice"),
        ("{}", "no weight_map"),
        (r#"{"weight_map": 3}"#, "index.json"),
        (r#"{"weight_map": {"a": 1}}"#, "index.json"),
        (r#"{"weight_map": {}}"#, "missing"),
        ("", "index.json"),
        ("[[[[", "index.json"),
    ] {
        write_index(folder.path(), text);
        assert!(message(folder.path()).contains(expected), "{text}: {}", message(folder.path()));
    }
    #[cfg(unix)]
    {
        // A shard that is a link to itself.
        std::os::unix::fs::symlink("loop.safetensors", folder.path().join("loop.safetensors")).unwrap();
        assert!(with(norm, "loop.safetensors").contains("loop.safetensors"));
    }
    write_index(folder.path(), &good.to_string());
    Model::load(folder.path()).unwrap();
}

/// Sizes that no file backs are refused before memory is asked for them.
#[test]
fn sizes_come_from_the_tensors() {
    let folder = tempfile::tempdir().unwrap();
    small("small-llama", Precision::F32).save(folder.path()).unwrap();
    let path = folder.path().join("config.json");
    let good: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let with = |changes: &[(&str, u64)]| {
        let mut config = good.clone();
        changes.iter().for_each(|(key, value)| config[*key] = json!(value));
        std::fs::write(&path, config.to_string()).unwrap();
        message(folder.path())
    };
    assert!(with(&[("vocab_size", 1 << 24)]).contains("embed_tokens.weight\": expected shape [16777216, 12]"));
    assert!(with(&[("hidden_size", 99_996), ("intermediate_size", 131_072)]).contains("expected shape"));
    assert!(with(&[("num_hidden_layers", 4096)]).contains("model.layers.2."));
    assert!(with(&[("num_hidden_layers", 1 << 60)]).contains("num_hidden_layers: expected 1 to 4096"));
    assert!(with(&[("vocab_size", 1 << 60)]).contains("vocab_size"));
    assert!(with(&[("head_dim", 1 << 60)]).contains("head_dim"));
    assert!(with(&[("max_position_embeddings", 1 << 60)]).contains("max_position_embeddings"));
    // A long context costs nothing until it is used.
    let mut long = good.clone();
    long["max_position_embeddings"] = json!(1 << 22);
    std::fs::write(&path, long.to_string()).unwrap();
    let start = std::time::Instant::now();
    Model::load(folder.path()).unwrap();
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
}

#[test]
fn names_without_the_prefix_and_derived_tensors_are_read() {
    for (name, prefix, derived) in
        [("gpt2", "transformer.", "h.0.attn.bias"), ("small-llama", "model.", "layers.0.self_attn.rotary_emb.inv_freq")]
    {
        let folder = tempfile::tempdir().unwrap();
        let model = small(name, Precision::F32);
        model.save(folder.path()).unwrap();
        let path = folder.path().join("model.safetensors");
        let file = SafetensorsFile::open(&path).unwrap();
        let mut tensors: Vec<TensorData<'_>> = Vec::new();
        for tensor in file.tensors() {
            let short = tensor.name.strip_prefix(prefix).unwrap();
            let bytes = file.bytes(&tensor.name).unwrap();
            tensors.push(TensorData::raw(short, tensor.dtype, &tensor.shape, bytes));
        }
        tensors.push(TensorData::new(derived, &[3], &[1u8, 1, 1]));
        tensors.push(TensorData::new("lm_head.weight", &[1], &[1u8]));
        write_safetensors(&path, &BTreeMap::new(), &tensors).unwrap();
        assert_same_weights(&model, &Model::load(folder.path()).unwrap());
        tensors.push(TensorData::new("other.weight", &[1], &[1u8]));
        write_safetensors(&path, &BTreeMap::new(), &tensors).unwrap();
        assert!(message(folder.path()).contains("other.weight: not a tensor of this model"));
    }
}

#[test]
fn exports_are_read_again() {
    let context = context();
    for name in PRESETS {
        for precision in [Precision::F32, Precision::Ternary, Precision::Int8] {
            let model = small(name, precision);
            let gated = matches!(model.config.model_type, ModelType::Bitnet | ModelType::Llama | ModelType::Mistral);
            let recurrent = matches!(model.config.model_type, ModelType::Lstm | ModelType::Gru);
            let known = match precision {
                Precision::F32 => !recurrent,
                _ => precision == Precision::Ternary && gated,
            };
            for kind in [ExportType::F32, ExportType::F16, ExportType::Bf16, ExportType::Packed] {
                let folder = tempfile::tempdir().unwrap();
                let exported = model.export(&context, folder.path(), kind);
                if !known || (kind == ExportType::Packed && precision != Precision::Ternary) {
                    let text = exported.unwrap_err().to_string();
                    assert!(text.contains("transformers") || text.contains("packed"), "{text}");
                    assert!(!folder.path().join("config.json").exists(), "nothing is written");
                    continue;
                }
                exported.unwrap();
                let mut again = Model::load(folder.path()).unwrap();
                again.store.quantize(&context).unwrap();
                assert_eq!(again.config.precision, precision);
                for (id, other) in model.store.ids().zip(again.store.ids()) {
                    let (ours, theirs) = (model.store.weight(id), again.store.weight(other));
                    match (kind, model.store.quantized(id), again.store.quantized(other)) {
                        (ExportType::F32, ..) | (ExportType::Packed, None, None) => assert!(ours == theirs),
                        (ExportType::Packed, Some(a), Some(b)) => {
                            let (a, b) = (a.packed().unwrap(), b.packed().unwrap());
                            assert!(a.unpack(&context) == b.unpack(&context));
                            assert!((a.scales[0] / b.scales[0] - 1.0).abs() < 1e-6);
                        }
                        _ => assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= a.abs() * 4e-3 + 1e-7)),
                    }
                }
            }
        }
    }
}

#[test]
fn what_a_type_cannot_hold_is_refused() {
    let context = context();
    let folder = tempfile::tempdir().unwrap();
    let mut model = small("small-llama", Precision::F32);
    let id = model.store.find("model.norm.weight").unwrap();
    model.store.weight_mut(id)[3] = 7e4;
    let text = model.export(&context, folder.path(), ExportType::F16).unwrap_err().to_string();
    assert!(text.contains("model.norm.weight holds 70000"), "{text}");
    let config = ModelConfig { intermediate_size: 18, ..small("small-llama", Precision::Ternary).config };
    let mut odd = Model::new(config, 1).unwrap();
    odd.store.quantize(&context).unwrap();
    let text = odd.export(&context, folder.path(), ExportType::Packed).unwrap_err().to_string();
    assert!(text.contains("mlp.gate_proj.weight has 18 rows"), "{text}");
}

#[test]
fn packed_tensors_are_checked() {
    let (context, folder) = (context(), tempfile::tempdir().unwrap());
    small("tiny", Precision::Ternary).export(&context, folder.path(), ExportType::Packed).unwrap();
    let path = folder.path().join("model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let file = SafetensorsFile::open(&path).unwrap();
    let (weight, scale) = (file.tensor(name).unwrap().clone(), file.tensor(&format!("{name}_scale")).unwrap().clone());
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, changed).unwrap();
        message(folder.path())
    };
    assert!(with(weight.range.start + 2, &[0xFF]).contains(&format!("{name:?}: element 2 is not ternary")));
    for scale_value in [0f32, -1.0, f32::NAN, f32::INFINITY] {
        let text = with(scale.range.start, &scale_value.to_le_bytes());
        assert!(text.contains("up_proj.weight_scale\": expected a scale"), "{text}");
    }
    std::fs::write(&path, &good).unwrap();
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap().replace("\"lm_head\"", "\"model.layers.0.mlp.up_proj\"");
    std::fs::write(&config, text).unwrap();
    assert!(message(folder.path()).contains("modules_to_not_convert"));
    small("tiny", Precision::Ternary).export(&context, folder.path(), ExportType::Packed).unwrap();
    let text =
        std::fs::read_to_string(&config).unwrap().replace("\"precision\": \"ternary\"", "\"precision\": \"f32\"");
    std::fs::write(&config, text).unwrap();
    assert!(message(folder.path()).contains("expected a parameter in f32, found a ternary one with a scale"));
}

/// A tokenizer of whole words.
fn word_tokenizer(folder: &Path, words: usize) {
    let vocab: BTreeMap<String, usize> = (0..words).map(|id| (format!("w{id}"), id)).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

#[test]
fn folders_move_in_and_out_with_their_tokenizers() {
    let (context, folder) = (context(), tempfile::tempdir().unwrap());
    let place = |name: &str| folder.path().join(name);
    let model = small("small-llama", Precision::F32);
    std::fs::create_dir(place("theirs")).unwrap();
    save_sharded(&model, &place("theirs"));
    word_tokenizer(&place("theirs"), 17);
    std::fs::write(place("theirs").join("chat_template.jinja"), "{{ messages }}").unwrap();
    assert_same_weights(&model, &import_model(&place("theirs"), &place("ours")).unwrap());
    assert_same_weights(&model, &Model::load(&place("ours")).unwrap());
    export_model(&context, &place("ours"), &place("back"), ExportType::F32).unwrap();
    for name in ["tokenizer.json", "chat_template.jinja"] {
        assert_eq!(
            std::fs::read(place("back").join(name)).unwrap(),
            std::fs::read(place("theirs").join(name)).unwrap()
        );
    }
    let text = import_model(&place("theirs"), &place("ours")).unwrap_err().to_string();
    assert!(text.starts_with("--out: expected a folder without a model"), "{text}");
    word_tokenizer(&place("theirs"), 18);
    let text = import_model(&place("theirs"), &place("new")).unwrap_err().to_string();
    assert!(text.contains("tokenizer.json: expected at most the model's 17 ids, found 18"), "{text}");
    assert!(!place("new").exists());
    std::fs::create_dir(place("pickled")).unwrap();
    std::fs::write(place("pickled").join("config.json"), "{}").unwrap();
    std::fs::write(place("pickled").join("pytorch_model.bin"), "x").unwrap();
    let text = import_model(&place("pickled"), &place("new")).unwrap_err().to_string();
    assert!(text.contains("PyTorch's own format"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Bytes of a valid sharded folder changed at random: the model loads or is refused with one line.
    #[test]
    fn damaged_folders_never_panic(seed: u64) {
        let folder = tempfile::tempdir().unwrap();
        save_sharded(&small("small-llama", Precision::F32), folder.path());
        let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let contents: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let mut stream = RandomStream::new(seed, 0, 0, 0);
        for _ in 0..20 {
            let chosen = stream.below(files.len() as u64) as usize;
            let mut bytes = contents[chosen].clone();
            // Headers and JSON are where damage is interesting.
            let reach = bytes.len().min(3000) as u64;
            for _ in 0..=stream.below(3) {
                let at = (stream.below(reach) as usize).min(bytes.len() - 1);
                match stream.below(6) {
                    0 => bytes[at] ^= 1 << stream.below(8),
                    1 => bytes[at] = b"0123456789[]{},:\".-e"[stream.below(20) as usize],
                    2 => bytes.truncate(at.max(1)),
                    3 => drop(bytes.splice(at..at, *b"9999999999")),
                    4 if bytes.len() > 1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, stream.next_u32() as u8),
                }
            }
            std::fs::remove_file(&files[chosen]).unwrap();
            std::fs::write(&files[chosen], &bytes).unwrap();
            if let Err(error) = Model::load(folder.path()) {
                prop_assert_eq!(error.to_string().lines().count(), 1, "{}", error);
            }
            std::fs::remove_file(&files[chosen]).unwrap();
            std::fs::write(&files[chosen], &contents[chosen]).unwrap();
        }
    }
}
