//! llama.cpp runs what is exported: the same token first, the same perplexity, the same ids of a text; of encoders the same
//! hidden states and scores.
//!
//! `HYBRIDQ_LLAMA_CPP_PYTHON` names a Python with `llama-cpp-python`, `HYBRIDQ_LLAMA_CPP_MODELS` the runs or model folders
//! (`:` between them; ternary, rows in multiples of 256) and `HYBRIDQ_LLAMA_CPP_TEXT` a text they can predict;
//! tests/peers/gguf.sh makes them. Encoders need the first only.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hybridq::data::Tokenizer;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::GgufFile;
use hybridq::models::{Activation, GgufExportType, Head, Model, ModelConfig, default_labels, preset};
use hybridq::nn::{Batch, Executor, Mode, Precision};
use hybridq::train::{export_gguf, open_model};

/// Tokens compared, in windows.
const TOKENS: usize = 2048;
const WINDOW: usize = 128;
/// Least share of positions where both put the same token first. (llama.cpp rounds activations by blocks of 256, we by
/// token.)
const AGREEMENT: f64 = 0.98;
/// Largest relative difference of perplexity.
const PERPLEXITY: f64 = 0.005;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Values of the variables `HYBRIDQ_LLAMA_CPP_...`; nothing, with a message, where one is not given.
fn setting<const N: usize>(names: [&str; N]) -> Option<[String; N]> {
    let values = names.map(|name| variable(&format!("HYBRIDQ_LLAMA_CPP_{name}")));
    let found = values.iter().all(Option::is_some).then(|| values.map(Option::unwrap_or_default));
    if found.is_none() {
        let names = names.join(",");
        eprintln!("SKIPPED: llama.cpp: HYBRIDQ_LLAMA_CPP_{{{names}}} are not set (see tests/peers/gguf.sh)");
        let required = std::env::var("HYBRIDQ_REQUIRE").is_ok_and(|list| list.split(',').any(|x| x == "llama-cpp"));
        assert!(!required, "HYBRIDQ_REQUIRE asks for llama-cpp");
    }
    found
}

/// A row of logits for each token; windows begin anew.
fn ours(context: &Context, model: &mut Model, tokens: &[u32]) -> Vec<f32> {
    let mut executor = Executor::new(&model.plan, Mode::Generate, 1);
    let mut cache = model.key_value_cache(1, WINDOW);
    let mut logits = Vec::with_capacity(tokens.len() * model.config.vocab_size);
    for window in tokens.chunks(WINDOW) {
        cache.clear();
        for token in window {
            let batch = Batch { tokens: &[*token], targets: &[], sequences: 1, length: 1, ..Batch::default() };
            let row = executor.generate(&model.plan, context, &mut model.store, batch, &mut cache).unwrap();
            logits.extend(row);
        }
    }
    logits
}

/// llama.cpp's logits of `tokens`, and its ids of `text`.
fn theirs(python: &str, file: &Path, tokens: &[u32], text: &str) -> (Vec<f32>, Vec<u32>) {
    let folder = tempfile::tempdir().unwrap();
    let (ids, out) = (folder.path().join("tokens"), folder.path().join("logits"));
    std::fs::write(&ids, bytemuck::cast_slice(tokens)).unwrap();
    let mut command = script(python, "llama_cpp_logits.py");
    command.args([file, &ids, &out]).arg(WINDOW.to_string());
    let printed = printed(command, text);
    let logits = std::fs::read(out).unwrap();
    let floats = logits.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    (floats, serde_json::from_slice(&printed).unwrap())
}

fn script(python: &str, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
    command
}

/// What a program prints that reads `text`.
fn printed(mut command: Command, text: &str) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// `-ln softmax(row)[target]`.
fn nats(row: &[f32], target: u32) -> f64 {
    let max = f64::from(row[argmax(row)]);
    let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    sum.ln() + max - f64::from(row[target as usize])
}

fn ids_of(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let ids = tokenizer.encode(text).unwrap();
    assert!(ids.len() > TOKENS, "the text has {} tokens, more than {TOKENS} are needed", ids.len());
    ids[..TOKENS + 1].to_vec()
}

#[test]
fn llama_cpp_computes_the_same() {
    let Some([python, models, text]) = setting(["PYTHON", "MODELS", "TEXT"]) else { return };
    let models: Vec<PathBuf> = std::env::split_paths(&models).collect();
    let text = String::from_utf8(std::fs::read(text).unwrap()).unwrap();
    let context = Context::new(ContextOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for path in models {
        let (mut model, tokenizer) = open_model(&context, &path).unwrap();
        let ids = ids_of(&tokenizer, &text);
        let (tokens, targets) = (&ids[..TOKENS], &ids[1..]);
        let expected = ours(&context, &mut model, tokens);
        for kind in [GgufExportType::Tq2_0, GgufExportType::Tq1_0, GgufExportType::Q8_0, GgufExportType::F16] {
            let file = folder.path().join(format!("{}.gguf", kind.name()));
            let _ = std::fs::remove_file(&file);
            let (_, bytes) = export_gguf(&context, &path, &file, kind).unwrap();
            let sample: String = text.chars().take(1000).collect();
            let (found, sample_ids) = theirs(&python, &file, tokens, &sample);
            assert_eq!(sample_ids, tokenizer.encode(&sample).unwrap(), "{}: ids of a text", path.display());
            assert_eq!(found.len(), expected.len());
            let vocabulary = model.config.vocab_size;
            let rows = expected.chunks(vocabulary).zip(found.chunks(vocabulary));
            let same = rows.filter(|(a, b)| argmax(a) == argmax(b)).count() as f64 / TOKENS as f64;
            let perplexity = |logits: &[f32]| {
                let nats = logits.chunks(vocabulary).zip(targets).map(|(row, &target)| nats(row, target));
                (nats.sum::<f64>() / TOKENS as f64).exp()
            };
            let (here, there) = (perplexity(&expected), perplexity(&found));
            let off = there / here - 1.0;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let line = format!(
                "{name:12} {:6} {bytes:9} bytes  same token first {:.2} %  perplexity {here:.4}, llama.cpp {there:.4} ({:+.2} %)",
                kind.name(),
                100.0 * same,
                100.0 * off
            );
            println!("{line}");
            if same < AGREEMENT || off.abs() > PERPLEXITY {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A vocabulary whose pieces make the texts below.
const PIECES: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ntea\n##s\nis\nhot\ncaf\n##e\nna\n##ive\n你\n好\n,\n.\n'\nit\nwe\nll\nth\n##erm\n##al\n";
const TEXTS: [&str; 6] = [
    "The thermal teas",
    "caf\u{e9} na\u{ef}ve, 你好.",
    "It's hot\t\u{a0}the  TEA",
    "we'll 你 x",
    "e\u{301} \u{feff}the",
    "",
];

/// Largest difference of an output, relative to the largest one, from what is computed here from the same file. llama.cpp
/// takes GELU's tanh form from a table in half precision, and rounds activations by blocks of 32 (Q8_0) or 256 (ternary
/// types), we by token or not at all.
fn bound(kind: GgufExportType) -> f32 {
    match kind {
        GgufExportType::F32 | GgufExportType::F16 => 5e-3,
        _ => 5e-2,
    }
}

#[test]
fn llama_cpp_computes_the_same_hidden_states_and_scores() {
    let Some([python]) = setting(["PYTHON"]) else { return };
    let context = Context::new(ContextOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("vocab.txt"), PIECES).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let cases = [
        (Head::HiddenStates, Activation::Gelu, Precision::F32),
        (Head::HiddenStates, Activation::GeluPytorchTanh, Precision::Ternary),
        (Head::SequenceClassification, Activation::GeluPytorchTanh, Precision::F32),
        (Head::SequenceClassification, Activation::Gelu, Precision::Ternary),
    ];
    let mut failures = Vec::new();
    for (head, hidden_act, precision) in cases {
        let config = ModelConfig {
            head,
            hidden_act,
            precision,
            labels: default_labels(if head.has_labels() { 3 } else { 2 }),
            hidden_size: 256,
            intermediate_size: 512,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            vocab_size: 30,
            max_position_embeddings: 64,
            initializer_range: 0.08,
            ..preset("bert").unwrap()
        };
        let mut model = Model::new(config, 5).unwrap();
        model.store.quantize(&context).unwrap();
        for kind in [
            GgufExportType::F32,
            GgufExportType::F16,
            GgufExportType::Q8_0,
            GgufExportType::Tq1_0,
            GgufExportType::Tq2_0,
        ] {
            if precision == Precision::F32 && matches!(kind, GgufExportType::Tq1_0 | GgufExportType::Tq2_0) {
                continue;
            }
            let file = folder.path().join("m.gguf");
            let _ = std::fs::remove_file(&file);
            model.export_gguf(&context, &file, kind, tokenizer.gguf_metadata(30).unwrap()).unwrap();
            let mut command = script(&python, "llama_cpp_embeddings.py");
            command.arg(&file);
            let found = printed(command, &TEXTS.join("\n"));
            let found: Vec<(Vec<u32>, Vec<f32>)> = serde_json::from_slice(&found).unwrap();
            let mut loaded = Model::load_gguf(&context, &GgufFile::open(&file).unwrap()).unwrap();
            let (mut worst, mut least_cosine) = (0f32, 1f64);
            for (text, (ids, values)) in TEXTS.iter().zip(&found) {
                assert_eq!(*ids, tokenizer.encode_prompt(text).unwrap(), "{text:?}");
                let batch = Batch { tokens: ids, sequences: 1, length: ids.len(), ..Batch::default() };
                let mut executor = Executor::new(&loaded.plan, Mode::Generate, ids.len());
                let expected = executor.predict(&loaded.plan, &context, &mut loaded.store, batch).unwrap();
                assert_eq!(values.len(), expected.len());
                let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
                let off = expected.iter().zip(values).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                worst = worst.max(off / largest);
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                let cosine = dot(&expected, values) / (dot(&expected, &expected) * dot(values, values)).sqrt();
                least_cosine = least_cosine.min(cosine);
            }
            let line = format!(
                "{head:?} {hidden_act:?} {precision} {:6} off {worst:.1e}, cosine {least_cosine:.6}",
                kind.name()
            );
            println!("{line}");
            if worst > bound(kind) {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
