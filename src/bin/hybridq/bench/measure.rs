//! Timing, memory, and buffers on pages of a known size.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use hybridq::dispatch::Context;
use hybridq::{Error, Result};

/// Fewest timed runs of a measurement.
const RUNS: usize = 5;
/// Runs longer than this are timed three times only.
const LONG: Duration = Duration::from_millis(400);

/// Median time of `work` in nanoseconds, after one run of warm-up, over at least five runs and `least` of time.
pub fn median_ns(least: Duration, work: impl FnMut()) -> f64 {
    median(&mut times_ns(least, work))
}

/// Shortest time: a ceiling is what the machine can do when nothing else disturbs it.
pub fn least_ns(least: Duration, work: impl FnMut()) -> f64 {
    times_ns(least, work).into_iter().fold(f64::INFINITY, f64::min)
}

fn times_ns(least: Duration, mut work: impl FnMut()) -> Vec<f64> {
    let start = Instant::now();
    work();
    let runs = if start.elapsed() > LONG { 3 } else { RUNS };
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < runs || begin.elapsed() < least {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    times
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Keeps all threads of `context` busy for a while: those that slept may share a core, another one idle, until the system's
/// scheduler moves them apart.
pub fn spread_threads(context: &Context) {
    let end = Instant::now() + Duration::from_millis(30);
    context.install(|| {
        rayon::broadcast(|_| {
            while Instant::now() < end {
                std::hint::black_box(context.kernels().ceiling_int8(1 << 10));
            }
        })
    });
}

/// The pages a buffer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pages {
    Small,
    Huge,
}

impl Pages {
    pub const ALL: [Pages; 2] = [Pages::Small, Pages::Huge];

    pub fn name(self) -> &'static str {
        match self {
            Pages::Small => "4K pages",
            Pages::Huge => "huge pages",
        }
    }
}

/// Zeroed memory on pages of one kind.
pub struct PageBuffer {
    map: memmap2::MmapMut,
}

impl PageBuffer {
    pub fn zeroed(bytes: usize, pages: Pages) -> Result<Self> {
        let fail = |error| Error::Unsupported(format!("{bytes} bytes of memory: {error}"));
        let map = memmap2::MmapMut::map_anon(bytes.max(1)).map_err(fail)?;
        #[cfg(target_os = "linux")]
        {
            let advice = match pages {
                Pages::Small => memmap2::Advice::NoHugePage,
                Pages::Huge => memmap2::Advice::HugePage,
            };
            // A kernel without huge pages gives small ones: the line then shows what that costs.
            let _ = map.advise(advice);
        }
        let _ = pages;
        Ok(PageBuffer { map })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    pub fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.map[..])
    }

    pub fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.map[..])
    }
}

/// Numbers that look random: element `i` of stream `seed`.
pub fn scrambled(seed: u32, i: usize) -> u32 {
    let mut x = (i as u32) ^ seed.wrapping_mul(0x9e37_79b9) ^ ((i >> 32) as u32).rotate_left(16);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Fills `out` with numbers between -1 and 1, about normally distributed (four added).
pub fn fill_floats(seed: u32, out: &mut [f32]) {
    for (i, value) in out.iter_mut().enumerate() {
        let sum: u32 = scrambled(seed, i).to_le_bytes().into_iter().map(u32::from).sum();
        // A little of the low bits, so that values differ in more than 1,021 places.
        *value = (sum as f32 - 510.0 + (i & 1023) as f32 / 1024.0 - 0.5) / 511.0;
    }
}

pub fn random_floats(seed: u32, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    fill_floats(seed, &mut out);
    out
}

pub fn random_bytes(seed: u32, n: usize) -> Vec<i8> {
    (0..n).map(|i| scrambled(seed, i) as i8).collect()
}
