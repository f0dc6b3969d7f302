//! Timing, ceilings of the machine, and the lines of the report.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use hybridq::Result;
use hybridq::dispatch::Context;
use hybridq::kernels::{Activations, MatrixMut, panels_len};
use rayon::prelude::*;
use serde::Serialize;

/// Fewest timed runs of a measurement.
const RUNS: usize = 5;
/// A measurement of short runs goes on for this long.
const LEAST_TIME: Duration = Duration::from_millis(60);
/// Bytes read for the streaming ceiling: far beyond every cache.
const STREAM_BYTES: usize = 256 << 20;

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub family: &'static str,
    pub shape: String,
    pub isa: &'static str,
    pub threads: usize,
    /// None for a line that is no time.
    pub median_ns: Option<f64>,
    pub value: f64,
    pub unit: &'static str,
    /// The machine's limit in the same unit, measured in this run, where there is one.
    pub ceiling: Option<f64>,
    /// Largest deviation from the portable kernel, relative to the largest result.
    pub error: Option<f64>,
}

pub struct Report {
    json: bool,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Report { json }
    }

    pub fn line(&self, line: &Line) -> Result<()> {
        if self.json {
            return crate::write_stdout(&(serde_json::to_string(line).expect("plain numbers") + "\n"));
        }
        let of_ceiling = line
            .ceiling
            .map_or(String::new(), |ceiling| format!("  {:3.0} % of {ceiling:.1}", 100.0 * line.value / ceiling));
        let error = line.error.map_or(String::new(), |error| format!("  error {error:.1e}"));
        let time = line.median_ns.map_or(String::new(), |ns| format!("{ns:.0} ns"));
        crate::write_stdout(&format!(
            "{:17} {:42} {:11} {:2} threads  {time:>15}  {:>10.2} {}{of_ceiling}{error}\n",
            line.family, line.shape, line.isa, line.threads, line.value, line.unit
        ))
    }
}

/// Median time of `work` in nanoseconds, after one run of warm-up.
pub fn median_ns(work: impl FnMut()) -> f64 {
    median(&mut times_ns(work))
}

fn times_ns(mut work: impl FnMut()) -> Vec<f64> {
    work();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < RUNS || begin.elapsed() < LEAST_TIME {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    times
}

/// Shortest time: a ceiling is what the machine can do when nothing else disturbs it.
fn least_ns(work: impl FnMut()) -> f64 {
    times_ns(work).into_iter().fold(f64::INFINITY, f64::min)
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What this machine gives at best, on the context's threads.
pub struct Ceilings {
    /// Reading memory that is in no cache, GB/s.
    pub stream_gb_per_s: f64,
    /// int8 products whose operands lie in the first cache, with the best instruction set level, GOP/s (two a product).
    pub int8_gop_per_s: f64,
}

impl Ceilings {
    pub fn measure(context: &Context) -> Self {
        let words = vec![1u64; STREAM_BYTES / 8];
        let read = || {
            let sum: u64 = context.install(|| {
                let block = |block: &[u64]| block.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
                words.par_chunks(1 << 16).map(block).reduce(|| 0, u64::wrapping_add)
            });
            std::hint::black_box(sum);
        };
        let stream_gb_per_s = STREAM_BYTES as f64 / least_ns(read);
        // 64 outputs x 256 inputs: panels of 16 KiB beside 32 tokens of 8 KiB.
        const ROWS: usize = 64;
        const K: usize = 256;
        const TOKENS: usize = 32;
        const REPEATS: usize = 64;
        let kernels = context.kernels();
        let product = || {
            context.install(|| {
                (0..context.threads()).into_par_iter().for_each(|_| {
                    let (panels, x) = (vec![1u8; panels_len(K)], vec![1i8; TOKENS * K]);
                    let (scales, sums) = (vec![1.0; TOKENS], vec![K as i32; TOKENS]);
                    let mut y = vec![0i32; TOKENS * ROWS];
                    for _ in 0..REPEATS {
                        let x = Activations { values: &x, scales: &scales, sums: &sums };
                        kernels.panel_matmul_i32(&panels, K, x, MatrixMut::new(&mut y, TOKENS, ROWS));
                    }
                    std::hint::black_box(&y);
                });
            });
        };
        let operations = 2.0 * (ROWS * K * TOKENS * REPEATS * context.threads()) as f64;
        Ceilings { stream_gb_per_s, int8_gop_per_s: operations / least_ns(product) }
    }

    pub fn report(&self, report: &Report, context: &Context) -> Result<()> {
        let rows = [
            ("256 MiB read, best", self.stream_gb_per_s, "GB/s"),
            ("int8 products in cache, best", self.int8_gop_per_s, "GOP/s"),
        ];
        for (shape, value, unit) in rows {
            report.line(&Line {
                family: "ceiling",
                shape: shape.into(),
                isa: context.kernels().isa().name(),
                threads: context.threads(),
                median_ns: None,
                value,
                unit,
                ceiling: None,
                error: None,
            })?;
        }
        Ok(())
    }
}
