//! Quantizers of weights against obvious f64 references, and the errors on Gaussian data.

use hybridq::Error;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::quant::{
    Granularity, OutputScale, PackedTernary, Precision, QuantizedTensor, QuantizedWeight, Quantizer, Quantizer158Bit,
    ScaleRule, compression_ratio, distortion,
};
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 900, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

/// `levels * scale`, the nearest level to `w` (the lower on ties), in f64.
fn nearest(w: f32, levels: &[f64], scale: f64) -> f64 {
    let distance = |level: &f64| (f64::from(w) - level * scale).abs();
    levels.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap() * scale
}

fn levels(precision: Precision) -> Vec<f64> {
    let integers = |n: i32| (-n..=n).map(f64::from).collect();
    match precision {
        Precision::Ternary => integers(1),
        Precision::Binary => vec![-1.0, 1.0],
        Precision::FiveLevel => vec![-1.0, -0.5, 0.0, 0.5, 1.0],
        Precision::Int2 => vec![-1.5, -0.5, 0.5, 1.5],
        Precision::Int4 => integers(7),
        Precision::Int8 => integers(127),
        Precision::F32 => unreachable!(),
    }
}

const GRIDS: [Precision; 6] =
    [Precision::Binary, Precision::Ternary, Precision::Int2, Precision::FiveLevel, Precision::Int4, Precision::Int8];

/// Mean squared error relative to the variance 1 of the published figures, here on a million seeded values.
#[test]
fn errors_on_gaussian_weights_are_the_published_ones() {
    let ctx = context(2);
    let weights = gaussian(1 << 20, 1);
    let error = |quantizer: Quantizer| {
        let tensor = quantizer.quantize(&ctx, &weights, 4096, 256).unwrap();
        tensor.mean_squared_error(&ctx, &weights)
    };
    let ternary = Quantizer::new(Precision::Ternary);
    let five = Quantizer::new(Precision::FiveLevel);
    let cases = [
        (ternary, 0.263),
        (ternary.least_squares(), 0.213),
        (five.scale_rule(ScaleRule::AbsMean { factor: 1.0 }), 0.240),
        (five, 0.082),
        (Quantizer::new(Precision::Binary), 0.363),
        (Quantizer::new(Precision::Int2), 0.119),
    ];
    for (quantizer, expected) in cases {
        let found = error(quantizer);
        assert!((found - expected).abs() < 0.0015, "{quantizer:?}: {found:.4}, expected {expected}");
    }
    let stated = GRIDS.map(|precision| {
        let rows = matches!(precision, Precision::Int4 | Precision::Int8);
        let granularity = if rows { Granularity::Row } else { Granularity::Tensor };
        let found = error(Quantizer::new(precision).granularity(granularity).least_squares());
        (precision, found, distortion(precision))
    });
    assert!(stated.iter().all(|(_, found, stated)| (found / stated - 1.0).abs() < 0.02), "{stated:?}");
}

/// Every grid and granularity: scales and codes of an independent f64 reference.
#[test]
fn codes_are_the_nearest_levels_of_the_stated_scale() {
    let ctx = context(2);
    for (rows, cols) in [(1, 1), (1, 7), (3, 31), (5, 128), (64, 130), (17, 256)] {
        let weights = gaussian(rows * cols, (rows * cols) as u64);
        for precision in GRIDS {
            for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Group(16), Granularity::Group(100)]
            {
                let quantizer = Quantizer::new(precision).granularity(granularity);
                let tensor = quantizer.quantize(&ctx, &weights, rows, cols).unwrap();
                let values = tensor.dequantize(&ctx);
                let runs: Vec<(usize, usize)> = match granularity {
                    Granularity::Tensor => vec![(0, rows * cols)],
                    Granularity::Row => (0..rows).map(|r| (r * cols, cols)).collect(),
                    Granularity::Group(g) => (0..rows)
                        .flat_map(|r| (0..cols).step_by(g).map(move |c| (r * cols + c, g.min(cols - c))))
                        .collect(),
                };
                assert_eq!(tensor.scales.len(), runs.len());
                for (scale_index, (start, len)) in runs.into_iter().enumerate() {
                    let run = &weights[start..start + len];
                    let mean = run.iter().map(|w| f64::from(w.abs())).sum::<f64>() / len as f64;
                    let max = run.iter().fold(0.0, |m, w| f64::max(m, f64::from(w.abs())));
                    let expected = match precision {
                        Precision::Ternary | Precision::Binary => mean,
                        Precision::FiveLevel => 2.1 * mean,
                        Precision::Int2 => 1.248 * mean,
                        Precision::Int4 => max / 7.0,
                        _ => max / 127.0,
                    };
                    let scale = f64::from(tensor.scales[scale_index]);
                    assert!((scale / expected - 1.0).abs() < 1e-6, "{precision} {granularity:?}: {scale} {expected}");
                    for (i, &w) in run.iter().enumerate() {
                        let (found, best) = (f64::from(values[start + i]), nearest(w, &levels(precision), scale));
                        let (found, best) = ((found - f64::from(w)).abs(), (best - f64::from(w)).abs());
                        // f32 rounding of the quotient and the product grows with the code.
                        let rounding = 3e-7 * levels(precision).len() as f64 * scale;
                        assert!(found <= best + rounding, "{precision} {granularity:?}: {w} got {found}");
                    }
                }
            }
        }
    }
}

#[test]
fn least_squares_scale_by_hand() {
    let ctx = context(1);
    // mean|w| = 1.5, threshold 0.75: q = (0, 1, -1, 1), <w, q> = 1 + 2 + 2.5, <q, q> = 3.
    let quantizer = Quantizer::new(Precision::Ternary);
    let weights = [0.5, 1.0, -2.0, 2.5];
    let plain = quantizer.quantize(&ctx, &weights, 1, 4).unwrap();
    assert_eq!((plain.codes.as_slice(), plain.scales.as_slice()), ([0i8, 1, -1, 1].as_slice(), [1.5f32].as_slice()));
    let fitted = quantizer.least_squares().quantize(&ctx, &weights, 2, 2).unwrap();
    assert_eq!(fitted.codes, plain.codes);
    assert!((fitted.scales[0] - 5.5 / 3.0).abs() < 1e-6);
    let zeros = quantizer.least_squares().quantize(&ctx, &[0.0; 4], 2, 2).unwrap();
    assert_eq!((zeros.scales[0], zeros.codes), (1e-5, vec![0; 4]));
}

#[test]
fn the_prototypes_quantizer_by_hand() {
    let mut values = [0.0, 0.25, 0.26, -0.75, -0.74, 1.0, 7.0, -7.0];
    Quantizer158Bit::new(3.0).unwrap().quantize(&mut values).unwrap();
    assert_eq!(values, [0.0, 0.0, 1.5, -3.0, -1.5, 3.0, 3.0, -3.0]);
    assert!(Quantizer158Bit::new(0.0).is_err() && Quantizer158Bit::new(f32::NAN).is_err());
    let error = Quantizer158Bit::new(1.0).unwrap().quantize(&mut [0.0, f32::INFINITY]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { index: 1, .. }));
}

/// The training copy equals the general quantizer, in values and in the count of changed codes.
#[test]
fn training_copies_equal_the_general_quantizer() {
    let ctx = context(2);
    for (rows, cols) in [(1, 1), (1, 33), (33, 1), (65, 47), (128, 64)] {
        let (before, after) = (gaussian(rows * cols, 5), gaussian(rows * cols, 6));
        for precision in GRIDS {
            let general = |w: &[f32]| Quantizer::for_training(precision).quantize(&ctx, w, rows, cols).unwrap();
            let values = |weight: &QuantizedWeight| -> Vec<f32> {
                match (weight.packed(), weight.dense()) {
                    (Some(packed), None) => {
                        let mut values = vec![0.0; rows * cols];
                        PackedTernary::dequantize(packed, &ctx, &mut values);
                        values
                    }
                    (None, Some(values)) => values.to_vec(),
                    _ => panic!("neither or both"),
                }
            };
            let mut weight = QuantizedWeight::quantize(&ctx, precision, &before, rows, cols).unwrap().unwrap();
            let (first, second) = (general(&before), general(&after));
            assert_eq!(weight.shape(), (rows, cols));
            assert_eq!(values(&weight), first.dequantize(&ctx), "{precision}");
            assert_eq!(
                weight.requantize(&ctx, precision, OutputScale::default(), &before).unwrap().changed,
                0,
                "{precision}: nothing changed"
            );
            let changed = weight.requantize(&ctx, precision, OutputScale::default(), &after).unwrap().changed;
            let expected = first.codes.iter().zip(&second.codes).filter(|(a, b)| a != b).count();
            assert_eq!(changed, expected, "{precision} {rows} x {cols}");
            assert_eq!(values(&weight), second.dequantize(&ctx), "{precision}");
            assert_eq!(weight.scales(), second.scales);
            // A weight that is not finite leaves everything as it was.
            let mut broken = before.clone();
            broken[rows * cols - 1] = f32::NAN;
            let error = weight.requantize(&ctx, precision, OutputScale::default(), &broken).unwrap_err();
            assert!(matches!(error, Error::NonFinite { index, .. } if index == rows * cols - 1), "{error}");
            assert_eq!(values(&weight), second.dequantize(&ctx), "{precision}");
        }
    }
    assert!(QuantizedWeight::quantize(&ctx, Precision::F32, &[1.0], 1, 1).unwrap().is_none());
}

#[test]
fn empty_and_wrong_shapes() {
    let ctx = context(1);
    for precision in GRIDS {
        for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
            let weight = QuantizedWeight::quantize(&ctx, precision, &[], rows, cols).unwrap().unwrap();
            assert_eq!(weight.shape(), (rows, cols));
            for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Group(4)] {
                let quantizer = Quantizer::new(precision).granularity(granularity).least_squares();
                assert!(quantizer.quantize(&ctx, &[], rows, cols).unwrap().dequantize(&ctx).is_empty());
            }
        }
        assert!(QuantizedWeight::quantize(&ctx, precision, &[0.0; 5], 2, 3).is_err());
    }
    let refused = [
        Quantizer::new(Precision::F32),
        Quantizer::new(Precision::Int4).granularity(Granularity::Group(0)),
        Quantizer::new(Precision::Int4).scale_rule(ScaleRule::Fixed { scale: -1.0 }),
    ];
    assert!(refused.iter().all(|quantizer| quantizer.quantize(&ctx, &[1.0; 4], 2, 2).is_err()));
}

#[test]
fn dense_bytes_and_ratios() {
    let ctx = context(1);
    let weights = gaussian(1_000_000, 3);
    let ternary = Quantizer::new(Precision::Ternary).quantize(&ctx, &weights, 1000, 1000).unwrap();
    assert_eq!(ternary.to_bytes().len() + 4, ternary.packed_bytes());
    assert_eq!(ternary.packed_bytes(), 200_004);
    assert!((ternary.compression_ratio() - 20.0).abs() < 0.001);
    assert_eq!(compression_ratio(100, 400), 1.0);
    let per_byte: Vec<usize> = GRIDS.iter().map(|p| p.codes_per_byte().unwrap()).collect();
    assert_eq!(per_byte, [8, 5, 4, 3, 2, 1]);
    assert!(QuantizedTensor::codes_from_bytes(Precision::Ternary, &[243], 5).is_err());
    assert!(QuantizedTensor::codes_from_bytes(Precision::Ternary, &[3], 1).is_err());
    assert!(QuantizedTensor::codes_from_bytes(Precision::Ternary, &[0, 0], 5).is_err());
}

proptest! {
    #[test]
    fn bytes_read_back_and_threads_do_not_matter(
        weights in proptest::collection::vec(-3.0f32..3.0, 1..300), grid in 0usize..6, group in 1usize..40,
    ) {
        let quantizer = Quantizer::new(GRIDS[grid]).granularity(Granularity::Group(group)).least_squares();
        let tensor = quantizer.quantize(&context(1), &weights, 1, weights.len()).unwrap();
        prop_assert_eq!(&tensor, &quantizer.quantize(&context(2), &weights, 1, weights.len()).unwrap());
        let read = QuantizedTensor::codes_from_bytes(GRIDS[grid], &tensor.to_bytes(), weights.len()).unwrap();
        prop_assert_eq!(read, tensor.codes);
    }

    /// Quantizing what was quantized, at the same scale, changes nothing.
    #[test]
    fn a_grid_maps_to_itself(weights in proptest::collection::vec(-3.0f32..3.0, 1..100), grid in 0usize..6) {
        let ctx = context(1);
        let rule = ScaleRule::Fixed { scale: 0.5 };
        let quantizer = Quantizer::new(GRIDS[grid]).scale_rule(rule);
        let first = quantizer.quantize(&ctx, &weights, 1, weights.len()).unwrap();
        let again = quantizer.quantize(&ctx, &first.dequantize(&ctx), 1, weights.len()).unwrap();
        prop_assert_eq!(first, again);
    }
}
