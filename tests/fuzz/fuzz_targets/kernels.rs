#![no_main]
//! Kernels of every level this machine runs, through a context of one or two threads, at any shape: integer results must be
//! those of plain loops, and no call may touch a byte outside its buffers, which are exactly as long as it asks for.

use std::sync::OnceLock;

use hybridq::dispatch::{Context, ContextOptions, Int8Matrix};
use hybridq::kernels::{Activations, KernelTable, reference, ternary_packed_len};

/// A context for each level and for one and two threads.
fn contexts() -> &'static [Context] {
    static CONTEXTS: OnceLock<Vec<Context>> = OnceLock::new();
    CONTEXTS.get_or_init(|| {
        let levels = KernelTable::available().iter().map(|table| Some(table.isa()));
        let options = levels.flat_map(|isa| [1, 2].map(|threads| ContextOptions { threads: Some(threads), isa }));
        options.map(|options| Context::new(options).unwrap()).collect()
    })
}

/// Any bytes as values: those given, again and again, each time turned a little.
struct Values<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Values<'_> {
    fn next(&mut self) -> u8 {
        let len = self.bytes.len().max(1);
        let byte = self.bytes.get(self.at % len).copied().unwrap_or(0);
        self.at += 1;
        byte.wrapping_add(((self.at / len) as u8).wrapping_mul(29))
    }

    fn take<T>(&mut self, n: usize, of: impl Fn(u8) -> T) -> Vec<T> {
        (0..n).map(|_| of(self.next())).collect()
    }

    fn int8(&mut self, n: usize) -> Vec<i8> {
        self.take(n, |byte| byte as i8)
    }
}

fn sums(x: &[i8], k: usize, tokens: usize) -> Vec<i32> {
    (0..tokens).map(|t| x[t * k..(t + 1) * k].iter().map(|&v| i32::from(v)).sum()).collect()
}

fn floats(integers: &[i64]) -> Vec<f32> {
    integers.iter().map(|&v| v as f32).collect()
}

/// Packing both ways and every product of a ternary matrix `[rows, cols]`, with scales of 1: integers below 2^24, so exact.
fn ternary(rows: usize, cols: usize, tokens: usize, values: &mut Values<'_>) {
    let w = values.take(rows * cols, |byte| (byte % 3) as i8 - 1);
    let (x, dy) = (values.int8(tokens * cols), values.int8(tokens * rows));
    let (x_sums, dy_sums, ones) = (sums(&x, cols, tokens), sums(&dy, rows, tokens), vec![1.0f32; tokens]);
    let y_expected = floats(&reference::ternary_matmul(&w, &x, rows, cols, tokens));
    let dx_expected = floats(&reference::ternary_matmul_transposed(&w, &dy, rows, cols, tokens));
    for context in contexts() {
        let at = || format!("{:?} {rows} x {cols}, {tokens} tokens", context.kernels().isa());
        let mut packed = vec![0xEE; ternary_packed_len(rows, cols)];
        context.ternary_pack(&w, rows, cols, &mut packed);
        let mut five = vec![0xEE; KernelTable::pack5_bytes(rows, cols)];
        context.pack5(&w, rows, cols, &mut five);
        let mut trits = vec![99i8; rows * cols];
        context.ternary_unpack(&packed, rows, cols, &mut trits);
        assert!(trits == w, "unpack {}", at());
        trits.fill(99);
        context.unpack5(&five, rows, cols, &mut trits);
        assert!(trits == w, "unpack5 {}", at());
        let (mut y, mut dx) = (vec![f32::NAN; tokens * rows], vec![f32::NAN; tokens * cols]);
        context.ternary_matmul(&packed, rows, cols, &[1.0], &x, &ones, &x_sums, &mut y);
        assert!(y == y_expected, "product {}", at());
        y.fill(f32::NAN);
        let activations = Activations { values: &x, scales: &ones, sums: &x_sums };
        context.pack5_matmul(&five, rows, cols, &[1.0], activations, &mut y);
        assert!(y == y_expected, "product of five trits a byte {}", at());
        context.ternary_matmul_transposed(&packed, rows, cols, &dy, &ones, &dy_sums, &mut dx);
        assert!(dx == dx_expected, "transposed product {}", at());
    }
}

/// The sum over `k` of products of int8, both factors stored either way.
fn int8(m: usize, n: usize, k: usize, values: &mut Values<'_>) {
    let (a, b) = (values.int8(k * m), values.int8(k * n));
    let turned = |x: &[i8], width: usize| -> Vec<i8> { (0..k * width).map(|at| x[at % k * width + at / k]).collect() };
    let (a_rows, b_columns) = (turned(&a, m), turned(&b, n));
    let sum = |i: usize, j: usize| -> i64 { (0..k).map(|t| i64::from(a[t * m + i]) * i64::from(b[t * n + j])).sum() };
    let expected: Vec<f32> = (0..m * n).map(|at| sum(at / n, at % n) as f32).collect();
    let scales = vec![1.0; m];
    for context in contexts() {
        for a in [Int8Matrix::transposed(&a, m), Int8Matrix::new(&a_rows, k)] {
            for b in [Int8Matrix::new(&b, n), Int8Matrix::transposed(&b_columns, k)] {
                let mut c = vec![0.0; m * n];
                context.int8_matmul((m, n, k), a, b, &scales, true, &mut c, n);
                assert!(c == expected, "{:?} {m} x {n} x {k}", context.kernels().isa());
            }
        }
    }
}

/// Rounded rows: the same bytes, scales and sums at every level.
fn quantize(rows: usize, width: usize, values: &mut Values<'_>) {
    let x = values.take(rows * width, |byte| (f32::from(byte) - 128.0) * 0.013_7);
    let run = |context: &Context| {
        let mut rounded = (vec![99i8; rows * width], vec![f32::NAN; rows], vec![-1i32; rows]);
        context.quantize_rows(&x, width, &mut rounded.0, &mut rounded.1, &mut rounded.2);
        rounded
    };
    let expected = run(&contexts()[0]);
    for context in contexts() {
        assert!(run(context) == expected, "{:?} {rows} x {width}", context.kernels().isa());
    }
}

/// Nearest centroids of points with small integers for coordinates, whose distances are exact: ties go to the first.
fn kmeans(n: usize, dim: usize, k: usize, values: &mut Values<'_>) {
    let coordinate = |byte: u8| f32::from(byte % 16);
    let (points, centroids) = (values.take(n * dim, coordinate), values.take(k * dim, coordinate));
    let distance = |p: &[f32], c: &[f32]| -> f32 { p.iter().zip(c).map(|(p, c)| (p - c) * (p - c)).sum() };
    let nearest = |p: &[f32]| -> (u32, f32) {
        let of = |j: usize| (j as u32, distance(p, &centroids[j * dim..(j + 1) * dim]));
        (0..k).map(of).reduce(|best, next| if next.1 < best.1 { next } else { best }).unwrap()
    };
    let expected: Vec<(u32, f32)> = points.chunks_exact(dim).map(nearest).collect();
    for context in contexts() {
        let (mut labels, mut distances) = (vec![u32::MAX; n], vec![f32::NAN; n]);
        context.kmeans_assign(&points, n, dim, &centroids, k, &mut labels, &mut distances);
        for ((label, distance), expected) in labels.into_iter().zip(distances).zip(&expected) {
            let found = (label, distance);
            assert!(found == *expected, "{:?} {n} x {dim}, {k}: {found:?} for {expected:?}", context.kernels().isa());
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_at_checked(6) else { return };
    let rows = usize::from(head[1]);
    let cols = usize::from(u16::from_le_bytes([head[2], head[3]]) % 600);
    let depth = usize::from(head[4]) % 80;
    let values = &mut Values { bytes: rest, at: usize::from(head[5]) };
    match head[0] % 4 {
        0 => ternary(rows, cols, depth, values),
        1 => int8(rows, cols % 200, depth, values),
        2 => quantize(rows, cols, values),
        _ => kmeans(rows.max(1), cols % 100 + 1, depth + 1, values),
    }
});
