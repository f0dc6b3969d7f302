//! Products that sum over tokens with a left factor in bf16: the sum of the contract, bit for bit, on every ISA and at every
//! tail; near the f64 sum of what was rounded.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::KernelTable;
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

fn contexts(threads: usize) -> Vec<Context> {
    let of = |table: &KernelTable| ContextOptions { threads: Some(threads), isa: Some(table.isa()) };
    KernelTable::available().iter().map(|table| Context::new(of(table)).unwrap()).collect()
}

/// Floats of many sizes.
fn floats(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 93, 0, 0);
    (0..n).map(|_| (stream.normal() * (6.0 * stream.uniform()).exp2()) as f32).collect()
}

fn bytes(n: usize, seed: u64) -> Vec<i8> {
    let mut stream = RandomStream::new(seed, 94, 0, 0);
    (0..n).map(|_| stream.next_u32() as i8).collect()
}

/// The contract: pairs of tokens, the odd one first, each sum rounded.
fn reference((m, n, k): (usize, usize, usize), a: &[f32], factors: &[f32], b: &[i8], accumulate: bool, c: &mut [f32]) {
    let rounded = |t: usize, i: usize| half::bf16::from_f32(a[t * m + i] * factors[t]).to_f32();
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0.0f32;
            for pair in (0..k).step_by(2) {
                for t in [pair + 1, pair].into_iter().filter(|&t| t < k) {
                    sum += rounded(t, i) * f32::from(b[t * n + j]);
                }
            }
            let c = &mut c[i * n + j];
            *c = if accumulate { *c + sum } else { sum };
        }
    }
}

fn check(context: &Context, shape: (usize, usize, usize), seed: u64, accumulate: bool) {
    let (m, n, k) = shape;
    // From odd places on.
    let (a, factors, b) = (floats(k * m + 1, seed), floats(k + 1, seed + 1), bytes(k * n + 1, seed + 2));
    let mut expected: Vec<f32> = floats(m * n, seed + 3);
    let mut found = expected.clone();
    reference(shape, &a[1..], &factors[1..], &b[1..], accumulate, &mut expected);
    context.bf16_matmul(shape, &a[1..], &factors[1..], &b[1..], accumulate, &mut found);
    let isa = context.kernels().isa().name();
    assert!(found == expected, "{isa}, {shape:?}, accumulate {accumulate}");
}

#[test]
fn every_tail_on_every_isa() {
    for context in contexts(2) {
        for k in [0, 1, 2, 3, 31, 64] {
            for m in [0, 1, 3, 4, 5, 6, 7, 13, 97] {
                for n in [0, 1, 15, 16, 17, 63, 64, 65, 131] {
                    check(&context, (m, n, k), 5, (m + n + k) % 2 == 0);
                }
            }
        }
    }
}

#[test]
fn threads_and_blocks_do_not_change_a_bit() {
    for threads in [1, 2, 3] {
        for context in contexts(threads) {
            check(&context, (300, 130, 70), 7, true);
        }
    }
}

/// Half to even, infinities and NaN; sums near the f64 ones of the rounded values.
#[test]
fn rounding_is_to_nearest() {
    for context in contexts(1) {
        let product = |value: f32| {
            let mut c = [0.0f32];
            context.bf16_matmul((1, 1, 1), &[value], &[1.0], &[1], false, &mut c);
            c[0]
        };
        let ulp = 2f32.powi(-7);
        for (value, expected) in [
            (1.0 + ulp / 2.0, 1.0),
            (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
            (1.0 + 0.51 * ulp, 1.0 + ulp),
            (-1.0 - 0.75 * ulp, -1.0 - ulp),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (0.0, 0.0),
        ] {
            assert_eq!(product(value), expected, "{value}");
        }
        assert!(product(f32::NAN).is_nan() && product(f32::from_bits(0x7F80_0001)).is_nan());
        let (m, n, k) = (5, 9, 4001);
        let (a, factors, b) = (floats(m * k, 1), vec![0.25; k], bytes(n * k, 2));
        let mut c = vec![0.0; m * n];
        context.bf16_matmul((m, n, k), &a, &factors, &b, false, &mut c);
        for i in 0..m {
            for j in 0..n {
                let terms = (0..k).map(|t| f64::from(a[t * m + i]) * 0.25 * f64::from(b[t * n + j]));
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                let bound = size * (2f64.powi(-9) + k as f64 * 2f64.powi(-24));
                assert!((f64::from(c[i * n + j]) - sum).abs() < bound, "{} {sum}", c[i * n + j]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn any_shape(k in 1usize..70, m in 1usize..40, n in 1usize..150, seed in 0u64..1 << 40) {
        for context in contexts(1) {
            check(&context, (m, n, k), seed, seed % 2 == 0);
        }
    }
}
