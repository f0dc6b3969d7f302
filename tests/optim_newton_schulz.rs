//! Newton-Schulz on int8 products: against the same polynomials in f64 and exact singular values, for matrices that are hard to
//! round; the same bits at every instruction set level.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::KernelTable;
use hybridq::optim::{NewtonSchulz, NewtonSchulzPrecision};

mod singular_values;
use singular_values::{normal, product, singular_values, transposed};

const LENGTH: f32 = 0.7;
/// Share of the length that a singular value may end above it or, of up to two iterations, below the band.
const TOLERANCE: f64 = 0.02;
/// The same of matrices whose rows differ in length a hundredfold.
const UNEVEN_TOLERANCE: f64 = 0.07;

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(1), isa: None }).unwrap()
}

fn int8(iterations: usize) -> NewtonSchulz {
    NewtonSchulz::new(iterations).with_precision(NewtonSchulzPrecision::Int8)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The polynomials of `newton_schulz` applied to `x` in f64, step by step: what is to be 1 becomes `LENGTH` over the most that any
/// value becomes.
fn in_f64(newton_schulz: &NewtonSchulz, x: &[f32], rows: usize, cols: usize) -> Vec<f64> {
    let (side, long) = (rows.min(cols), rows.max(cols));
    let x = if rows <= cols { wide(x) } else { transposed(&wide(x), rows, cols) };
    let gram = product(&x, &x, long);
    let bound = norm(&product(&gram, &gram, side)).powf(0.25);
    let mut x: Vec<f64> = x.iter().map(|x| 0.999 * x / bound).collect();
    let value = |mut s: f64| {
        for [a, b, c] in newton_schulz.coefficients() {
            s *= a + s * s * (b + s * s * c);
        }
        s
    };
    let most = (0..=100_000).map(|i| value(f64::from(i) / 1e5)).fold(0.0, f64::max);
    let count = newton_schulz.coefficients().len();
    for (index, [a, b, c]) in newton_schulz.coefficients().iter().enumerate() {
        // Between more than two polynomials there is room for what rounding adds.
        if count > 2 && index > 0 {
            x.iter_mut().for_each(|x| *x *= 0.97);
        }
        let gram = product(&x, &x, long);
        let square = product(&gram, &gram, side);
        let step: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
        let more = product(&step, &transposed(&x, side, long), side);
        x.iter_mut().zip(more).for_each(|(x, more)| *x = a * *x + more);
    }
    x.iter_mut().for_each(|x| *x *= f64::from(LENGTH) / most);
    if rows <= cols { x } else { transposed(&x, cols, rows) }
}

/// What singular values do, and how far the result is from that in f64, as a share of its norm.
fn check(name: &str, x: &[f32], rows: usize, cols: usize, iterations: usize, farthest: f64) {
    let newton_schulz = int8(iterations);
    let mut factor = x.to_vec();
    newton_schulz.orthogonalize(&context(), rows, cols, LENGTH, &mut factor);
    let (before, after) = (singular_values(x, rows, cols), singular_values(&factor, rows, cols));
    let exact = in_f64(&newton_schulz, x, rows, cols);
    let difference: Vec<f64> = factor.iter().zip(&exact).map(|(a, b)| f64::from(*a) - b).collect();
    let distance = norm(&difference) / norm(&exact);
    let length = f64::from(LENGTH);
    let bound = before.iter().map(|s| s.powi(8)).sum::<f64>().powf(0.125);
    // What is smaller is lost in rounding.
    let least_resolved = (1.05 * newton_schulz.least_resolved()).max(0.02);
    let resolved = before.iter().filter(|s| **s >= bound * least_resolved).count();
    let least = after[resolved.max(1) - 1] / length;
    println!(
        "{name}, {rows} x {cols}, {iterations}: {distance:.4} apart, largest {:.4}, least resolved {least:.4}",
        after[0] / length
    );
    assert!(after[0] <= length * (1.0 + TOLERANCE), "{name}: {} of {length}", after[0]);
    // More iterations lift rounding errors of smaller values.
    let below = [TOLERANCE, TOLERANCE, 0.05, 0.1, 0.1][iterations - 1];
    assert!(least >= 0.6 - below, "{name}: {least}");
    assert!(distance <= farthest, "{name}: {distance}");
}

#[test]
fn random_matrices_of_every_shape() {
    let shapes = [
        (1, 1),
        (1, 9),
        (9, 1),
        (2, 2),
        (5, 5),
        (7, 3),
        (3, 7),
        (31, 33),
        (64, 65),
        (65, 64),
        (67, 130),
        (129, 40),
        (150, 150),
    ];
    for (at, (rows, cols)) in shapes.into_iter().enumerate() {
        for (iterations, farthest) in [(1, 0.01), (2, 0.03), (3, 0.1), (5, 1.0)] {
            check("random", &normal(rows * cols, at as u64), rows, cols, iterations, farthest);
        }
    }
}

#[test]
fn matrices_that_are_hard_to_round() {
    let n = 96;
    let mut flat = normal(n * n, 20);
    NewtonSchulz::new(8).orthogonalize(&context(), n, n, 1.0, &mut flat);
    check("flat", &flat, n, n, 2, 0.02);
    let rows_from = |low: f32| -> Vec<f32> {
        flat.iter().enumerate().map(|(i, x)| x * low.powf((i / n) as f32 / (n - 1) as f32)).collect()
    };
    check("rows from 1 to 1e-4", &rows_from(1e-4), n, n, 2, 0.05);
    check(
        "columns from 1 to 1e-4",
        &transposed(&wide(&rows_from(1e-4)), n, n).iter().map(|&x| x as f32).collect::<Vec<_>>(),
        n,
        n,
        2,
        0.06,
    );
    // U S V^T with singular values that fall to 1e-4, in no direction that rows or columns know of.
    let mut other = normal(n * n, 21);
    NewtonSchulz::new(8).orthogonalize(&context(), n, n, 1.0, &mut other);
    let turned = product(&wide(&other), &transposed(&wide(&rows_from(1e-4)), n, n), n);
    check("singular values from 1 to 1e-4", &turned.iter().map(|&x| x as f32).collect::<Vec<_>>(), n, n, 2, 0.05);
    // Rank 5, and 5 and much noise.
    let (left, right) = (normal(70 * 5, 22), normal(110 * 5, 23));
    let low: Vec<f32> = product(&wide(&left), &wide(&right), 5).iter().map(|&x| x as f32).collect();
    check("rank 5", &low, 70, 110, 2, 0.1);
    let noisy: Vec<f32> = low.iter().zip(normal(70 * 110, 24)).map(|(x, noise)| x + 0.1 * noise).collect();
    check("rank 5 and noise", &noisy, 70, 110, 2, 0.1);
    // Small elements that together are the largest direction: beside the diagonal they would all round to zero.
    let together: Vec<f32> = (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.003 }).collect();
    check("identity and a constant", &together, n, n, 2, 0.05);
    let mut spike = normal(n * n, 25);
    spike[n + 3] = 300.0;
    check("one large element", &spike, n, n, 2, 0.05);
}

/// Gradients have a few large singular values and a long tail: polynomials made for a wide interval are steep at its end, where
/// rounding must not carry a value beyond it.
#[test]
fn no_number_of_iterations_grows_without_bound() {
    for (rows, cols) in [(96, 96), (60, 180), (180, 60)] {
        let side = rows.min(cols);
        // Rows of very different lengths, as those of heads that matter more than others.
        let uneven = normal(rows, 63);
        let orthogonal = |rows: usize, seed: u64| {
            let mut x = normal(rows * side, seed);
            NewtonSchulz::new(8).orthogonalize(&context(), rows, side, 1.0, &mut x);
            wide(&x)
        };
        let (left, right) = (orthogonal(rows, 60), orthogonal(cols, 61));
        for power in [0.5, 1.0, 1.5, 3.0] {
            let scaled = |(i, x): (usize, &f64)| {
                x * ((i % side + 1) as f64).powf(-power) * f64::from(1.2 * uneven[i / side]).exp()
            };
            let scaled: Vec<f64> = left.iter().enumerate().map(scaled).collect();
            let noise = normal(rows * cols, 62);
            for share in [0.0, 1e-4, 1e-2] {
                let x = product(&scaled, &right, side);
                let x: Vec<f32> =
                    x.iter().zip(&noise).map(|(x, noise)| (x + share * f64::from(*noise)) as f32).collect();
                for iterations in 1..=8 {
                    let mut factor = x.clone();
                    int8(iterations).orthogonalize(&context(), rows, cols, LENGTH, &mut factor);
                    let name = format!("{rows} x {cols}, power {power}, noise {share}, {iterations} iterations");
                    assert!(factor.iter().all(|x| x.is_finite()), "{name}");
                    let largest = singular_values(&factor, rows, cols)[0] / f64::from(LENGTH);
                    assert!(largest <= 1.0 + UNEVEN_TOLERANCE, "{name}: {largest}");
                }
            }
        }
    }
}

#[test]
fn zeros_single_rows_and_any_size() {
    let newton_schulz = int8(2);
    let mut zeros = vec![0.0; 15];
    newton_schulz.orthogonalize(&context(), 3, 5, 1.0, &mut zeros);
    assert_eq!(zeros, [0.0; 15]);
    newton_schulz.orthogonalize(&context(), 0, 3, 1.0, &mut []);
    let mut broken = vec![1.0, f32::NAN, 0.0, 2.0];
    newton_schulz.orthogonalize(&context(), 2, 2, 1.0, &mut broken);
    assert_eq!(broken, [0.0; 4]);
    // Longer than integer sums may be.
    check("long", &normal(2 * 131_073, 31), 2, 131_073, 2, 0.01);
    let mut rows = normal(40 * 30, 30);
    rows[60..90].fill(0.0);
    let mut expected = rows.clone();
    newton_schulz.orthogonalize(&context(), 40, 30, 1.0, &mut expected);
    assert!(expected.iter().all(|x| x.is_finite()) && expected[60..90] == [0.0; 30]);
    for scale in [1e-30f32, 1e-10, 1e10, 1e30] {
        let mut scaled: Vec<f32> = rows.iter().map(|x| x * scale).collect();
        newton_schulz.orthogonalize(&context(), 40, 30, 1.0, &mut scaled);
        let difference: Vec<f64> = scaled.iter().zip(&expected).map(|(a, b)| f64::from(a - b)).collect();
        assert!(norm(&difference) < 0.01 * norm(&wide(&expected)), "{scale}");
    }
}

/// Buffers are used again for other shapes; instruction sets do not change a bit.
#[test]
fn the_same_bits_everywhere() {
    let run = |isa| {
        let context = Context::new(ContextOptions { threads: Some(1), isa: Some(isa) }).unwrap();
        let newton_schulz = int8(2);
        let shapes = [(40, 70), (131, 70), (70, 70), (7, 300), (40, 70)];
        shapes.map(|(rows, cols)| {
            let mut x = normal(rows * cols, 40);
            newton_schulz.orthogonalize(&context, rows, cols, LENGTH, &mut x);
            x.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        })
    };
    let mut runs = KernelTable::available().iter().map(|table| (table.isa().name(), run(table.isa())));
    let (_, first) = runs.next().unwrap();
    assert_eq!(first[0], first[4]);
    for (name, found) in runs {
        assert!(found == first, "{name}");
    }
}
