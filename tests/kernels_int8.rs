//! int8 products that sum over tokens: exact on every ISA, at every tail, at extreme values.

use hybridq::dispatch::{Context, ContextOptions, Int8Matrix};
use hybridq::kernels::KernelTable;
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

fn values(n: usize, seed: u64) -> Vec<i8> {
    let mut stream = RandomStream::new(seed, 92, 0, 0);
    (0..n).map(|_| stream.next_u32() as i8).collect()
}

fn contexts(threads: usize) -> Vec<Context> {
    let of = |table: &KernelTable| ContextOptions { threads: Some(threads), isa: Some(table.isa()) };
    KernelTable::available().iter().map(|table| Context::new(of(table)).unwrap()).collect()
}

fn reference(a: &[i8], b: &[i8], tokens: usize, scales: &[f32], start: &[f32], accumulate: bool) -> Vec<f32> {
    let (m, n) = (scales.len(), start.len() / scales.len());
    let mut c = start.to_vec();
    for i in 0..m {
        for j in 0..n {
            let sum: i64 = (0..tokens).map(|t| i64::from(a[t * m + i]) * i64::from(b[t * n + j])).sum();
            let product = sum as f32 * scales[i];
            c[i * n + j] = if accumulate { c[i * n + j] + product } else { product };
        }
    }
    c
}

fn check(context: &Context, (tokens, m, n): (usize, usize, usize), a: &[i8], b: &[i8], accumulate: bool) {
    let scales: Vec<f32> = (0..m).map(|i| 0.01 * (i + 1) as f32).collect();
    let start: Vec<f32> = (0..m * n).map(|i| i as f32 - 7.0).collect();
    let expected = reference(a, b, tokens, &scales, &start, accumulate);
    let mut c = start.clone();
    tn(context, a, b, tokens, &scales, &mut c, accumulate);
    assert!(c == expected, "{:?} {tokens} {m} {n}", context.kernels().isa());
    // The other three forms of storage, with gaps between the rows; what lies in the gaps of the output stays.
    let (a_rows, b_rows) = (gapped(&transposed(a, tokens, m), tokens, 3), gapped(&transposed(b, tokens, n), tokens, 5));
    let (a_columns, b_columns) = (gapped(a, m, 2), gapped(b, n, 1));
    let a = [Int8Matrix::new(&a_rows, tokens + 3), Int8Matrix::transposed(&a_columns, m + 2)];
    let b = [Int8Matrix::new(&b_columns, n + 1), Int8Matrix::transposed(&b_rows, tokens + 5)];
    for (a, b) in a.into_iter().flat_map(|a| b.into_iter().map(move |b| (a, b))) {
        let mut c = gapped(&start, n, 4);
        context.int8_matmul((m, n, tokens), a, b, &scales, accumulate, &mut c, n + 4);
        let isa = context.kernels().isa();
        assert!(c == gapped(&expected, n, 4), "{isa:?} {m} {n} {tokens} {} {}", a.transposed, b.transposed);
    }
}

/// The transpose of `x` `[rows, cols]`.
fn transposed(x: &[i8], rows: usize, cols: usize) -> Vec<i8> {
    (0..rows * cols).map(|at| x[at % rows * cols + at / rows]).collect()
}

/// The rows of `x`, each followed by `gap` elements 7.
fn gapped<T: Copy + From<i8>>(x: &[T], width: usize, gap: usize) -> Vec<T> {
    if width == 0 {
        return Vec::new();
    }
    x.chunks(width).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(T::from(7), gap))).collect()
}

/// The product as a sum over rows of both factors, as weight gradients use it.
fn tn(context: &Context, a: &[i8], b: &[i8], tokens: usize, scales: &[f32], c: &mut [f32], accumulate: bool) {
    let (m, n) = (scales.len(), c.len() / scales.len());
    let (a, b) = (Int8Matrix::transposed(a, m), Int8Matrix::new(b, n));
    context.int8_matmul((m, n, tokens), a, b, scales, accumulate, c, n);
}

#[test]
fn every_tail_on_every_isa() {
    for context in contexts(2) {
        for tokens in [0, 1, 2, 3, 4, 5, 31, 64, 71] {
            for m in [1, 3, 4, 7, 8, 9, 17, 24, 53] {
                for n in [1, 15, 16, 17, 31, 47, 48, 49, 97] {
                    let (a, b) = (values(tokens * m + 1, 1), values(tokens * n + 1, 2));
                    check(&context, (tokens, m, n), &a[1..], &b[1..], (tokens + m + n) % 2 == 0);
                }
            }
        }
    }
}

#[test]
fn extreme_values_do_not_saturate_or_overflow() {
    for context in contexts(1) {
        let tokens = 65_536;
        for (x, y) in [(-128i8, -128i8), (-128, 127), (127, -128), (127, 127)] {
            check(&context, (tokens, 1, 1), &vec![x; tokens], &vec![y; tokens], false);
        }
    }
}

#[test]
fn long_sums_are_split() {
    let tokens = 140_000; // beyond what an i32 surely holds
    for context in contexts(1) {
        let mut c = [1.0f32];
        tn(&context, &vec![-128; tokens], &vec![-128; tokens], tokens, &[1.0], &mut c, true);
        let expected = 1.0 + 16384.0 * tokens as f32;
        assert!((c[0] - expected).abs() <= expected * 1e-6, "{} {expected}", c[0]);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (tokens, m, n) = (70, 300, 130);
    let (a, b) = (values(tokens * m, 3), values(tokens * n, 4));
    for threads in [1, 2] {
        for context in contexts(threads) {
            check(&context, (tokens, m, n), &a, &b, true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape(tokens in 1usize..70, m in 1usize..40, n in 1usize..110, seed: u64) {
        for context in contexts(1) {
            check(&context, (tokens, m, n), &values(tokens * m, seed), &values(tokens * n, !seed), seed % 2 == 0);
        }
    }
}
