//! Small valid files of every kind, for the fuzzer to start from: `seeds FOLDER`.

use std::collections::BTreeMap;
use std::path::Path;

use hybridq::data::Tokenizer;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::{GgmlType, GgufTensorData, write_gguf};
use hybridq::models::{GgufExportType, Head, Model, ModelConfig, ModelType, preset};
use hybridq::nn::Precision;

fn small(name: &str, hidden_size: usize, precision: Precision) -> Model {
    let config = ModelConfig {
        hidden_size,
        intermediate_size: hidden_size,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        vocab_size: 5,
        max_position_embeddings: 4,
        precision,
        ..preset(name).expect("a preset")
    };
    Model::new(config, 1).expect("a valid model")
}

fn main() -> hybridq::Result<()> {
    let root = std::env::args().nth(1).expect("usage: seeds FOLDER");
    let place = |target: &str, name: &str| {
        let folder = Path::new(&root).join(target);
        std::fs::create_dir_all(&folder).expect("a folder for seeds");
        folder.join(name)
    };
    let context = Context::new(ContextOptions { threads: Some(1), isa: None })?;
    let bytes = Tokenizer::bytes().gguf_metadata(256)?;
    write_gguf(place("gguf", "tokenizer"), &bytes, &[])?;
    let words = Path::new(&root).join("vocab.txt");
    std::fs::write(&words, "[PAD]\n[UNK]\n[CLS]\n[SEP]\nt\n##e\n").expect("a seed");
    write_gguf(place("gguf", "word-piece"), &Tokenizer::load(&words)?.gguf_metadata(6)?, &[])?;
    let block = GgufTensorData::new("t", GgmlType::TQ2_0, &[1, 256], || Ok(vec![0x55; 66]));
    write_gguf(place("gguf", "block"), &[], &[block])?;
    for name in ["small-llama", "small", "gpt2"] {
        let mut model = small(name, 8, Precision::F32);
        model.export_gguf(&context, &place("gguf", name), GgufExportType::F16, Vec::new())?;
        std::fs::write(place("config_json", name), model.config.to_json()).expect("a seed");
        let folder = Path::new(&root).join("model");
        model.save(&folder)?;
        std::fs::copy(folder.join("model.safetensors"), place("safetensors", name)).expect("a seed");
        model = small(name, 8, Precision::Ternary);
        model.store.quantize(&context)?;
        model.save_packed(&context, &place("packed_file", name), BTreeMap::new())?;
    }
    let mut encoder = small("gpt2", 8, Precision::F32).config;
    (encoder.model_type, encoder.head) = (ModelType::Bert, Head::SequenceClassification);
    let encoder = Model::new(encoder, 1)?;
    encoder.export_gguf(&context, &place("gguf", "bert"), GgufExportType::F16, Vec::new())?;
    std::fs::write(place("config_json", "bert"), encoder.config.to_json()).expect("a seed");
    let folder = Path::new(&root).join("model");
    Tokenizer::bytes().save(&folder)?;
    std::fs::copy(folder.join("tokenizer.json"), place("tokenizer_json", "bytes")).expect("a seed");
    let pieces = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nt\n##e\n##a\nthe\n";
    std::fs::write(place("vocabulary", "pieces"), pieces).expect("a seed");
    let merges = "{\"t\": 0, \"h\": 1, \"th\": 2, \"<|endoftext|>\": 3}\0#version: 0.2\nt h\n";
    std::fs::write(place("vocabulary", "merges"), merges).expect("a seed");
    let index = r#"{"metadata": {"total_size": 1}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#;
    std::fs::write(place("shard_index", "two"), index).expect("a seed");
    Ok(())
}
