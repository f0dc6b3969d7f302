//! Quantized gradients: norm, cosine and bias against f64 references.

use hybridq::Error;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::quant::{GradientDraw, GradientQuantizer, GradientRounding, quantize_gradients};
use hybridq::tensor::RandomStream;

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 901, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn quantizer(levels: u8, rounding: GradientRounding, clip_sigma: Option<f64>) -> GradientQuantizer {
    GradientQuantizer { levels, rounding, clip_sigma }
}

/// Cosines on a million Gaussian values: about 0.3 for max-normalised ternary, far better with clipping.
#[test]
fn deterministic_mode_keeps_the_norm_and_its_cosines_are_as_stated() {
    let ctx = context(2);
    let gradients = gaussian(1_000_000, 1);
    let mut found = Vec::new();
    for (levels, clip) in [(1, None), (1, Some(2.5)), (2, None), (2, Some(2.5)), (127, None)] {
        let mut quantized = gradients.clone();
        let quantizer = quantizer(levels, GradientRounding::Deterministic, clip);
        quantize_gradients(&ctx, &quantizer, GradientDraw::default(), &mut quantized).unwrap();
        let ratio = (dot(&quantized, &quantized) / dot(&gradients, &gradients)).sqrt();
        assert!((ratio - 1.0).abs() < 1e-6, "norm ratio {ratio}");
        found.push(cosine(&quantized, &gradients));
    }
    println!("cosines {found:.4?}");
    assert!((0.25..0.36).contains(&found[0]), "{found:?}");
    // Gaussian theory with threshold 1.25: 2 phi(1.25) / sqrt(2 Q(1.25)) = 0.795.
    assert!((found[1] - 0.795).abs() < 0.005, "{found:?}");
    assert!(found[2] > found[0] && found[3] > found[1] && found[4] > 0.999, "{found:?}");
}

#[test]
fn stochastic_mode_is_unbiased() {
    let ctx = context(2);
    let gradients = gaussian(1000, 2);
    let quantizer = quantizer(1, GradientRounding::Stochastic, None);
    let largest = gradients.iter().fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
    let draws = 2000;
    let mut mean = vec![0.0f64; gradients.len()];
    for step in 0..draws {
        let mut quantized = gradients.clone();
        let draw = GradientDraw { seed: 3, step, tensor: 7 };
        quantize_gradients(&ctx, &quantizer, draw, &mut quantized).unwrap();
        mean.iter_mut().zip(&quantized).for_each(|(m, &q)| *m += f64::from(q) / f64::from(draws));
    }
    // A draw has variance |g| * (max - |g|); six standard errors hold for every element, three for the mean of all.
    let mut total = (0.0, 0.0);
    for (&g, m) in gradients.iter().zip(&mean) {
        let variance = f64::from(g.abs()) * (largest - f64::from(g.abs())) / f64::from(draws);
        assert!((m - f64::from(g)).abs() <= 6.0 * variance.sqrt() + 1e-6, "{g}: mean {m}");
        total = (total.0 + m - f64::from(g), total.1 + variance);
    }
    assert!(total.0.abs() < 3.0 * total.1.sqrt(), "summed error {} of {}", total.0, total.1.sqrt());
}

#[test]
fn draws_depend_on_seed_step_and_tensor_only() {
    let gradients = gaussian(100_003, 4);
    let run = |threads: usize, seed: u64, step: u32, tensor: u32| {
        let mut quantized = gradients.clone();
        let quantizer = quantizer(2, GradientRounding::Stochastic, Some(2.5));
        quantize_gradients(&context(threads), &quantizer, GradientDraw { seed, step, tensor }, &mut quantized).unwrap();
        quantized
    };
    let first = run(1, 1, 2, 3);
    assert_eq!(first, run(2, 1, 2, 3));
    assert!(first != run(1, 2, 2, 3) && first != run(1, 1, 3, 3) && first != run(1, 1, 2, 4));
}

#[test]
fn edges_and_errors() {
    let ctx = context(1);
    let plain = GradientQuantizer::default();
    let run = |quantizer: &GradientQuantizer, gradients: &[f32]| {
        let mut quantized = gradients.to_vec();
        quantize_gradients(&ctx, quantizer, GradientDraw::default(), &mut quantized).map(|level| (level, quantized))
    };
    assert_eq!(run(&plain, &[]).unwrap(), (0.0, vec![]));
    assert_eq!(run(&plain, &[0.0; 3]).unwrap(), (0.0, vec![0.0; 3]));
    assert_eq!(run(&plain, &[-2.5]).unwrap().1, [-2.5]);
    // Threshold 1.5 of the largest, 3; the norm of (3, -2) comes back on two equal values.
    let (level, values) = run(&quantizer(1, GradientRounding::Deterministic, None), &[3.0, -2.0, 0.0]).unwrap();
    assert!((f64::from(level) - 6.5f64.sqrt()).abs() < 1e-6);
    assert_eq!(values, [level, -level, 0.0]);
    assert!(matches!(run(&plain, &[1.0, f32::NAN]), Err(Error::NonFinite { index: 1, .. })));
    for (levels, clip) in [(0, None), (128, None), (1, Some(0.0)), (1, Some(f64::NAN))] {
        assert!(run(&quantizer(levels, GradientRounding::Deterministic, clip), &[1.0]).is_err());
    }
}
