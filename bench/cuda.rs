//! Speeds on a CUDA device as JSON Lines, beside the bandwidth of a copy on the device measured in the same run. Medians of
//! batches timed by the host between synchronizations, each long enough for the launch to be lost in it.

use std::time::Instant;

use hybridq::dispatch::{Context, Lloyd};
use hybridq::gpu::{Device, DeviceActivations, DeviceBuffer, KmeansIteration, Packing, Stream};
use hybridq::tensor::RandomStream;

const BATCHES: usize = 9;
/// A batch lasts this long, at least.
const SECONDS: f64 = 0.03;

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

fn line(family: &str, shape: &str, seconds: f64, value: f64, unit: &str, ceiling: f64) {
    let value = serde_json::json!({
        "family": family, "shape": shape, "isa": "cuda", "median_ns": seconds * 1e9, "value": value, "unit": unit,
        "ceiling": ceiling, "share": value / ceiling,
    });
    println!("{value}");
}

/// `len` random bytes, made once and repeated: copies of a piece that exceeds no cache would be made slowly here.
fn random(stream: &Stream, len: usize) -> hybridq::Result<DeviceBuffer<i8>> {
    let mut draws = RandomStream::new(1, 0, 0, 0);
    let piece: Vec<i8> = (0..(1 << 22).min(len)).map(|_| draws.next_u32() as u8 as i8).collect();
    DeviceBuffer::from_slice(stream, &piece.iter().copied().cycle().take(len).collect::<Vec<i8>>())
}

fn floats(stream: &Stream, len: usize) -> hybridq::Result<DeviceBuffer<f32>> {
    let mut draws = RandomStream::new(2, 0, 0, 0);
    let piece: Vec<f32> =
        (0..(1 << 20).min(len)).map(|_| draws.next_u32() as f32 / (1u64 << 31) as f32 - 1.0).collect();
    DeviceBuffer::from_slice(stream, &piece.iter().copied().cycle().take(len).collect::<Vec<f32>>())
}

fn products(stream: &Stream, copy: f64) -> hybridq::Result<()> {
    let device = stream.device();
    // One token over stacked matrices of 256 MB and more; many tokens on one matrix.
    let shapes = [
        (4096 * 64, 4096, 1, Packing::TwoBits),
        (11008 * 24, 4096, 1, Packing::TwoBits),
        (4096 * 64, 4096, 1, Packing::FiveTrits),
        (4096, 4096, 8, Packing::TwoBits),
        (4096, 4096, 512, Packing::TwoBits),
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
            let family = if transposed { "ternary_matmul_t" } else { "ternary_matmul" };
            if tokens == 1 {
                let bytes = (packed.len() + rows * 4 + cols) as f64;
                line("ternary_matvec", &shape, seconds, bytes / seconds / 1e9, "GB/s", copy);
            } else {
                // The ceiling of int8 is cuda/verify.sh's to measure, with cuBLAS.
                let operations = 2.0 * (rows * cols * tokens) as f64;
                line(family, &shape, seconds, operations / seconds / 1e12, "TOP/s", f64::NAN);
            }
        }
    }
    Ok(())
}

fn streams_of_floats(stream: &Stream, copy: f64) -> hybridq::Result<()> {
    let device = stream.device();
    let n = 1 << 30;
    let mut x = floats(stream, n)?;
    // A read for the norm, a read and a write for the clip.
    let seconds = time(stream, &mut || stream.clip_norm(x.as_mut(), 1e-3).map(drop))?;
    line("norm_clip", "1G clipped", seconds, 12.0 * n as f64 / seconds / 1e9, "GB/s", copy);
    let seconds = time(stream, &mut || stream.sum_squares(x.as_ref()).map(drop))?;
    line("norm_clip", "1G norm", seconds, 4.0 * n as f64 / seconds / 1e9, "GB/s", copy);
    let (rows, cols) = (n / 4096, 4096);
    let threshold = DeviceBuffer::from_slice(stream, &[1e-4f32])?;
    for packing in [Packing::TwoBits, Packing::FiveTrits] {
        let mut packed = DeviceBuffer::new(&device, packing.bytes(rows, cols))?;
        let seconds = time(stream, &mut || {
            stream.quantize_pack(packing, x.as_ref(), (rows, cols), threshold.as_ref(), packed.as_mut())
        })?;
        let bytes = 4.0 * n as f64 + packed.len() as f64;
        line("quantize", &format!("{rows}x{cols} {packing:?}"), seconds, bytes / seconds / 1e9, "GB/s", copy);
    }
    let mut values = DeviceBuffer::<i8>::new(&device, n)?;
    let (mut scales, mut sums) = (DeviceBuffer::<f32>::new(&device, rows)?, DeviceBuffer::<i32>::new(&device, rows)?);
    let seconds =
        time(stream, &mut || stream.quantize_rows(x.as_ref(), cols, values.as_mut(), scales.as_mut(), sums.as_mut()))?;
    line("quantize_rows", &format!("{rows}x{cols}"), seconds, 5.0 * n as f64 / seconds / 1e9, "GB/s", copy);
    Ok(())
}

fn kmeans(stream: &Stream) -> hybridq::Result<()> {
    let (n, dim, k, device) = (1 << 20, 64, 256, stream.device());
    let (points, centroids) = (floats(stream, n * dim)?, floats(stream, k * dim)?);
    let mut labels = DeviceBuffer::<u32>::new(&device, n)?;
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
    let context = Context::new(hybridq::dispatch::ContextOptions { threads: Some(2), isa: None })?;
    let (mut host_points, mut host_centroids) = (vec![0.0; n * dim], vec![0.0; k * dim]);
    stream.download(points.as_ref(), &mut host_points)?;
    stream.download(centroids.as_ref(), &mut host_centroids)?;
    let mut lloyd = Lloyd::new(&context, &host_points, dim, k, false);
    let start = Instant::now();
    lloyd.assign(&host_centroids);
    let host = start.elapsed().as_secs_f64();
    // Here the ceiling is the CPU on two threads: value / ceiling is how many times faster the device is.
    line("kmeans", &format!("{n}x{dim} k {k}"), seconds, 1.0 / seconds, "iterations/s", 1.0 / host);
    Ok(())
}

fn run() -> hybridq::Result<()> {
    let device = Device::open(0)?;
    let stream = Stream::new(&device)?;
    eprintln!("{}", device.name());
    let len = 1 << 30;
    let (from, mut to) = (random(&stream, len)?, DeviceBuffer::<i8>::new(&device, len)?);
    let seconds = time(&stream, &mut || stream.copy(from.as_ref(), to.as_mut()))?;
    let copy = 2.0 * len as f64 / seconds / 1e9;
    line("copy", "1 GiB", seconds, copy, "GB/s", copy);
    drop((from, to));
    products(&stream, copy)?;
    kmeans(&stream)?;
    streams_of_floats(&stream, copy)
}

fn main() {
    if let Err(error) = run() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
