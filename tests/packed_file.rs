//! Packed files: the model of the file is the model that was written, and damage is refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::{Dtype, SafetensorsFile, TensorData, inspect, write_safetensors};
use hybridq::models::{Model, ModelConfig, preset};
use hybridq::nn::{Batch, Executor, Mode, Precision};
use hybridq::quant::{PackedFiveTrits, PackedTernary, QuantizedRows};
use hybridq::tensor::RandomStream;
use hybridq::train::{export_packed, open_model, open_trainable_model};

const TOKENS: [u32; 7] = [3, 1, 4, 15, 9, 26, 5];

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn small(name: &str, hidden_size: usize, precision: Precision) -> Model {
    let config = ModelConfig {
        hidden_size,
        intermediate_size: hidden_size + 20,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        vocab_size: 70,
        max_position_embeddings: 19,
        initializer_range: 0.1,
        precision,
        ..preset(name).unwrap()
    };
    let mut model = Model::new(config, 3).unwrap();
    model.store.quantize(&context(2)).unwrap();
    model
}

fn logits(model: &mut Model, length: usize) -> Vec<f32> {
    let context = context(2);
    let mut executor = Executor::new(&model.plan, Mode::Generate, length);
    let mut cache = model.key_value_cache(1, TOKENS.len());
    let mut last = Vec::new();
    for tokens in TOKENS.chunks(length) {
        let batch = Batch { tokens, targets: &[], sequences: 1, length: tokens.len(), ..Batch::default() };
        last = executor.generate(&model.plan, &context, &mut model.store, batch, &mut cache).unwrap();
    }
    last
}

fn load(path: &Path) -> hybridq::Result<Model> {
    Model::load_packed(&Arc::new(SafetensorsFile::open(path)?))
}

#[test]
fn a_packed_model_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    // 64 is whole blocks of 32, 36 is not: then embeddings are f32 and nothing is lost.
    for (name, hidden) in [("small", 64), ("small", 36), ("small-llama", 64), ("gpt2", 36), ("small-plain", 64)] {
        let mut model = small(name, hidden, Precision::Ternary);
        let path = folder.path().join(format!("{name}-{hidden}.packed"));
        let bytes = model.save_packed(&context(2), &path, BTreeMap::new()).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        assert!(Model::is_packed_file(&path));
        let mut loaded = load(&path).unwrap();
        assert_eq!(loaded.config, model.config);
        for length in [1, 4, 7] {
            let (expected, found) = (logits(&mut model, length), logits(&mut loaded, length));
            let largest = expected.iter().fold(0f32, |most, logit| most.max(logit.abs()));
            let off = expected.iter().zip(&found).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest;
            assert!(off <= if hidden == 36 { 0.0 } else { 0.04 }, "{name} {hidden}, {length} at a time: {off}");
        }
        // Written again it is the same file.
        let again = folder.path().join("again.packed");
        loaded.save_packed(&context(2), &again, BTreeMap::new()).unwrap();
        assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap());
        let found = inspect(&path).unwrap();
        let layer = found.files[0].tensors.iter().find(|tensor| tensor.dtype == "five-trits").unwrap();
        assert_eq!(layer.shape.iter().product::<usize>() as u64, layer.elements);
        let scales = found.files[0].tensors.iter().filter(|tensor| tensor.name.ends_with("_scale")).count();
        assert_eq!(found.elements as usize, model.store.total_elements() + scales);
    }
    let message =
        small("small", 64, Precision::Int8).save_packed(&context(1), &folder.path().join("x"), BTreeMap::new());
    assert!(message.unwrap_err().to_string().contains("is in int8, not ternary"));
}

#[test]
fn paths_lead_to_packed_files() {
    let (context, folder) = (context(2), tempfile::tempdir().unwrap());
    let mut model = small("small", 64, Precision::Ternary);
    model = Model::new(ModelConfig { vocab_size: 256, ..model.config }, 4).unwrap();
    model.store.quantize(&context).unwrap();
    model.save(&folder.path().join("m")).unwrap();
    let out = folder.path().join("m.packed");
    let (_, bytes) = export_packed(&context, &folder.path().join("m"), &out).unwrap();
    assert!(bytes * 4 < 4 * model.store.total_elements() as u64);
    assert!(export_packed(&context, &folder.path().join("m"), &out).unwrap_err().to_string().contains("a new file"));
    let (loaded, tokenizer) = open_model(&context, &out).unwrap();
    assert!(tokenizer.is_byte_level() && loaded.store.check_weights().is_err());
    let mut trainable = open_trainable_model(&context, &out).unwrap();
    trainable.store.quantize(&context).unwrap();
    for (id, other) in model.store.ids().zip(trainable.store.ids()) {
        let trits = |model: &Model, id| model.store.quantized(id).and_then(|f| f.packed()).map(|p| p.unpack(&context));
        assert!(trits(&model, id) == trits(&trainable, other));
    }
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.packed");
    small("small", 64, Precision::Ternary).save_packed(&context(1), &path, BTreeMap::new()).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    let changed = folder.path().join("changed");
    let rewrite = |metadata: BTreeMap<String, String>, keep: &dyn Fn(&str) -> bool, scale: f32| {
        let scales = [scale];
        let tensors: Vec<TensorData<'_>> = file
            .tensors()
            .iter()
            .filter(|tensor| keep(&tensor.name))
            .map(|tensor| match tensor.name.ends_with("_scale") && scale != 0.0 {
                true => TensorData::new(tensor.name.as_str(), &[1], &scales),
                false => TensorData::raw(
                    tensor.name.as_str(),
                    tensor.dtype,
                    &tensor.shape,
                    file.bytes(&tensor.name).unwrap(),
                ),
            })
            .collect();
        write_safetensors(&changed, &metadata, &tensors).unwrap();
        let message = load(&changed).unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1);
        message
    };
    let good = file.metadata().clone();
    let with = |key: &str, value: &str| {
        let mut metadata = good.clone();
        metadata.insert(key.into(), value.into());
        metadata
    };
    let norm = "model.norm.weight";
    assert!(rewrite(good.clone(), &|name| name != norm, 0.0).contains("\"model.norm.weight\": missing"));
    assert!(rewrite(good.clone(), &|name| !name.ends_with("_scale"), 0.0).contains("_scale\": missing"));
    assert!(rewrite(good.clone(), &|_| true, f32::NAN).contains("scales"));
    assert!(rewrite(BTreeMap::new(), &|_| true, 0.0).contains("not a packed model"));
    assert!(
        rewrite(with("hybridq.packed", "{\"version\": 2, \"tensors\": {}}"), &|_| true, 0.0)
            .contains("expected version 1, found 2")
    );
    assert!(rewrite(with("hybridq.packed", "[]"), &|_| true, 0.0).contains("hybridq.packed"));
    assert!(rewrite(with("config", "{}"), &|_| true, 0.0).contains("model_type: missing"));
    let larger = good["config"].replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert!(rewrite(with("config", &larger), &|_| true, 0.0).contains("layers.2."));
    let smaller = good["config"].replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    assert!(rewrite(with("config", &smaller), &|_| true, 0.0).contains("tensors, expected"));
    let wider = good["config"].replace("\"vocab_size\": 70", "\"vocab_size\": 71");
    let message = rewrite(with("config", &wider), &|_| true, 0.0);
    assert!(message.contains("expected U8 [71, 68], found U8 [70, 68]"), "{message}");
    write_safetensors(&changed, &good, &[TensorData::raw("t", Dtype::U8, &[1], &[0])]).unwrap();
    assert!(load(&changed).unwrap_err().to_string().contains("missing"));
}

/// Several tokens at five trits a byte: the bits of the product at two bits a weight.
#[test]
fn products_of_several_tokens_are_those_at_two_bits() {
    for (case, (rows, cols, tokens)) in
        [(1, 1, 2), (70, 37, 3), (130, 100, 20), (64, 20, 1), (200, 333, 9)].into_iter().enumerate()
    {
        let mut stream = RandomStream::new(case as u64, 0, 0, 0);
        let trits: Vec<i8> = (0..rows * cols).map(|_| stream.below(3) as i8 - 1).collect();
        let scales: Vec<f32> = (0..rows).map(|_| stream.uniform() as f32).collect();
        for (threads, scales) in [(1, vec![0.3]), (2, scales)] {
            let context = context(threads);
            let two_bits = PackedTernary::from_trits(&context, &trits, rows, cols, scales).unwrap();
            let compact = PackedFiveTrits::from_packed_ternary(&context, &two_bits);
            let floats: Vec<f32> = (0..tokens * cols).map(|_| stream.normal() as f32).collect();
            let mut x = QuantizedRows::default();
            x.quantize(&context, &floats, tokens, cols);
            let (mut expected, mut found) = (vec![0.0; tokens * rows], vec![0.0; tokens * rows]);
            two_bits.matmul(&context, &x, tokens, &mut expected);
            compact.matmul(&context, &x, tokens, &mut found);
            assert!(expected == found, "{rows} x {cols}, {tokens} tokens");
        }
    }
}
