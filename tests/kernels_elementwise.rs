//! exp.h, softmax, cross entropy, activations, row norms and dropout: every ISA against obvious f64 code, the ISAs
//! against each other bit for bit, any size, misaligned, with canaries behind the outputs.

use hybridq::kernels::KernelTable;
use hybridq::tensor::RandomStream;

const SIZES: [usize; 12] = [0, 1, 7, 8, 15, 16, 17, 31, 32, 101, 257, 1031];
const CANARY: f32 = 123.456;

fn normals(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 99, 0, 0);
    (0..n).map(|_| stream.normal() as f32 * 3.0).collect()
}

/// Runs `kernel` on every ISA with outputs of the given lengths that start off any vector boundary and are followed by
/// canaries; all ISAs give the same bits. Returns the outputs.
fn on_every_isa<const N: usize>(
    lengths: [usize; N],
    start: impl Fn(usize, &mut [f32]),
    kernel: impl Fn(&KernelTable, [&mut [f32]; N]),
) -> [Vec<f32>; N] {
    let mut first: Option<[Vec<f32>; N]> = None;
    for table in KernelTable::available() {
        let mut outputs = lengths.map(|n| vec![CANARY; n + 9]);
        for (index, (output, n)) in outputs.iter_mut().zip(lengths).enumerate() {
            start(index, &mut output[1..n + 1]);
        }
        let mut lengths_left = lengths.iter();
        kernel(table, outputs.each_mut().map(|output| &mut output[1..lengths_left.next().unwrap() + 1]));
        let values = std::array::from_fn(|index| {
            let (output, n) = (&outputs[index], lengths[index]);
            assert!(output[0] == CANARY && output[n + 1..].iter().all(|&v| v == CANARY), "written outside the output");
            output[1..n + 1].to_vec()
        });
        let first = first.get_or_insert_with(|| values.clone());
        for (value, expected) in values.iter().flatten().zip(first.iter().flatten()) {
            let same = value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
            assert!(same, "{}: {value} is not portable's {expected}", table.isa().name());
        }
    }
    first.unwrap()
}

fn close(value: f32, expected: f64, scale: f64, what: &str) {
    let error = (f64::from(value) - expected).abs();
    assert!(error <= 2e-6 * scale.max(1e-3), "{what}: {value}, expected {expected}");
}

/// Distance from the true value in units of the last place of the f32 nearest to it.
fn ulps(value: f32, expected: f64) -> f64 {
    let ulp =
        f64::from(f32::from_bits((expected as f32).abs().to_bits().max(0x0080_0000) & 0x7f80_0000)) * 2f64.powi(-23);
    (f64::from(value) - expected).abs() / ulp
}

type Values = fn(&KernelTable, &[f32], &mut [f32]);
type Reference = fn(f64) -> f64;

/// The largest error in ulps over bit patterns `from..to` (every 997th, both signs if `signed`).
fn worst(kernel: Values, reference: Reference, from: f32, to: f32, signed: bool) -> f64 {
    let mut x: Vec<f32> = (from.to_bits()..to.to_bits()).step_by(997).map(f32::from_bits).collect();
    if signed {
        x.extend(x.clone().iter().map(|x| -x));
    }
    let [y] = on_every_isa([x.len()], |_, _| {}, |table, [y]| kernel(table, &x, y));
    x.iter().zip(&y).map(|(&x, &y)| ulps(y, reference(f64::from(x)))).fold(0.0, f64::max)
}

#[test]
fn exp_family_errors() {
    let found = [
        ("exp", worst(KernelTable::exp_values, f64::exp, 1e-30, 87.3, true), 1.1),
        ("log", worst(KernelTable::log_values, f64::ln, 1e-44, 3e38, false), 1.5),
        ("tanh", worst(KernelTable::tanh_values, f64::tanh, 1e-30, 30.0, true), 2.0),
        ("sigmoid", worst(KernelTable::sigmoid_values, |x| 1.0 / (1.0 + (-x).exp()), 1e-30, 87.0, true), 3.0),
    ];
    println!("largest errors in ulp: {found:?}");
    for (name, error, bound) in found {
        assert!(error <= bound, "{name}: {error} ulp");
    }
}

#[test]
fn exp_family_at_the_edges() {
    const INF: f32 = f32::INFINITY;
    let x = [-INF, -1e30, -200.0, -103.0, 0.0, -0.0, 88.7, 88.8, 1e30, INF, f32::NAN, 1e-45];
    let run = |kernel: Values| on_every_isa([x.len()], |_, _| {}, |table, [y]| kernel(table, &x, y))[0].clone();
    let exp = run(KernelTable::exp_values);
    assert_eq!((exp[0], exp[1], exp[2]), (0.0, 0.0, 0.0));
    assert!(exp[3] > 0.0 && exp[3] < 1e-44 && exp[4] == 1.0 && exp[5] == 1.0, "{exp:?}");
    assert!(exp[6].is_finite() && exp[7..10] == [INF; 3] && exp[10].is_nan() && exp[11] == 1.0, "{exp:?}");
    let log = run(KernelTable::log_values);
    assert!(log[..4].iter().all(|y| y.is_nan()) && log[4..6] == [-INF; 2], "{log:?}");
    assert!(log[9] == INF && log[10].is_nan() && (log[11] + 103.278_93).abs() < 1e-4, "{log:?}");
    let tanh = run(KernelTable::tanh_values);
    assert!(tanh[0] == -1.0 && tanh[9] == 1.0 && tanh[10].is_nan() && tanh[11] == 1e-45, "{tanh:?}");
    assert!(tanh[4].to_bits() == 0 && tanh[5].to_bits() == 1 << 31);
    let sigmoid = run(KernelTable::sigmoid_values);
    assert!(sigmoid[0] == 0.0 && sigmoid[4] == 0.5 && sigmoid[9] == 1.0 && sigmoid[10].is_nan(), "{sigmoid:?}");
}

#[test]
fn activations() {
    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }
    fn gelu(x: f64) -> f64 {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + u.tanh())
    }
    // x Phi(x) = x/2 erfc(-x / sqrt 2), erfc by Simpson's rule on the density.
    fn gelu_exact(x: f64) -> f64 {
        const STEPS: usize = 2000;
        let (density, h) =
            (|t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt(), x.abs() / STEPS as f64);
        let weight = |i: usize| if i == 0 || i == STEPS { 1.0 } else { [2.0, 4.0][i % 2] };
        let half = (0..=STEPS).map(|i| weight(i) * density(h * i as f64)).sum::<f64>() * h / 3.0;
        x * (0.5 + half * x.signum())
    }
    for n in SIZES {
        let (x, up) = (&normals(n + 1, 1)[1..], &normals(n, 2)[..]);
        let unary: [(Values, Reference); 3] = [
            (KernelTable::gelu, gelu),
            (KernelTable::gelu_exact, gelu_exact),
            (KernelTable::relu2, |x| x.max(0.0).powi(2)),
        ];
        for (kernel, reference) in unary {
            let [y] = on_every_isa([n], |_, _| {}, |table, [y]| kernel(table, x, y));
            y.iter().zip(x).for_each(|(&y, &x)| close(y, reference(x.into()), f64::from(x * x).max(1.0), "unary"));
        }
        let [silu] = on_every_isa([n], |_, _| {}, |table, [y]| table.silu_gate(x, up, y));
        let [relu] = on_every_isa([n], |_, _| {}, |table, [y]| table.relu2_gate(x, up, y));
        for i in 0..n {
            let (g, u) = (f64::from(x[i]), f64::from(up[i]));
            close(silu[i], g * sigmoid(g) * u, (g * u).abs(), "silu_gate");
            close(relu[i], g.max(0.0).powi(2) * u, (g * g * u).abs(), "relu2_gate");
        }
        // Gradients against differences of the f64 functions.
        let dy = &normals(n, 3)[..];
        let slope = |f: &dyn Fn(f64) -> f64, x: f64| (f(x + 1e-5) - f(x - 1e-5)) / 2e-5;
        let [of_gelu] = on_every_isa([n], |_, _| {}, |table, [dx]| table.gelu_backward(x, dy, dx));
        let [of_exact] = on_every_isa([n], |_, _| {}, |table, [dx]| table.gelu_exact_backward(x, dy, dx));
        let [of_relu] = on_every_isa([n], |_, _| {}, |table, [dx]| table.relu2_backward(x, dy, dx));
        let [of_gate, of_up] =
            on_every_isa([n, n], |_, _| {}, |table, [dg, du]| table.silu_gate_backward(x, up, dy, dg, du));
        let [relu_gate, relu_up] =
            on_every_isa([n, n], |_, _| {}, |table, [dg, du]| table.relu2_gate_backward(x, up, dy, dg, du));
        for i in 0..n {
            let (g, u, d) = (f64::from(x[i]), f64::from(up[i]), f64::from(dy[i]));
            let scale = 10.0 * d.abs().max(1.0) * u.abs().max(1.0) * g.abs().max(1.0);
            close(of_gelu[i], d * slope(&gelu, g), scale, "gelu_backward");
            close(of_exact[i], d * slope(&gelu_exact, g), scale, "gelu_exact_backward");
            close(of_relu[i], d * 2.0 * g.max(0.0), scale, "relu2_backward");
            close(of_gate[i], d * u * slope(&|g| g * sigmoid(g), g), scale, "silu_gate_backward");
            close(of_up[i], d * g * sigmoid(g), scale, "silu_gate_backward");
            close(relu_gate[i], d * u * 2.0 * g.max(0.0), scale, "relu2_gate_backward");
            close(relu_up[i], d * g.max(0.0).powi(2), scale * g.abs(), "relu2_gate_backward");
        }
    }
}

#[test]
fn cross_entropy() {
    for vocabulary in [1, 2, 15, 16, 17, 31, 255, 256, 257, 1031] {
        let x = normals(3 * vocabulary, 6);
        let targets = [0, (vocabulary / 2) as u32, (vocabulary - 1) as u32];
        let [gradient, losses, only_losses] = on_every_isa(
            [x.len(), 3, 3],
            |index, output| {
                if index == 0 {
                    output.copy_from_slice(&x);
                }
            },
            |table, [logits, losses, only_losses]| {
                table.cross_entropy_losses_rows(logits, vocabulary, &targets, only_losses);
                table.cross_entropy_rows(logits, vocabulary, &targets, losses, 0.25);
            },
        );
        assert_eq!(losses, only_losses);
        for (row, &target) in targets.iter().enumerate() {
            let logits = &x[row * vocabulary..][..vocabulary];
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            close(losses[row], sum.ln() - f64::from(logits[target as usize]), 20.0, "loss");
            for (c, &logit) in logits.iter().enumerate() {
                let onehot = if c == target as usize { 1.0 } else { 0.0 };
                close(gradient[row * vocabulary + c], 0.25 * (f64::from(logit).exp() / sum - onehot), 1.0, "gradient");
            }
        }
    }
}

#[test]
fn norms() {
    const ROWS: usize = 3;
    for width in &SIZES[1..] {
        let width = *width;
        let x: Vec<f32> = normals(ROWS * width, 7).iter().map(|x| x + 5.0).collect();
        let (gain, bias) = (normals(width, 8), normals(width, 9));
        let [y, inverses] = on_every_isa(
            [ROWS * width, ROWS],
            |_, _| {},
            |table, [y, inverses]| {
                table.rms_norm_rows(&x, &gain, 1e-5, y, inverses);
            },
        );
        let [centred, statistics] = on_every_isa(
            [ROWS * width, 2 * ROWS],
            |_, _| {},
            |table, [y, statistics]| {
                table.layer_norm_rows(&x, &gain, &bias, 1e-5, y, statistics);
            },
        );
        for row in 0..ROWS {
            let values: Vec<f64> = x[row * width..][..width].iter().map(|&x| x.into()).collect();
            let n = width as f64;
            let inverse = 1.0 / (values.iter().map(|x| x * x).sum::<f64>() / n + 1e-5f32 as f64).sqrt();
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let inverse_std = 1.0 / (variance + 1e-5f32 as f64).sqrt();
            close(inverses[row], inverse, inverse, "inverse rms");
            close(statistics[2 * row], mean, mean.abs(), "mean");
            for c in 0..width {
                let (g, b) = (f64::from(gain[c]), f64::from(bias[c]));
                close(y[row * width + c], values[c] * inverse * g, 10.0, "rms_norm");
                let expected = (values[c] - mean) * inverse_std * g + b;
                // The mean is rounded to f32, which tells where the row hardly varies.
                close(centred[row * width + c], expected, 10.0 + inverse_std, "layer_norm");
            }
        }
        // Backward: bits are equal on every ISA; values are checked in tests/gradients.rs.
        let dy = normals(x.len(), 10);
        let zero = |_: usize, output: &mut [f32]| output.fill(0.0);
        on_every_isa([x.len(), width], zero, |table, [dx, dgain]| {
            table.rms_norm_backward_rows(&x, &gain, &inverses, &dy, dx, dgain);
        });
        on_every_isa([x.len(), width, width], zero, |table, [dx, dgain, dbias]| {
            table.layer_norm_backward_rows(&x, &gain, &statistics, &dy, dx, dgain, dbias);
        });
    }
}

#[test]
fn fused_norm_is_norm_then_quantize() {
    for width in SIZES {
        for (case, spoiled) in [None, Some(f32::NAN), Some(f32::INFINITY), Some(0.0)].into_iter().enumerate() {
            let mut x = normals(4 * width, 20 + case as u64);
            let gain = normals(width, 30);
            if let Some(value) = spoiled {
                x[width.saturating_sub(1)..width].fill(value);
                x[width..2 * width].fill(0.0);
            }
            for table in KernelTable::available() {
                let (mut y, mut inverses) = (vec![0.0; x.len()], vec![0.0; 4]);
                table.rms_norm_rows(&x, &gain, 1e-6, &mut y, &mut inverses);
                let (mut values, mut scales, mut sums) = (vec![1i8; x.len()], vec![0.0; 4], vec![1i32; 4]);
                table.quantize_rows(&y, width, &mut values, &mut scales, &mut sums);
                let (mut fused, mut fused_scales, mut fused_sums) =
                    (vec![2i8; x.len() + 9], vec![1.0; 4], vec![2i32; 4]);
                let mut fused_inverses = vec![1.0; 4];
                table.rms_norm_quantize_rows(
                    &x,
                    &gain,
                    1e-6,
                    &mut fused[1..x.len() + 1],
                    &mut fused_scales,
                    &mut fused_sums,
                    &mut fused_inverses,
                );
                let bits = |values: &[f32]| {
                    values.iter().map(|v| if v.is_nan() { 0 } else { v.to_bits() }).collect::<Vec<_>>()
                };
                assert_eq!(values, fused[1..x.len() + 1]);
                assert!(fused[0] == 2 && fused[x.len() + 1..].iter().all(|&v| v == 2), "written outside the output");
                assert_eq!(bits(&scales), bits(&fused_scales));
                assert_eq!(sums, fused_sums);
                assert_eq!(bits(&inverses), bits(&fused_inverses));
            }
        }
    }
}

#[test]
fn dropout_draws_from_the_stream() {
    for n in SIZES {
        let x = normals(n, 40);
        let key = RandomStream::key(9, 30);
        let threshold = (0.3 * 4_294_967_296.0) as u32;
        let mut stream = RandomStream::new(9, 30, 5, 2);
        for _ in 0..64 {
            stream.next_u32();
        }
        let [y] = on_every_isa([n], |_, _| {}, |table, [y]| table.dropout(&x, key, 2, 5, 64, threshold, 2.0, y));
        for (&y, &x) in y.iter().zip(&x) {
            assert_eq!(y, if stream.next_u32() < threshold { 0.0 } else { x * 2.0 });
        }
    }
}
