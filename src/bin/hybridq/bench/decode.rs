//! `hybridq bench --suite decode`: token after token through a Llama of a billion random ternary weights.
//!
//! `bench/decode.sh` runs it beside llama.cpp on the same weights.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hybridq::data::Tokenizer;
use hybridq::dispatch::Context;
use hybridq::formats::{GgufFile, SafetensorsFile};
use hybridq::models::{Activation, GgufExportType, Model, ModelConfig, ModelType, preset};
use hybridq::nn::{Batch, Executor, Mode, ParamKind, ParamSpec, Precision};
use hybridq::quant::{PackedTernary, Q8Matrix, QuantizedRows, QuantizedWeight};
use hybridq::tensor::AlignedBuffer;
use hybridq::{Error, Result};

use super::measure::{median, median_ns, scrambled};
use super::record::{Line, Report};
use crate::process_memory::{peak_memory, reset_peak_memory, resident_memory};

/// Tokens read before the clock counts, and tokens timed.
const FIRST: usize = 16;
const TIMED: usize = 48;
/// Tokens of the prompt.
const PROMPT: usize = 512;
/// The largest id of a made-up text.
const IDS: u32 = 31_999;
/// Bytes of four trits.
const QUADS: u32 = 81;
/// Bytes of a megabyte of memory.
const MIB: f64 = (1 << 20) as f64;

fn config() -> Result<ModelConfig> {
    Ok(ModelConfig {
        model_type: ModelType::Llama,
        hidden_size: 2048,
        intermediate_size: 5632,
        num_hidden_layers: 22,
        num_attention_heads: 32,
        num_key_value_heads: 4,
        vocab_size: 32_000,
        max_position_embeddings: 2048,
        hidden_act: Activation::Silu,
        tie_word_embeddings: false,
        precision: Precision::Ternary,
        ..preset("small-llama")?
    })
}

pub fn run(report: &Report, context: &Context, keep: Option<&Path>) -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::io(std::env::temp_dir(), error))?;
    let kept = keep.map_or_else(|| folder.path().join("model.gguf"), Path::to_path_buf);
    let packed = folder.path().join("model.packed");
    let (isa, threads) = (context.kernels().isa().name(), context.threads());
    let line = |shape: String, value: f64, unit: &str| Line::plain("decode", shape, isa, threads, (value, unit));

    let mut model = Model::packed(config()?, 1, random_form)?;
    let elements = model.store.total_elements() as f64;
    let form = format!("llama {:.2} B", elements / 1e9);
    let metadata = Tokenizer::bytes().gguf_metadata(model.config.vocab_size)?;
    if !kept.exists() {
        model.export_gguf(context, &kept, GgufExportType::Tq2_0, metadata)?;
    }
    model.save_packed(context, &packed, Default::default())?;
    let alone = linear_layers_ns(context, &model)?;
    report.line(Line {
        median_ns: Some(alone),
        ..line(format!("{form}: linear layers alone"), 1e9 / alone, "tokens/s")
    })?;
    let each = one_by_one_ns(context, &mut model)?;
    let ceiling = Some(1e9 / alone);
    report.line(Line { median_ns: Some(each), ceiling, ..line(format!("{form}, 2 bits"), 1e9 / each, "tokens/s") })?;
    let prompt = prompt_ns(context, &mut model)?;
    let speed = PROMPT as f64 * 1e9 / prompt;
    report.line(Line { median_ns: Some(prompt), ..line(format!("{form}, prompt of {PROMPT}"), speed, "tokens/s") })?;
    drop(model);

    let size =
        |path: &Path| std::fs::metadata(path).map(|data| data.len() as f64).map_err(|error| Error::io(path, error));
    let open = || Model::load_packed(&Arc::new(SafetensorsFile::open(&packed)?));
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        drop(open()?);
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    let opening = median(&mut times);
    report.line(Line { median_ns: Some(opening), ..line("packed file: open".into(), opening / 1e9, "s") })?;
    report.line(line("packed file: smaller than f32".into(), 4.0 * elements / size(&packed)?, "times"))?;
    let mut model = open()?;
    let each = one_by_one_ns(context, &mut model)?;
    report.line(Line {
        median_ns: Some(each),
        ..line(format!("{form}, packed file, 1.6 bits"), 1e9 / each, "tokens/s")
    })?;
    drop(model);

    reset_peak_memory();
    let (before, start) = (resident_memory(), Instant::now());
    let mut model = Model::load_gguf(context, &GgufFile::open(&kept)?)?;
    let loading = start.elapsed().as_secs_f64() * 1e9;
    report.line(Line { median_ns: Some(loading), ..line("gguf tq2_0: load".into(), loading / 1e9, "s") })?;
    if let (Some(before), Some(peak)) = (before, peak_memory()) {
        let ratio = (peak - before) * MIB / size(&kept)?;
        report.line(Line {
            peak_mib: Some(peak),
            ..line("gguf tq2_0: peak memory of loading".into(), ratio, "x file")
        })?;
    }
    let each = one_by_one_ns(context, &mut model)?;
    report.line(Line { median_ns: Some(each), ..line(format!("{form}, gguf tq2_0"), 1e9 / each, "tokens/s") })
}

/// Random ternary layers, and tables of random int8 values.
fn random_form(spec: &ParamSpec) -> Result<Option<QuantizedWeight>> {
    let seed = spec.name.bytes().fold(7, |seed: u32, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let [rows, cols] = spec.shape[..] else { return Ok(None) };
    if spec.kind == ParamKind::Linear {
        // All sizes are whole blocks of the layout: a byte is four weights.
        let mut data = AlignedBuffer::zeroed(rows * cols / 4);
        for (i, byte) in data.iter_mut().enumerate() {
            let quad = scrambled(seed, i) % QUADS;
            let trit = |place: u32| quad / 3u32.pow(place) % 3;
            *byte = (0..4).fold(0, |byte, place| byte | (trit(place) << (2 * place))) as u8;
        }
        // Outputs of about the size of the inputs, in half precision exactly.
        let scale = (1.5 / cols as f32).sqrt();
        let scales = vec![half::f16::from_f32(scale).to_f32()];
        return Ok(Some(QuantizedWeight::Packed(PackedTernary { rows, cols, data, scales })));
    }
    let mut data = AlignedBuffer::zeroed(rows * cols / 32 * 34);
    for (block, bytes) in data.chunks_exact_mut(34).enumerate() {
        bytes[..2].copy_from_slice(&half::f16::from_f32(0.02 / 127.0).to_le_bytes());
        bytes[2..].iter_mut().enumerate().for_each(|(i, byte)| *byte = scrambled(seed, 32 * block + i) as u8);
    }
    Q8Matrix::from_bytes(&spec.name, data.into(), rows, cols).map(|matrix| Some(QuantizedWeight::Q8(matrix)))
}

/// A made-up id.
fn id(position: usize) -> u32 {
    scrambled(9, position) % IDS
}

/// Median time of a token behind [`FIRST`] others.
fn one_by_one_ns(context: &Context, model: &mut Model) -> Result<f64> {
    let mut executor = Executor::new(&model.plan, Mode::Generate, 1);
    let mut cache = model.key_value_cache(1, FIRST + TIMED);
    let mut times = Vec::new();
    for position in 0..FIRST + TIMED {
        let batch = Batch { tokens: &[id(position)], targets: &[], sequences: 1, length: 1, ..Batch::default() };
        let start = Instant::now();
        executor.generate(&model.plan, context, &mut model.store, batch, &mut cache)?;
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    Ok(median(&mut times[FIRST..]))
}

/// Time of a whole prompt.
fn prompt_ns(context: &Context, model: &mut Model) -> Result<f64> {
    let tokens: Vec<u32> = (0..PROMPT).map(id).collect();
    let mut executor = Executor::new(&model.plan, Mode::Generate, PROMPT);
    let mut cache = model.key_value_cache(1, PROMPT);
    let mut failure = None;
    let ns = median_ns(Duration::ZERO, || {
        cache.clear();
        let batch = Batch { tokens: &tokens, targets: &[], sequences: 1, length: PROMPT, ..Batch::default() };
        let read = executor.generate(&model.plan, context, &mut model.store, batch, &mut cache);
        failure = failure.take().or(read.err());
    });
    failure.map_or(Ok(ns), Err)
}

/// Median time of the products with all matrices, one after the other.
fn linear_layers_ns(context: &Context, model: &Model) -> Result<f64> {
    let forms: Vec<&QuantizedWeight> = model
        .store
        .ids()
        .filter(|&id| !model.store.spec(id).name.contains("embed"))
        .filter_map(|id| model.store.quantized(id))
        .collect();
    let width = forms.iter().map(|form| form.shape().1).max().unwrap_or(0);
    let floats: Vec<f32> = (0..width).map(|i| scrambled(3, i) as f32 / u32::MAX as f32 - 0.5).collect();
    let mut rows = QuantizedRows::default();
    rows.quantize(context, &floats, 1, width);
    let mut y = vec![0.0; forms.iter().map(|form| form.shape().0).max().unwrap_or(0)];
    Ok(median_ns(Duration::from_secs(1), || {
        context.install(|| {
            for form in &forms {
                let (outputs, inputs) = form.shape();
                match form {
                    QuantizedWeight::Packed(packed) => packed.matmul(context, &rows, 1, &mut y[..outputs]),
                    QuantizedWeight::FiveTrits(packed) => packed.matmul(context, &rows, 1, &mut y[..outputs]),
                    QuantizedWeight::Q8(matrix) => matrix.matvec(context, &floats[..inputs], &mut y[..outputs]),
                    QuantizedWeight::Dequantized { .. } => {}
                }
            }
        });
    }))
}
