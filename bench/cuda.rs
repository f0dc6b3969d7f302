//! Speeds on a CUDA device as JSON Lines, beside the bandwidth of a copy on the device measured in the same run. Medians of
//! batches timed by the host between synchronizations, each long enough for the launch to be lost in it.
//!
//! `cuda [CUBLAS]`: the file holds cuBLAS's speeds as cuda/verify.sh writes them, the ceilings of the products. A line with a
//! `target` says the least `share` of the ceiling that is wanted; all of them are told once more at the end.

use std::cell::RefCell;
use std::time::Instant;

use hybridq::dispatch::{Context, ContextOptions, Lloyd, calibrate};
use hybridq::gpu::{Device, DeviceActivations, DeviceBuffer, KmeansIteration, Packing, Stream};
use hybridq::tensor::RandomStream;
use serde_json::Value;

const BATCHES: usize = 9;
/// A batch lasts this long, at least.
const SECONDS: f64 = 0.03;

/// Least shares of the ceilings.
const MATVEC: Option<f64> = Some(0.80);
const MATMUL: Option<f64> = Some(1.3);
const FLOATS: Option<f64> = Some(0.85);
const KMEANS: Option<f64> = Some(20.0);

type Run<'a> = &'a mut dyn FnMut() -> hybridq::Result<()>;

/// Median seconds of one `run`.
fn time(stream: &Stream, run: Run<'_>) -> hybridq::Result<f64> {
    let mut batch = |count: usize| -> hybridq::Result<f64> {
        stream.synchronize()?;
        let start = Instant::now();
        (0..count).try_for_each(|_| run())?;
        stream.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / count as f64)
    };
    batch(1)?;
    let count = ((SECONDS / batch(1)?).ceil() as usize).clamp(1, 10_000);
    let mut times = (0..BATCHES).map(|_| batch(count)).collect::<hybridq::Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[BATCHES / 2])
}

thread_local! {
    /// What was wanted and what was found, a line each.
    static TARGETS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A speed in `unit`, what it is a share of, and the least share wanted.
#[derive(Clone, Copy)]
struct Speed {
    seconds: f64,
    value: f64,
    unit: &'static str,
    ceiling: f64,
    target: Option<f64>,
}

fn line(family: &str, shape: &str, speed: Speed) {
    let Speed { seconds, value, unit, ceiling, target } = speed;
    let share = value / ceiling;
    let text = serde_json::json!({
        "family": family, "shape": shape, "isa": "cuda", "median_ns": seconds * 1e9, "value": value, "unit": unit,
        "ceiling": ceiling, "share": share, "target": target,
    });
    println!("{text}");
    if let Some(target) = target {
        let verdict = match share >= target {
            _ if share.is_nan() => "NOT MEASURED",
            true => "met",
            false => "MISSED",
        };
        let line = format!(
            "{family:16} {shape:34} {value:9.1} {unit:12} {share:6.2} of the ceiling, wanted {target}: {verdict}"
        );
        TARGETS.with_borrow_mut(|targets| targets.push(line));
    }
}

/// cuBLAS's speeds: product kind, rows, columns, tokens, and the trillions of operations a second.
struct Cublas(Vec<Value>);

impl Cublas {
    fn read(path: Option<String>) -> Self {
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        Cublas(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Of one shape; NaN where it was not measured.
    fn of(&self, kind: &str, rows: usize, cols: usize, tokens: usize) -> f64 {
        let same = |line: &&Value| {
            line["kind"] == kind && line["rows"] == rows && line["cols"] == cols && line["tokens"] == tokens
        };
        self.0.iter().find(same).and_then(|line| line["value"].as_f64()).unwrap_or(f64::NAN)
    }

    /// The fastest int8 product of any shape.
    fn int8_peak(&self) -> f64 {
        let all = self.0.iter().filter(|line| line["kind"] == "int8").filter_map(|line| line["value"].as_f64());
        all.fold(f64::NAN, f64::max)
    }
}

/// `len` values, a piece of random ones repeated: more would take the host longer than the device takes for all of this.
fn repeated<T: bytemuck::Pod>(stream: &Stream, piece: &[T], len: usize) -> hybridq::Result<DeviceBuffer<T>> {
    let mut values = piece.repeat(len.div_ceil(piece.len()));
    values.truncate(len);
    DeviceBuffer::from_slice(stream, &values)
}

fn random(stream: &Stream, len: usize) -> hybridq::Result<DeviceBuffer<i8>> {
    let mut draws = RandomStream::new(1, 0, 0, 0);
    let piece: Vec<i8> = (0..1 << 22).map(|_| draws.next_u32() as u8 as i8).collect();
    repeated(stream, &piece, len)
}

/// From -1 to 1.
fn random_floats(len: usize, seed: u32) -> Vec<f32> {
    let mut draws = RandomStream::new(2, 0, 0, seed);
    (0..len).map(|_| draws.next_u32() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

fn floats(stream: &Stream, len: usize) -> hybridq::Result<DeviceBuffer<f32>> {
    repeated(stream, &random_floats(1 << 22, 0), len)
}

fn products(stream: &Stream, copy: f64, cublas: &Cublas) -> hybridq::Result<()> {
    let device = stream.device();
    // One token over stacked matrices of 256 MB and more; many tokens on one matrix.
    let shapes = [
        (4096 * 64, 4096, 1, Packing::TwoBits),
        (11008 * 24, 4096, 1, Packing::TwoBits),
        (4096 * 64, 4096, 1, Packing::FiveTrits),
        (4096, 4096, 8, Packing::TwoBits),
        (4096, 4096, 512, Packing::TwoBits),
        (11008, 4096, 512, Packing::TwoBits),
        (4096, 4096, 4096, Packing::TwoBits),
        (11008, 4096, 4096, Packing::TwoBits),
    ];
    for (rows, cols, tokens, packing) in shapes {
        let trits = random(stream, rows * cols)?;
        let mut packed = DeviceBuffer::new(&device, packing.bytes(rows, cols))?;
        stream.pack(packing, trits.as_ref(), (rows, cols), packed.as_mut())?;
        let (x, scales) = (random(stream, tokens * cols.max(rows))?, floats(stream, tokens)?);
        let sums = DeviceBuffer::from_slice(stream, &vec![0i32; tokens])?;
        let weight_scale = DeviceBuffer::from_slice(stream, &[1.0f32])?;
        let mut y = DeviceBuffer::<f32>::new(&device, tokens * rows.max(cols))?;
        for transposed in [false, true] {
            if transposed && tokens < 64 {
                continue;
            }
            let (k, outputs) = if transposed { (rows, cols) } else { (cols, rows) };
            let values = x.as_ref().first(tokens * k);
            let activations = DeviceActivations { values, scales: scales.as_ref(), sums: sums.as_ref() };
            let seconds = time(stream, &mut || {
                let (packed, y) = (packed.as_ref(), y.as_mut().first(tokens * outputs));
                if transposed {
                    stream.ternary_matmul_transposed(packed, (rows, cols), activations, y)
                } else {
                    stream.ternary_matmul(packing, packed, (rows, cols), weight_scale.as_ref(), activations, y)
                }
            })?;
            let shape = format!("{rows}x{cols} tokens {tokens} {packing:?}");
            if tokens == 1 {
                let value = (packed.len() + rows * 4 + cols) as f64 / seconds / 1e9;
                let target = if packing == Packing::TwoBits { MATVEC } else { None };
                line("ternary_matvec", &shape, Speed { seconds, value, unit: "GB/s", ceiling: copy, target });
            } else {
                let family = if transposed { "ternary_matmul_t" } else { "ternary_matmul" };
                let target = if transposed || tokens < 64 { None } else { MATMUL };
                product_line(family, &shape, seconds, (rows, cols, tokens), cublas, target);
            }
        }
    }
    Ok(())
}

/// Beside cuBLAS in bf16 on the same shape, and beside its fastest int8 product.
fn product_line(
    family: &str,
    shape: &str,
    seconds: f64,
    (rows, cols, tokens): (usize, usize, usize),
    cublas: &Cublas,
    target: Option<f64>,
) {
    let value = 2.0 * (rows * cols * tokens) as f64 / seconds / 1e12;
    let speed = Speed { seconds, value, unit: "TOP/s", ceiling: cublas.of("bf16", rows, cols, tokens), target };
    line(family, &format!("{shape}, of bf16"), speed);
    line(family, &format!("{shape}, of int8 peak"), Speed { ceiling: cublas.int8_peak(), target: None, ..speed });
}

/// Weight gradients: `tokens` summed over.
fn weight_gradients(stream: &Stream, cublas: &Cublas) -> hybridq::Result<()> {
    for (tokens, m, n) in [(4096, 4096, 4096), (512, 4096, 4096)] {
        let (a, b) = (random(stream, tokens * m)?, random(stream, tokens * n)?);
        let scales = floats(stream, m)?;
        let mut c = DeviceBuffer::<f32>::new(&stream.device(), m * n)?;
        let shape = (tokens, m, n);
        let seconds = time(stream, &mut || {
            stream.int8_matmul_tn(a.as_ref(), b.as_ref(), shape, scales.as_ref(), false, c.as_mut())
        })?;
        product_line("int8_matmul", &format!("{m}x{n} tokens {tokens}"), seconds, (m, n, tokens), cublas, None);
    }
    Ok(())
}

fn streams_of_floats(stream: &Stream, copy: f64) -> hybridq::Result<()> {
    let device = stream.device();
    let n = 1 << 30;
    let mut x = floats(stream, n)?;
    let at = |seconds: f64, bytes: f64, target| Speed {
        seconds,
        value: bytes / seconds / 1e9,
        unit: "GB/s",
        ceiling: copy,
        target,
    };
    let seconds = time(stream, &mut || stream.sum_squares(x.as_ref()).map(drop))?;
    line("norm_clip", "1G norm", at(seconds, 4.0 * n as f64, FLOATS));
    // A read for the norm, a read and a write for the clip: each call clips, to a little less than the one before.
    let mut most = stream.sum_squares(x.as_ref())?.sqrt();
    let (mut calls, mut clipped) = (0, 0);
    let seconds = time(stream, &mut || {
        most *= 0.999;
        let norm = stream.clip_norm(x.as_mut(), most)?;
        (calls, clipped) = (calls + 1, clipped + usize::from(norm > most));
        Ok(())
    })?;
    assert_eq!(calls, clipped, "calls that clipped nothing were timed");
    line("norm_clip", "1G clipped", at(seconds, 12.0 * n as f64, FLOATS));
    let (rows, cols) = (n / 4096, 4096);
    // A third of the values are zeros.
    let most = x.as_ref().first(1 << 22);
    let mut some = vec![0.0; 1 << 22];
    stream.download(most, &mut some)?;
    let threshold = some.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 3.0;
    let threshold = DeviceBuffer::from_slice(stream, &[threshold])?;
    for packing in [Packing::TwoBits, Packing::FiveTrits] {
        let mut packed = DeviceBuffer::new(&device, packing.bytes(rows, cols))?;
        let seconds = time(stream, &mut || {
            stream.quantize_pack(packing, x.as_ref(), (rows, cols), threshold.as_ref(), packed.as_mut())
        })?;
        let bytes = 4.0 * n as f64 + packed.len() as f64;
        let target = if packing == Packing::TwoBits { FLOATS } else { None };
        line("quantize", &format!("{rows}x{cols} {packing:?}"), at(seconds, bytes, target));
    }
    let mut values = DeviceBuffer::<i8>::new(&device, n)?;
    let (mut scales, mut sums) = (DeviceBuffer::<f32>::new(&device, rows)?, DeviceBuffer::<i32>::new(&device, rows)?);
    let seconds =
        time(stream, &mut || stream.quantize_rows(x.as_ref(), cols, values.as_mut(), scales.as_mut(), sums.as_mut()))?;
    line("quantize_rows", &format!("{rows}x{cols}"), at(seconds, 5.0 * n as f64, None));
    Ok(())
}

fn kmeans(stream: &Stream) -> hybridq::Result<()> {
    let (n, dim, k, device) = (1 << 20, 64, 256, stream.device());
    let (host_points, host_centroids) = (random_floats(n * dim, 1), random_floats(k * dim, 2));
    let points = DeviceBuffer::from_slice(stream, &host_points)?;
    let centroids = DeviceBuffer::from_slice(stream, &host_centroids)?;
    let mut labels = DeviceBuffer::from_slice(stream, &vec![u32::MAX; n])?;
    let (mut sums, mut counts) = (DeviceBuffer::<f64>::new(&device, k * dim)?, DeviceBuffer::<u64>::new(&device, k)?);
    let seconds = time(stream, &mut || {
        let step = KmeansIteration {
            points: points.as_ref(),
            dim,
            centroids: centroids.as_ref(),
            labels: labels.as_mut(),
            sums: sums.as_mut(),
            counts: counts.as_mut(),
        };
        stream.kmeans_iteration(step).map(drop)
    })?;
    let context = Context::new(ContextOptions { threads: Some(2), isa: None })?;
    let mut host = f64::INFINITY;
    for _ in 0..3 {
        let mut lloyd = Lloyd::new(&context, &host_points, dim, k, false);
        let start = Instant::now();
        lloyd.assign(&host_centroids);
        host = host.min(start.elapsed().as_secs_f64());
        let mut found = vec![0; n];
        stream.download(labels.as_ref(), &mut found)?;
        assert_eq!(found, lloyd.labels(), "labels");
    }
    // The ceiling is the CPU on two threads: the share is how many times faster the device is.
    let speed = Speed { seconds, value: 1.0 / seconds, unit: "iterations/s", ceiling: 1.0 / host, target: KMEANS };
    line("kmeans", &format!("{n}x{dim} k {k}, of 2 threads"), speed);
    Ok(())
}

/// What the dispatcher learns of this machine: costs of copies, rates of both sides.
fn dispatcher() -> hybridq::Result<()> {
    let config = calibrate(&Context::new(Default::default())?, |_| Ok(()))?;
    eprintln!("thresholds learned:\n{}", config.to_toml());
    assert!(config.cuda.is_some(), "the device was not learned");
    Ok(())
}

fn run() -> hybridq::Result<bool> {
    let cublas = Cublas::read(std::env::args().skip(1).find(|argument| !argument.starts_with("--")));
    let device = Device::open(0)?;
    let stream = Stream::new(&device)?;
    eprintln!("{}", device.name());
    let len = 1 << 30;
    let (from, mut to) = (random(&stream, len)?, DeviceBuffer::<i8>::new(&device, len)?);
    let seconds = time(&stream, &mut || stream.copy(from.as_ref(), to.as_mut()))?;
    let copy = 2.0 * len as f64 / seconds / 1e9;
    line("copy", "1 GiB", Speed { seconds, value: copy, unit: "GB/s", ceiling: copy, target: None });
    drop((from, to));
    // What fails says so, and the rest is measured all the same.
    let parts: [(&str, &dyn Fn() -> hybridq::Result<()>); 5] = [
        ("products", &|| products(&stream, copy, &cublas)),
        ("weight gradients", &|| weight_gradients(&stream, &cublas)),
        ("k-means", &|| kmeans(&stream)),
        ("floats", &|| streams_of_floats(&stream, copy)),
        ("dispatcher", &dispatcher),
    ];
    let mut all = true;
    for (name, part) in parts {
        if let Err(error) = part() {
            eprintln!("{name}: {error}");
            all = false;
        }
    }
    TARGETS.with_borrow(|targets| targets.iter().for_each(|target| eprintln!("{target}")));
    Ok(all)
}

fn main() {
    match run() {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
