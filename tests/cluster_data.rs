//! Clusters of windows, their batches, and clusters of parameters.

use hybridq::cluster::{BatchStrategy, DataClustering, ParameterClustering, WindowEmbedding};
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::quant::{AdaptiveQuantizer, Precision};
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 903, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

const STRATEGIES: [BatchStrategy; 3] = [BatchStrategy::Stratified, BatchStrategy::RoundRobin, BatchStrategy::Random];

fn counts(values: impl Iterator<Item = usize>, len: usize) -> Vec<usize> {
    let mut counts = vec![0; len];
    values.for_each(|v| counts[v] += 1);
    counts
}

#[test]
fn embeddings_have_norm_one_and_tell_texts_apart() {
    let ctx = context(2);
    let mut stream = RandomStream::new(1, 904, 0, 0);
    // Even windows draw from tokens 0 to 19, odd ones from 20 to 39.
    let tokens: Vec<u32> = (0..100 * 64).map(|i| (stream.below(20) + 20 * (i / 64 % 2)) as u32).collect();
    let starts: Vec<usize> = (0..100).map(|w| w * 64).collect();
    let embedding = WindowEmbedding::new(32).unwrap();
    let points = embedding.embed_windows(&ctx, &tokens, &starts, 64).unwrap();
    for point in points.chunks(32) {
        let norm: f64 = point.iter().map(|&v| f64::from(v).powi(2)).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }
    assert_eq!(points, embedding.embed_windows(&context(1), &tokens, &starts, 64).unwrap());
    let clusters = DataClustering::fit(&ctx, &points, 32, 2, 0).unwrap();
    assert!((0..100).all(|w| clusters.labels()[w] == clusters.labels()[w % 2]));
    // Order counts, not only which tokens occur.
    let pairs = embedding.embed_windows(&ctx, &[1, 2, 3, 3, 2, 1], &[0, 3], 3).unwrap();
    assert_ne!(pairs[..32], pairs[32..]);
    assert!(embedding.embed_windows(&ctx, &[1, 2], &[1], 2).is_err());
    assert!(embedding.embed_windows(&ctx, &[1, 2], &[usize::MAX], 2).is_err());
    assert_eq!(embedding.embed_windows(&ctx, &[], &[0], 0).unwrap(), [0.0; 32]);
    assert!(WindowEmbedding::new(0).is_err());
}

proptest! {
    #[test]
    fn clusters_are_balanced_and_complete(n in 1usize..200, k in 1usize..12, seed in 0u64..50) {
        let points = gaussian(3 * n, seed);
        let clusters = DataClustering::fit(&context(1), &points, 3, k, seed).unwrap();
        prop_assert_eq!(clusters.clusters(), k.min(n));
        let sizes: Vec<usize> = (0..clusters.clusters()).map(|c| clusters.members(c).len()).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{:?}", sizes);
        let members = (0..clusters.clusters()).flat_map(|c| clusters.members(c).to_vec());
        prop_assert_eq!(counts(members, n), vec![1; n]);
        prop_assert_eq!(&clusters, &DataClustering::fit(&context(2), &points, 3, k, seed).unwrap());
    }
}

#[test]
fn batches_span_or_stay_in_clusters() {
    let clusters = DataClustering::fit(&context(1), &gaussian(3 * 101, 1), 3, 8, 5).unwrap();
    for step in 0..60 {
        for size in [1, 8, 13, 32] {
            let cluster_of = |w: &usize| clusters.labels()[*w] as usize;
            let batch = clusters.batch(BatchStrategy::Stratified, step, size);
            let spread = counts(batch.windows.iter().map(cluster_of), 8);
            assert!(spread.iter().all(|&c| c == size / 8 || c == size.div_ceil(8)), "{spread:?}");
            assert_eq!((batch.windows.len(), batch.cluster), (size, None));
            let batch = clusters.batch(BatchStrategy::RoundRobin, step, size);
            assert_eq!(batch.cluster, Some(step as usize % 8));
            assert!(batch.windows.iter().all(|w| Some(cluster_of(w)) == batch.cluster));
            assert_eq!(clusters.batch(BatchStrategy::Random, step, size).windows.len(), size);
        }
    }
}

#[test]
fn batches_cover_every_window_before_one_repeats() {
    let clusters = DataClustering::fit(&context(1), &gaussian(3 * 96, 2), 3, 8, 5).unwrap();
    for strategy in STRATEGIES {
        // 96 windows in clusters of 12: batches of 4 make an epoch in 24 steps for every strategy.
        for epoch in 0..3 {
            let steps = epoch * 24..(epoch + 1) * 24;
            let windows = steps.flat_map(|step| clusters.batch(strategy, step, 4).windows);
            assert_eq!(counts(windows, 96), [1; 96], "{strategy:?} epoch {epoch}");
        }
        let epoch = |first: u64| -> Vec<_> { (first..first + 24).map(|s| clusters.batch(strategy, s, 4)).collect() };
        assert_ne!(epoch(0), epoch(24), "{strategy:?}: epochs differ");
    }
}

#[test]
fn batches_are_a_function_of_seed_and_step() {
    let points = gaussian(3 * 50, 3);
    let fit = |seed| DataClustering::fit(&context(2), &points, 3, 4, seed).unwrap();
    let (one, two, other) = (fit(1), fit(1), fit(2));
    for strategy in STRATEGIES {
        assert_eq!(one.batch(strategy, 1_000_000, 8), two.batch(strategy, 1_000_000, 8));
        assert_ne!(one.batch(strategy, 7, 8), other.batch(strategy, 7, 8));
    }
}

#[test]
fn nothing_to_cluster_is_an_error() {
    let error = DataClustering::fit(&context(1), &[], 3, 2, 0).unwrap_err().to_string();
    assert!(error.contains("windows"), "{error}");
    assert!(DataClustering::fit(&context(1), &[1.0], 1, 0, 0).is_err());
}

/// 64 rows: the first 32 ten times as large as the rest.
fn layered_weights() -> Vec<f32> {
    let weights = gaussian(64 * 50, 8);
    weights.into_iter().enumerate().map(|(i, w)| if i < 32 * 50 { 10.0 * w } else { w }).collect()
}

#[test]
fn rows_of_one_kind_share_a_cluster_and_important_ones_get_bits() {
    let ctx = context(2);
    let weights = layered_weights();
    let clustering = ParameterClustering::fit(&ctx, &weights, 50, 2, 0).unwrap();
    let labels = clustering.kmeans().labels();
    assert!((0..64).all(|row| labels[row] == labels[row / 32 * 32]) && labels[0] != labels[32]);
    // Sensitivity of a row: its power.
    let power: Vec<f64> = weights.chunks(50).map(|row| row.iter().map(|&w| f64::from(w).powi(2)).sum()).collect();
    let importances = clustering.importance_from_units(&power).unwrap();
    let budget = AdaptiveQuantizer { mean_bits: 2.6, ..AdaptiveQuantizer::default() };
    let bits = clustering.suggest_bits(&importances, &budget).unwrap();
    let (large, small) = (bits[labels[0] as usize], bits[labels[32] as usize]);
    assert!(large.precision.bits() > small.precision.bits(), "{bits:?}");
    assert_eq!((large.elements, small.elements), (1600, 1600));
    // Against one precision of more bits for all: less error from fewer bytes.
    let error = |precisions: &[Precision]| -> (f64, usize) {
        let quantized = clustering.quantize(&ctx, &weights, precisions).unwrap();
        let error = quantized.values.iter().zip(&weights).map(|(&q, &w)| (f64::from(q) - f64::from(w)).powi(2)).sum();
        (error, quantized.bytes)
    };
    let chosen: Vec<Precision> = bits.iter().map(|b| b.precision).collect();
    let ((adaptive, bytes), (uniform, uniform_bytes)) = (error(&chosen), error(&[Precision::FiveLevel; 2]));
    assert!(adaptive < 0.5 * uniform && bytes <= uniform_bytes, "{adaptive} {bytes} {uniform} {uniform_bytes}");
    assert_eq!(error(&[Precision::F32; 2]).0, 0.0);
    // The default budget of 1.58 gives equal clusters ternary.
    let even = clustering.suggest_bits(&[1.0, 1.0], &AdaptiveQuantizer::default()).unwrap();
    assert!(even.iter().all(|b| b.precision == Precision::Ternary));
}

#[test]
fn importance_by_experiment_and_errors() {
    let ctx = context(1);
    let weights = layered_weights();
    let clustering = ParameterClustering::fit(&ctx, &weights, 25, 3, 0).unwrap();
    let mut seen = vec![];
    let measured = clustering.importance_by(|cluster, units| {
        seen.extend_from_slice(units);
        Ok(if cluster == 0 { -1.0 } else { units.len() as f64 })
    });
    let measured = measured.unwrap();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..128) && measured[0] == 0.0 && measured[1] > 0.0);
    assert!(clustering.importance_by(|_, _| Ok(f64::NAN)).is_err());
    assert!(clustering.importance_from_units(&[1.0; 5]).is_err());
    assert!(clustering.importance_from_units(&[-1.0; 128]).is_err());
    assert!(clustering.suggest_bits(&[1.0], &AdaptiveQuantizer::default()).is_err());
    assert!(clustering.quantize(&ctx, &weights[1..], &[Precision::Int8; 3]).is_err());
    assert!(ParameterClustering::fit(&ctx, &weights, 33, 3, 0).is_err());
    assert!(ParameterClustering::fit(&ctx, &[], 33, 3, 0).is_err());
    assert!(ParameterClustering::fit(&ctx, &[1.0, f32::NAN], 1, 1, 0).is_err());
    let equal = ParameterClustering::fit(&ctx, &[1.0; 12], 3, 9, 0).unwrap();
    assert_eq!(equal.kmeans().clusters(), 4);
}
