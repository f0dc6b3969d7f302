//! `hybridq bench --suite kernels`.
#![forbid(unsafe_code)]

use hybridq::Result;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::{KernelTable, ternary_packed_len};
use hybridq::tensor::RandomStream;

use super::measure::{Ceilings, Line, Report, median_ns};

/// Rows and columns of the weight matrix: its 4 MiB at 2 bits are in no inner cache.
const SIDE: usize = 4096;
/// Floats of the element-wise kernels.
const ELEMENTS: usize = 1 << 20;

/// What the kernels work on.
struct Inputs {
    weights: Vec<f32>,
    packed: Vec<u8>,
}

pub fn run(report: &Report, context: &Context, ceilings: &Ceilings) -> Result<()> {
    let mut stream = RandomStream::new(1, 0, 0, 0);
    let weights: Vec<f32> = (0..SIDE * SIDE).map(|_| stream.uniform() as f32 - 0.5).collect();
    let mut packed = vec![0; ternary_packed_len(SIDE, SIDE)];
    context.ternary_repack(&weights, SIDE, SIDE, &[THRESHOLD], &mut packed);
    let inputs = Inputs { weights, packed };
    let reference = context_of(context, &KernelTable::available()[0])?;
    for table in KernelTable::available() {
        let context = context_of(context, table)?;
        let suite = Suite { report, context: &context, reference: &reference, ceilings, inputs: &inputs };
        suite.element_wise()?;
        suite.pack()?;
        for tokens in [1, 8, 32, 512] {
            suite.products(tokens)?;
        }
        suite.int8_matmul()?;
        suite.kmeans()?;
    }
    Ok(())
}

/// Zero for about a third of the uniform weights.
const THRESHOLD: f32 = 0.17;

fn context_of(context: &Context, table: &KernelTable) -> Result<Context> {
    Context::new(ContextOptions { threads: Some(context.threads()), isa: Some(table.isa()) })
}

struct Suite<'a> {
    report: &'a Report,
    context: &'a Context,
    reference: &'a Context,
    ceilings: &'a Ceilings,
    inputs: &'a Inputs,
}

impl Suite<'_> {
    fn line(
        &self,
        family: &'static str,
        shape: String,
        median_ns: f64,
        (value, unit, ceiling): (f64, &'static str, Option<f64>),
        error: Option<f64>,
    ) -> Result<()> {
        let (isa, threads) = (self.context.kernels().isa().name(), self.context.threads());
        let median_ns = Some(median_ns);
        self.report.line(&Line { family, shape, isa, threads, median_ns, value, unit, ceiling, error })
    }

    /// Activation quantization and norm clipping, by bytes of input.
    fn element_wise(&self) -> Result<()> {
        let x = &self.inputs.weights[..ELEMENTS];
        let rows = ELEMENTS / SIDE;
        let (mut values, mut scales, mut sums) = (vec![0i8; ELEMENTS], vec![0f32; rows], vec![0i32; rows]);
        let ns = median_ns(|| self.context.quantize_rows(x, SIDE, &mut values, &mut scales, &mut sums));
        let mut expected = vec![0i8; ELEMENTS];
        self.reference.quantize_rows(x, SIDE, &mut expected, &mut scales, &mut sums);
        let error = values.iter().zip(&expected).map(|(a, b)| f64::from(a.abs_diff(*b))).fold(0.0, f64::max) / 127.0;
        let gb = |ns: f64, bytes: usize| (bytes as f64 / ns, "GB/s", None);
        self.line("quantize", format!("int8 rows {rows} x {SIDE}"), ns, gb(ns, 4 * ELEMENTS), Some(error))?;

        // All 64 MiB of weights, so that memory is the limit: read, and read and written when clipped.
        let mut clipped = self.inputs.weights.clone();
        let norm = self.context.norm(&clipped);
        let expected = self.reference.norm(&clipped);
        let ns = median_ns(|| {
            self.context.clip_norm(&mut clipped, norm * 2.0);
        });
        let bytes = 4 * clipped.len();
        let of_stream = (bytes as f64 / ns, "GB/s", Some(self.ceilings.stream_gb_per_s));
        self.line("norm_clip", format!("{} floats", clipped.len()), ns, of_stream, Some((norm / expected - 1.0).abs()))
    }

    /// Quantizing and packing a weight matrix, by bytes of input.
    fn pack(&self) -> Result<()> {
        let mut packed = self.inputs.packed.clone();
        let ns = median_ns(|| {
            self.context.ternary_repack(&self.inputs.weights, SIDE, SIDE, &[THRESHOLD], &mut packed);
        });
        let wrong = packed.iter().zip(&self.inputs.packed).filter(|(a, b)| a != b).count();
        let error = wrong as f64 / packed.len() as f64;
        let speed = (4.0 * (SIDE * SIDE) as f64 / ns, "GB/s", Some(self.ceilings.stream_gb_per_s));
        self.line("pack", format!("2 bits {SIDE} x {SIDE}"), ns, speed, Some(error))
    }

    /// The product of two int8 matrices over tokens that gives the gradient of a weight matrix.
    fn int8_matmul(&self) -> Result<()> {
        const SIDE: usize = 1024;
        const TOKENS: usize = 2048;
        let mut stream = RandomStream::new(3, 0, 0, 0);
        let mut draw = || -> Vec<i8> { (0..TOKENS * SIDE).map(|_| stream.next_u32() as i8).collect() };
        let (a, b) = (draw(), draw());
        let scales = vec![1.0; SIDE];
        let (mut found, mut expected) = (vec![0.0; SIDE * SIDE], vec![0.0; SIDE * SIDE]);
        let ns = median_ns(|| self.context.int8_matmul_tn(&a, &b, TOKENS, &scales, &mut found, false));
        self.reference.int8_matmul_tn(&a, &b, TOKENS, &scales, &mut expected, false);
        let speed = 2.0 * (SIDE * SIDE * TOKENS) as f64 / ns;
        let limit = Some(self.ceilings.int8_gop_per_s);
        let shape = format!("{SIDE} x {SIDE} over {TOKENS} tokens");
        self.line("int8_matmul", shape, ns, (speed, "GOP/s", limit), Some(deviation(&found, &expected)))
    }

    /// One assignment of points to centroids.
    fn kmeans(&self) -> Result<()> {
        const POINTS: usize = 10_000;
        const DIM: usize = 64;
        const K: usize = 10;
        let points = &self.inputs.weights[..POINTS * DIM];
        let centroids = &self.inputs.weights[POINTS * DIM..(POINTS + K) * DIM];
        let mut labels = vec![0; POINTS];
        let (mut found, mut expected) = (vec![0.0; POINTS], vec![0.0; POINTS]);
        let assign = |context: &Context, labels: &mut [u32], distances: &mut [f32]| {
            context.kmeans_assign(points, POINTS, DIM, centroids, K, labels, distances);
        };
        let ns = median_ns(|| assign(self.context, &mut labels, &mut found));
        assign(self.reference, &mut labels, &mut expected);
        let speed = 2.0 * (POINTS * DIM * K) as f64 / ns;
        let shape = format!("{POINTS} x {DIM}, {K} centroids");
        self.line("kmeans", shape, ns, (speed, "GFLOP/s", None), Some(deviation(&found, &expected)))
    }

    /// Activations times weights, and the transposed product.
    fn products(&self, tokens: usize) -> Result<()> {
        let mut stream = RandomStream::new(2, 0, 0, 0);
        let x: Vec<i8> = (0..tokens * SIDE).map(|_| stream.next_u32() as i8).collect();
        let scales = vec![1.0f32; tokens];
        let sums: Vec<i32> = x.chunks_exact(SIDE).map(|row| row.iter().map(|&x| i32::from(x)).sum()).collect();
        let mut y = vec![0f32; tokens * SIDE];
        let mut expected = vec![0f32; tokens.min(8) * SIDE];
        let few = tokens.min(8);
        let (x8, scales8, sums8) = (&x[..few * SIDE], &scales[..few], &sums[..few]);
        let packed = &self.inputs.packed;
        let (reference, context) = (self.reference, self.context);
        let shape = || format!("{SIDE} x {SIDE}, {tokens} tokens");
        let operations = 2.0 * (SIDE * SIDE * tokens) as f64;
        let gop = |ns: f64| (operations / ns, "GOP/s", Some(self.ceilings.int8_gop_per_s));

        let ns = median_ns(|| context.ternary_matmul(packed, SIDE, SIDE, &[1.0], &x, &scales, &sums, &mut y));
        reference.ternary_matmul(packed, SIDE, SIDE, &[1.0], x8, scales8, sums8, &mut expected);
        let error = Some(deviation(&y, &expected));
        if tokens == 1 {
            // Each weight is used once: weights a nanosecond, limited by reading a quarter byte each.
            let limit = Some(4.0 * self.ceilings.stream_gb_per_s);
            let speed = ((SIDE * SIDE) as f64 / ns, "GW/s", limit);
            return self.line("ternary_matvec", shape(), ns, speed, error);
        }
        self.line("ternary_matmul", shape(), ns, gop(ns), error)?;

        let transposed = |context: &Context, x: &[i8], scales: &[f32], sums: &[i32], y: &mut [f32]| {
            context.ternary_matmul_transposed(packed, SIDE, SIDE, x, scales, sums, y);
        };
        let ns = median_ns(|| transposed(context, &x, &scales, &sums, &mut y));
        transposed(reference, x8, scales8, sums8, &mut expected);
        self.line("ternary_matmul_t", shape(), ns, gop(ns), Some(deviation(&y, &expected)))
    }
}

/// Largest difference over the first `expected.len()` elements, relative to the largest of them.
fn deviation(found: &[f32], expected: &[f32]) -> f64 {
    let largest = expected.iter().map(|value| value.abs()).fold(f32::MIN_POSITIVE, f32::max);
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    f64::from(difference / largest)
}
