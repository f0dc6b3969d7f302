//! llama.cpp runs what is exported: the same token first, the same perplexity, the same ids of a text.
//!
//! `HYBRIDQ_LLAMA_CPP_PYTHON` names a Python with `llama-cpp-python`, `HYBRIDQ_LLAMA_CPP_MODELS` the runs or model folders
//! (`:` between them; ternary, rows in multiples of 256) and `HYBRIDQ_LLAMA_CPP_TEXT` a text they can predict;
//! tests/peers/gguf.sh makes them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hybridq::data::Tokenizer;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::models::{GgufExportType, Model};
use hybridq::nn::{Batch, Executor, Mode};
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

/// Python, models and text; nothing, with a message, where they are not given.
fn setting() -> Option<(String, Vec<PathBuf>, PathBuf)> {
    let found = || {
        let models = variable("HYBRIDQ_LLAMA_CPP_MODELS")?;
        let text = variable("HYBRIDQ_LLAMA_CPP_TEXT")?;
        Some((variable("HYBRIDQ_LLAMA_CPP_PYTHON")?, std::env::split_paths(&models).collect(), text.into()))
    };
    let found = found();
    if found.is_none() {
        eprintln!("SKIPPED: llama.cpp: HYBRIDQ_LLAMA_CPP_{{PYTHON,MODELS,TEXT}} are not set (see tests/peers/gguf.sh)");
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
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/llama_cpp_logits.py");
    let mut command = Command::new(python);
    command.arg(script).args([file, &ids, &out]).arg(WINDOW.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{python} {}", file.display());
    let logits = std::fs::read(out).unwrap();
    let floats = logits.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    (floats, serde_json::from_slice(&output.stdout).unwrap())
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
    let Some((python, models, text)) = setting() else { return };
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
