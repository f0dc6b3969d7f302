//! Results by plain loops in i64 and f64, at sampled places: nothing here calls a kernel.
#![forbid(unsafe_code)]

use crate::bench::measure::scrambled;

/// Places compared of a large result.
const SAMPLES: usize = 300;

/// `SAMPLES` numbers below `n`, the last one among them; all of a small `n`.
pub fn places(n: usize) -> Vec<usize> {
    if n <= SAMPLES {
        return (0..n).collect();
    }
    let spread = |i: usize| ((u64::from(scrambled(77, i)) * n as u64) >> 32) as usize;
    (0..SAMPLES - 1).map(spread).chain([n - 1]).collect()
}

/// Largest difference between pairs of found and expected, relative to the largest expected.
pub fn deviation(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut difference, mut largest) = (0.0f64, f64::MIN_POSITIVE);
    for (found, expected) in pairs {
        // A NaN must not pass for a small difference.
        let apart = (found - expected).abs();
        difference = if apart.is_nan() { f64::INFINITY } else { difference.max(apart) };
        largest = largest.max(expected.abs());
    }
    difference / largest
}

/// `sum a[i * a_step] * b[i * b_step]` over `n` terms, exact.
pub fn dot((a, a_step): (&[i8], usize), (b, b_step): (&[i8], usize), n: usize) -> f64 {
    let terms = a.iter().step_by(a_step).zip(b.iter().step_by(b_step)).take(n);
    terms.map(|(&a, &b)| i64::from(a) * i64::from(b)).sum::<i64>() as f64
}

/// Trits that look random, a third of each.
pub fn trits(seed: u32, n: usize) -> Vec<i8> {
    (0..n).map(|i| (scrambled(seed, i) % 3) as i8 - 1).collect()
}

/// Squared distance.
pub fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}
