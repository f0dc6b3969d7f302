//! The kernels of AdamW, SGD, steepest descent and Newton-Schulz: against f64, on every ISA, at every awkward size, between canaries.

use hybridq::kernels::{AdamWSettings, KernelTable, SgdSettings, SymmetricFactor, UpdateSums};
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

/// The whole matrix of what is off the diagonal and on it.
fn element(off: &[f32], diagonal: &[f32], side: usize, i: usize, j: usize) -> f64 {
    f64::from(if i == j { diagonal[i] } else { off[i * side + j] })
}

#[test]
fn symmetric_products_are_finished_on_every_isa() {
    for side in [0, 1, 2, 15, 16, 17, 63, 64, 65, 97, 131] {
        let square = side * side;
        let symmetric = |seed| {
            let mut values = guarded(square, 1, seed, false);
            for (i, j) in (0..side).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                values[1 + j * side + i] = if i == j { 0.0 } else { values[1 + i * side + j] };
            }
            values
        };
        let ([a, b], [a_diagonal, b_diagonal, scales]) =
            ([1, 2].map(symmetric), [3, 4, 5].map(|seed| guarded(side, 1, seed, false)));
        // Above the diagonal there may be anything.
        let mut sums0 = guarded(square, 1, 6, false);
        (0..side).for_each(|i| sums0[1 + i * side + i + 1..1 + (i + 1) * side].fill(f32::NAN));
        for with_factors in [true, false] {
            let mut first = None::<[Vec<f32>; 2]>;
            for table in KernelTable::available() {
                let (mut sums, mut diagonal) = (sums0.clone(), guarded(side, 1, 7, false));
                let factors =
                    with_factors.then(|| {
                        [(&a, &a_diagonal, -0.5), (&b, &b_diagonal, 3.0)].map(|(off, diagonal, share)| {
                            SymmetricFactor { off: &off[1..=square], diagonal: &diagonal[1..=side], share }
                        })
                    });
                let (scales, out) = (&scales[1..=side], &mut sums[1..=square]);
                table.newton_schulz_finish(scales, factors, 0.7, out, &mut diagonal[1..=side]);
                assert!(canaries_hold(&sums, square, 1) && canaries_hold(&diagonal, side, 1));
                let result = [sums, diagonal];
                let first = first.get_or_insert_with(|| result.clone());
                assert_eq!(*first, result, "{} differs from portable at side {side}", table.isa().name());
            }
            let [sums, diagonal] = first.unwrap();
            let (sums, diagonal) = (&sums[1..=square], &diagonal[1..=side]);
            for (i, j) in (0..side).flat_map(|i| (0..side).map(move |j| (i, j))) {
                let (high, low) = (i.max(j), i.min(j));
                let mut expected = 0.7 * f64::from(sums0[1 + high * side + low]) * f64::from(scales[1 + low]);
                if with_factors {
                    let [a, b] = [&a, &b].map(|off| &off[1..=square]);
                    let [ad, bd] = [&a_diagonal, &b_diagonal].map(|diagonal| &diagonal[1..=side]);
                    let [of_a, of_b] = [(a, ad), (b, bd)].map(|(off, of)| element(off, of, side, i, j));
                    // What the integers did not multiply: a diagonal and the other's elements.
                    let with_diagonals = match i == j {
                        true => f64::from(ad[i]) * f64::from(bd[i]),
                        false => of_a * f64::from(bd[low]) + f64::from(ad[high]) * of_b,
                    };
                    expected += 0.7 * with_diagonals - 0.5 * of_a + 3.0 * of_b;
                }
                let found = element(sums, diagonal, side, i, j);
                assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{side}: {i} {j} {found} {expected}");
                assert!(i != j || sums[i * side + i] == 0.0);
            }
        }
    }
}

#[test]
fn columns_are_rounded_and_rows_added_on_every_isa() {
    for (rows, cols) in [(0, 3), (1, 1), (5, 15), (3, 64), (7, 65), (2, 200)] {
        let n = rows * cols;
        let (x0, of_sums, mut scales) =
            (guarded(n, 1, 1, false), guarded(cols, 1, 2, false), guarded(cols, 1, 3, true));
        scales[1..=cols].iter_mut().for_each(|scale| *scale = *scale * 0.01 + 0.05);
        scales[1] = 0.0;
        let mut first = None::<(Vec<i8>, Vec<f32>)>;
        for table in KernelTable::available() {
            let (mut codes, mut x) = (vec![99i8; n + 2], x0.clone());
            table.newton_schulz_round_columns(&x[1..=n], &scales[1..=cols], &mut codes[1..=n]);
            table.newton_schulz_add_rows(&x0[1..=n], &of_sums[1..=cols], &scales[1..=cols], &mut x[1..=n]);
            assert!(codes[0] == 99 && codes[n + 1] == 99 && canaries_hold(&x, n, 1));
            let result = (codes, x);
            let first = first.get_or_insert_with(|| result.clone());
            assert_eq!(*first, result, "{} differs from portable at {rows} x {cols}", table.isa().name());
        }
        let (codes, x) = first.unwrap();
        for i in 0..n {
            let [old, of_sums, scale] = [x0[1 + i], of_sums[1 + i % cols], scales[1 + i % cols]].map(f64::from);
            let exact = if scale > 0.0 { old / scale } else { 0.0 };
            assert!((f64::from(codes[1 + i]) - exact).abs() < 0.5001, "{} {exact}", codes[1 + i]);
            let expected = old * scale + old * of_sums;
            assert!((f64::from(x[1 + i]) - expected).abs() < 1e-6 * (1.0 + expected.abs()));
        }
    }
}
