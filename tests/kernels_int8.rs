//! int8 products that sum over tokens: exact on every ISA, at every tail, at extreme values.

use hybridq::dispatch::{Context, ContextOptions};
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
    let mut c = start.clone();
    context.int8_matmul_tn(a, b, tokens, &scales, &mut c, accumulate);
    let expected = reference(a, b, tokens, &scales, &start, accumulate);
    assert!(c == expected, "{:?} {tokens} {m} {n}", context.kernels().isa());
}

#[test]
fn every_tail_on_every_isa() {
    for context in contexts(2) {
        for tokens in [0, 1, 2, 3, 4, 5, 31, 64] {
            for m in [1, 3, 4, 7, 8, 9, 17] {
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
        context.int8_matmul_tn(&vec![-128; tokens], &vec![-128; tokens], tokens, &[1.0], &mut c, true);
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
