//! The kernels of AdamW, SGD and steepest descent: against f64, on every ISA, at every awkward size, between canaries.

use hybridq::kernels::{AdamWSettings, KernelTable, SgdSettings, UpdateSums};
use hybridq::tensor::RandomStream;

const SIZES: &[usize] = &[0, 1, 15, 16, 17, 31, 511, 512, 513, 1021];
const CANARY: f32 = -12345.5;

const ADAMW: AdamWSettings = AdamWSettings {
    new_share1: 0.1,
    beta2: 0.95,
    new_share2: 0.05,
    epsilon: 1e-8,
    correction1: 2.9,
    correction2: 2.6,
    previous_correction1: 5.2,
    previous_correction2: 3.2,
    bias: 0.0,
};
const SGD: SgdSettings = SgdSettings { momentum: 0.9, weight_decay: 0.01, whole: 10.0, bias: 0.0 };

/// `n` values at an offset of `shift` floats with canaries on both sides.
fn guarded(n: usize, shift: usize, seed: u64, positive: bool) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 910, 0, 0);
    let mut values = vec![CANARY; n + shift + 3];
    for value in &mut values[shift..shift + n] {
        *value = stream.normal() as f32;
        *value = if positive { value.abs() } else { *value };
    }
    values
}

fn canaries_hold(values: &[f32], n: usize, shift: usize) -> bool {
    values[..shift].iter().chain(&values[shift + n..]).all(|&value| value == CANARY)
}

fn close(sums: UpdateSums, expected: [f64; 5]) {
    let scale = 1.0 + expected[0] + expected[1];
    let found =
        [sums.update_squares, sums.weight_squares, sums.update_weight, sums.gradient_update, sums.gradient_previous];
    for (found, expected) in found.into_iter().zip(expected) {
        assert!((found - expected).abs() <= 2e-6 * scale, "{found} {expected}");
    }
}

#[test]
fn adamw_on_every_isa() {
    for bias in [0.0, 0.5, -1.0] {
        let settings = AdamWSettings { bias, ..ADAMW };
        for &n in SIZES {
            for shift in [1, 3] {
                let within = shift..shift + n;
                let (g, w0) = (guarded(n, shift, 1, false), guarded(n, shift, 2, false));
                let (m0, v0) = (guarded(n, shift, 3, false), guarded(n, shift, 4, true));
                let mut first = None::<([Vec<f32>; 3], UpdateSums)>;
                for table in KernelTable::available() {
                    let (mut w, mut m, mut v) = (w0.clone(), m0.clone(), v0.clone());
                    let (gs, rows) = (&g[within.clone()], within.clone());
                    let sums = table.adamw_moments(
                        gs,
                        &w[rows.clone()],
                        &settings,
                        &mut m[rows.clone()],
                        &mut v[rows.clone()],
                    );
                    table.adamw_apply(gs, &m[rows.clone()], &v[rows.clone()], &settings, 0.99, 0.1, &mut w[rows]);
                    assert!([&w, &m, &v].iter().all(|values| canaries_hold(values, n, shift)));
                    let result = ([w, m, v], sums);
                    let first = first.get_or_insert_with(|| result.clone());
                    assert_eq!(*first, result, "{} differs from portable at n = {n}", table.isa().name());
                }
                let ([w, m, v], sums) = first.unwrap();
                let mut expected = [0.0; 5];
                for i in within {
                    let (g, m1, v1) = (f64::from(g[i]), f64::from(m0[i]), f64::from(v0[i]));
                    let direction = |m: f64, v: f64, c1: f32, c2: f32, b: f64| {
                        let mean = m * f64::from(c1);
                        (mean + b * (mean - g)) / (v.sqrt() * f64::from(c2) + 1e-8)
                    };
                    let (m2, v2) = (0.9 * m1 + 0.1 * g, 0.95 * v1 + 0.05 * g * g);
                    let previous = direction(m1, v1, 5.2, 3.2, 0.0);
                    let update = direction(m2, v2, 2.9, 2.6, f64::from(bias));
                    let old = f64::from(w0[i]);
                    assert!((f64::from(m[i]) - m2).abs() < 1e-6 && (f64::from(v[i]) - v2).abs() < 1e-6 * (1.0 + v2));
                    let new = old * 0.99 - 0.1 * update;
                    assert!((f64::from(w[i]) - new).abs() < 1e-5 * (1.0 + update.abs()), "{} {new}", w[i]);
                    let terms = [update * update, old * old, update * old, g * update, g * previous];
                    expected.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                }
                close(sums, expected);
            }
        }
    }
}

#[test]
fn sgd_on_every_isa() {
    for bias in [0.0, 0.5, -1.0] {
        let settings = SgdSettings { bias, ..SGD };
        for &n in SIZES {
            for shift in [1, 3] {
                let within = shift..shift + n;
                let (g, w0, v0) =
                    (guarded(n, shift, 1, false), guarded(n, shift, 2, false), guarded(n, shift, 3, false));
                let mut first: Option<(Vec<f32>, Vec<f32>, UpdateSums)> = None;
                for table in KernelTable::available() {
                    let (mut w, mut v) = (w0.clone(), v0.clone());
                    let gs = &g[within.clone()];
                    let sums = table.sgd_velocity(gs, &w[within.clone()], &settings, &mut v[within.clone()]);
                    table.sgd_apply(gs, &v[within.clone()], &settings, 0.1, &mut w[within.clone()]);
                    assert!(canaries_hold(&w, n, shift) && canaries_hold(&v, n, shift));
                    let result = (w, v, sums);
                    let first = first.get_or_insert_with(|| result.clone());
                    assert_eq!(*first, result, "{} differs from portable at n = {n}", table.isa().name());
                }
                let (w, v, sums) = first.unwrap();
                let mut expected = [0.0; 5];
                for i in within {
                    let (g, old, v1) = (f64::from(g[i]), f64::from(w0[i]), f64::from(v0[i]));
                    let decayed = g + 0.01 * old;
                    let v2 = 0.9 * v1 + decayed;
                    let update = v2 + f64::from(bias) * (v2 - 10.0 * decayed);
                    assert!((f64::from(v[i]) - v2).abs() < 1e-5);
                    assert!((f64::from(w[i]) - (old - 0.1 * update)).abs() < 1e-5);
                    let terms = [update * update, old * old, update * old, g * update, g * v1];
                    expected.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                }
                close(sums, expected);
            }
        }
    }
}

#[test]
fn steepest_on_every_isa() {
    for &n in SIZES {
        for shift in [1, 3] {
            let within = shift..shift + n;
            let [g, w0, m0, u0] = [1, 2, 3, 4].map(|seed| guarded(n, shift, seed, false));
            let mut first: Option<([Vec<f32>; 3], [UpdateSums; 2])> = None;
            for table in KernelTable::available() {
                let (mut w, mut m, mut u) = (w0.clone(), m0.clone(), u0.clone());
                let (gs, rows) = (&g[within.clone()], within.clone());
                let (momentum, update) = (&mut m[rows.clone()], &mut u[rows.clone()]);
                let before = table.steepest_momentum(gs, &w[rows.clone()], (0.05, -0.3), momentum, update);
                let after = table.steepest_sums(gs, &w[rows.clone()], update);
                table.steepest_apply(update, 0.99, 0.1, &mut w[rows]);
                assert!([&w, &m, &u].iter().all(|values| canaries_hold(values, n, shift)));
                let result = ([w, m, u], [before, after]);
                let first = first.get_or_insert_with(|| result.clone());
                assert_eq!(*first, result, "{} differs from portable at n = {n}", table.isa().name());
            }
            let ([w, m, u], [before, after]) = first.unwrap();
            let mut expected = [0.0; 5];
            for i in within {
                let [g, old, m1, u1] = [&g, &w0, &m0, &u0].map(|values| f64::from(values[i]));
                let m2 = m1 + 0.05 * (g - m1);
                let update = m2 - 0.3 * (m2 - g);
                assert!((f64::from(m[i]) - m2).abs() < 1e-6 && (f64::from(u[i]) - update).abs() < 1e-6);
                assert!((f64::from(w[i]) - (old * 0.99 - 0.1 * update)).abs() < 1e-6);
                let terms = [update * update, old * old, update * old, g * update, g * u1];
                expected.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            }
            let mut sums = before;
            sums += after;
            close(sums, expected);
        }
    }
}
