//! BERT as GGUF files: what is exported computes the same when it is loaded. (llama.cpp itself: tests/llama_cpp_parity.rs.)

use std::path::Path;

use hybridq::data::Tokenizer;
use hybridq::formats::{GgufFile, GgufTensorData, GgufValue, write_gguf};
use hybridq::models::{Activation, GgufExportType, Head, Model, ModelConfig, default_labels, preset};
use hybridq::nn::{Batch, Executor, Mode, Precision};
use small_models::{context, ids};

mod small_models;

const TYPES: [GgufExportType; 5] =
    [GgufExportType::F32, GgufExportType::F16, GgufExportType::Q8_0, GgufExportType::Tq1_0, GgufExportType::Tq2_0];

fn encoder(head: Head, hidden_act: Activation, precision: Precision) -> Model {
    let config = ModelConfig {
        head,
        hidden_act,
        precision,
        labels: default_labels(if head.has_labels() { 3 } else { 2 }),
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        vocab_size: 37,
        max_position_embeddings: 23,
        initializer_range: 0.08,
        ..preset("bert").unwrap()
    };
    let mut model = Model::new(config, 11).unwrap();
    // Biases and gains start out all the same: make them differ.
    for id in model.store.ids() {
        if model.store.spec(id).shape.len() == 1 {
            let weight = model.store.weight_mut(id).iter_mut().enumerate();
            weight.for_each(|(i, value)| *value += 0.02 * ((i * 7 + id.index()) % 11) as f32);
        }
    }
    model.store.quantize(&context(2)).unwrap();
    model
}

fn outputs(model: &mut Model) -> Vec<f32> {
    let tokens = ids(9, 37, 3);
    let mut executor = Executor::new(&model.plan, Mode::Generate, tokens.len());
    let batch = Batch { tokens: &tokens, sequences: 1, length: tokens.len(), ..Batch::default() };
    executor.predict(&model.plan, &context(2), &mut model.store, batch).unwrap()
}

/// The largest difference, relative to the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0f32, |most, a| most.max(a.abs()));
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

fn written(model: &Model, path: &Path, kind: GgufExportType) -> GgufFile {
    let tokenizer = vec![("tokenizer.ggml.model".to_string(), GgufValue::String("none".into()))];
    model.export_gguf(&context(2), path, kind, tokenizer).unwrap();
    GgufFile::open(path).unwrap()
}

fn refusal(model: &Model, kind: GgufExportType) -> String {
    let folder = tempfile::tempdir().unwrap();
    model.export_gguf(&context(2), &folder.path().join("m.gguf"), kind, Vec::new()).unwrap_err().to_string()
}

#[test]
fn encoders_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let heads = [Head::HiddenStates, Head::None, Head::SequenceClassification, Head::Regression];
    for (number, head) in heads.into_iter().enumerate() {
        let act = if number % 2 == 0 { Activation::Gelu } else { Activation::GeluPytorchTanh };
        for precision in [Precision::F32, Precision::Ternary] {
            let mut original = encoder(head, act, precision);
            let expected = outputs(&mut original);
            for kind in TYPES {
                let ternary_type = matches!(kind, GgufExportType::Tq1_0 | GgufExportType::Tq2_0);
                let case = format!("{head:?} {precision} {}", kind.name());
                if ternary_type && precision == Precision::F32 {
                    assert!(refusal(&original, kind).contains("is in f32"), "{case}");
                    continue;
                }
                let path = folder.path().join(format!("{case}.gguf"));
                let mut loaded = Model::load_gguf(&context(2), &written(&original, &path, kind)).unwrap();
                let (found, wanted) = (&loaded.config, &original.config);
                assert_eq!((found.head, found.hidden_act), (head, act), "{case}");
                assert_eq!((&found.labels, found.type_vocab_size), (&wanted.labels, 2), "{case}");
                assert_eq!(found.precision == Precision::Ternary, ternary_type, "{case}");
                let bound = match (kind, precision) {
                    (GgufExportType::F32, Precision::F32) => 1e-6,
                    (GgufExportType::F16, Precision::F32) => 3e-3,
                    _ => 1e-1,
                };
                let off = difference(&expected, &outputs(&mut loaded));
                assert!(off <= bound, "{case}: outputs differ by {off}");
                let trainable = loaded.into_trainable(&context(2)).unwrap();
                assert!(trainable.store.check_weights().is_ok());
            }
        }
    }
    // The head for masked tokens stays behind: what is written are the hidden states.
    let masked = encoder(Head::MaskedLanguageModel, Activation::Gelu, Precision::F32);
    let file = written(&masked, &folder.path().join("masked.gguf"), GgufExportType::F32);
    let mut loaded = Model::load_gguf(&context(2), &file).unwrap();
    let mut alone = masked.with_head(Head::HiddenStates, Vec::new(), 1).unwrap();
    assert_eq!(loaded.config.head, Head::HiddenStates);
    assert!(outputs(&mut loaded) == outputs(&mut alone));
}

#[test]
fn encoders_that_llama_cpp_does_not_compute_are_refused() {
    let refused = |head, act| refusal(&encoder(head, act, Precision::F32), GgufExportType::F32);
    assert!(refused(Head::TokenClassification, Activation::Gelu).contains("llama.cpp has no TokenClassification"));
    assert!(refused(Head::SpanExtraction, Activation::Gelu).contains("llama.cpp has no SpanExtraction"));
    assert!(refused(Head::None, Activation::Relu).contains("llama.cpp computes GELU, not ReLU"));
    let folder = tempfile::tempdir().unwrap();
    let original = encoder(Head::SequenceClassification, Activation::Gelu, Precision::F32);
    let file = written(&original, &folder.path().join("m.gguf"), GgufExportType::F32);
    let without = |name: &'static str| {
        let entries = file.metadata().clone().into_iter().filter(|entry| entry.0 != name).collect::<Vec<_>>();
        let tensors = file.tensors().iter().filter(|tensor| tensor.name != name).map(|tensor| {
            let bytes = file.bytes(tensor).to_vec();
            GgufTensorData::new(tensor.name.as_str(), tensor.kind, &tensor.shape, move || Ok(bytes.clone()))
        });
        let path = folder.path().join("less.gguf");
        write_gguf(&path, &entries, &tensors.collect::<Vec<_>>()).unwrap();
        Model::load_gguf(&context(2), &GgufFile::open(path).unwrap()).unwrap_err().to_string()
    };
    assert!(without("bert.attention.causal").contains("bert.attention.causal: expected false, found None"));
    assert!(without("bert.pooling_type").contains("bert.pooling_type: expected 4 (rank), found None"));
    assert!(without("token_types.weight").contains("\"token_types.weight\": missing"));
    assert!(without("cls.bias").contains("\"cls.bias\": missing"));
    assert!(without("blk.1.attn_output_norm.bias").contains("missing"));
}

/// Headers with any byte changed, and vocabularies: a model, a tokenizer or an error.
#[test]
fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    std::fs::write(place("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n##s\n").unwrap();
    let words = Tokenizer::load(place("vocab.txt")).unwrap().gguf_metadata(8).unwrap();
    let config = ModelConfig {
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        vocab_size: 8,
        max_position_embeddings: 4,
        head: Head::SequenceClassification,
        ..preset("bert").unwrap()
    };
    let context = context(1);
    let model = Model::new(config, 1).unwrap();
    model.export_gguf(&context, &place("m.gguf"), GgufExportType::F16, words).unwrap();
    let file = GgufFile::open(place("m.gguf")).unwrap();
    let data = file.tensors().iter().map(|tensor| tensor.range.start).min().unwrap();
    let good = std::fs::read(place("m.gguf")).unwrap();
    let mut read = 0;
    for (at, change) in (0..data).flat_map(|at| [1u8, 0x80, 0xFF].map(|change| (at, change))) {
        let mut bytes = good.clone();
        bytes[at] ^= change;
        let _ = std::fs::remove_file(place("d.gguf"));
        std::fs::write(place("d.gguf"), bytes).unwrap();
        let Ok(file) = GgufFile::open(place("d.gguf")) else { continue };
        read += usize::from(Model::load_gguf(&context, &file).is_ok());
        if let Ok(tokenizer) = Tokenizer::from_gguf(&file) {
            let _ = tokenizer.encode("the thes");
        }
    }
    assert!(read > 0, "some changes do no harm");
}
