//! k-means against an obvious f64 reference, its invariants and edges.

use hybridq::Error;
use hybridq::cluster::{KMeans, KMeansOptions, suggest_clusters};
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn options(clusters: usize, seed: u64) -> KMeansOptions {
    KMeansOptions { clusters, seed, ..KMeansOptions::default() }
}

/// `n` points around `k` centres 10 apart on the axes, spread 0.5.
fn blobs(n: usize, dim: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 902, 0, 0);
    let mut points = Vec::new();
    for point in 0..n {
        let centre = point % k;
        for axis in 0..dim {
            let place = if centre % dim == axis { 10.0 * (1 + centre / dim) as f64 } else { 0.0 };
            points.push((place + 0.5 * stream.normal()) as f32);
        }
    }
    points
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
}

/// Every statement a converged clustering makes about itself, computed anew.
fn check(kmeans: &KMeans, points: &[f32]) {
    let dim = kmeans.dim();
    let n = points.len() / dim;
    let distance = |point: usize, cluster: usize| {
        squared_distance(&points[point * dim..][..dim], &kmeans.centroids()[cluster * dim..][..dim])
    };
    let mut inertia = 0.0;
    for point in 0..n {
        let own = distance(point, kmeans.labels()[point] as usize);
        inertia += own;
        let least = (0..kmeans.clusters()).map(|c| distance(point, c)).fold(f64::INFINITY, f64::min);
        assert!(own <= least * (1.0 + 2e-6) + 1e-12, "point {point}: {own}, nearest {least}");
    }
    assert!((kmeans.inertia() - inertia).abs() <= 1e-5 * inertia + 1e-9, "{} {inertia}", kmeans.inertia());
    let mut seen = 0;
    for id in 0..kmeans.clusters() {
        let info = kmeans.cluster_info(id).unwrap();
        assert!(info.size > 0 && info.size == info.members.len() && info.id == id);
        seen += info.size;
        for axis in 0..dim {
            let sum: f64 = info.members.iter().map(|&m| f64::from(points[m * dim + axis])).sum();
            let mean = sum / info.size as f64;
            assert!((f64::from(info.centroid[axis]) - mean).abs() <= 1e-5 * mean.abs() + 1e-6);
        }
        let distances: Vec<f64> = info.members.iter().map(|&m| distance(m, id).sqrt()).collect();
        let mean = distances.iter().sum::<f64>() / info.size as f64;
        let std = (distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / info.size as f64).sqrt();
        assert!((info.mean_distance - mean).abs() < 1e-4 && (info.std - std).abs() < 1e-4);
    }
    assert_eq!(seen, n);
}

#[test]
fn by_hand_on_a_line() {
    let points = [0.0, 1.0, 10.0, 12.0];
    let kmeans = KMeans::fit(&context(1), &points, 1, &options(2, 3)).unwrap();
    let mut centroids = kmeans.centroids().to_vec();
    centroids.sort_by(f32::total_cmp);
    assert_eq!(centroids, [0.5, 11.0]);
    assert_eq!(kmeans.inertia(), 2.5);
    assert!(kmeans.converged());
    let low = kmeans.labels()[0];
    assert_eq!(kmeans.labels(), [low, low, 1 - low, 1 - low]);
    assert_eq!(kmeans.predict(&context(1), &[-5.0, 5.7, 5.8]).unwrap(), [low, low, 1 - low]);
    let info = kmeans.cluster_info(1 - low as usize).unwrap();
    assert_eq!((info.members, info.mean_distance, info.std), (vec![2, 3], 1.0, 0.0));
}

#[test]
fn finds_separate_blobs_the_same_at_every_thread_count() {
    for (n, dim, k) in [(600, 3, 3), (5000, 17, 8), (2049, 32, 5)] {
        let points = blobs(n, dim, k, n as u64);
        let one = KMeans::fit(&context(1), &points, dim, &options(k, 1)).unwrap();
        let two = KMeans::fit(&context(2), &points, dim, &options(k, 1)).unwrap();
        assert_eq!(one, two);
        assert!(one.converged());
        check(&one, &points);
        // Each blob wholly in a cluster of its own, for at least one of a few seeds (Lloyd finds local optima).
        let separates = |seed| {
            let labels = KMeans::fit(&context(2), &points, dim, &options(k, seed)).unwrap().labels().to_vec();
            let mut first = labels[..k].to_vec();
            let whole = (0..n).all(|i| labels[i] == first[i % k]);
            first.sort_unstable();
            first.dedup();
            whole && first.len() == k
        };
        assert!((0..5).any(separates), "{n} {dim} {k}");
        assert_eq!(one.predict(&context(2), &points).unwrap(), one.labels());
    }
}

#[test]
fn edges() {
    let ctx = context(2);
    let single = KMeans::fit(&ctx, &[3.0, 4.0], 2, &options(1, 0)).unwrap();
    assert_eq!((single.centroids(), single.inertia()), ([3.0, 4.0].as_slice(), 0.0));
    let points = blobs(37, 3, 4, 9);
    let mean = KMeans::fit(&ctx, &points, 3, &options(1, 0)).unwrap();
    check(&mean, &points);
    let all = KMeans::fit(&ctx, &points, 3, &options(37, 0)).unwrap();
    assert!(all.converged() && all.inertia() == 0.0);
    let mut labels = all.labels().to_vec();
    labels.sort_unstable();
    assert!(labels.into_iter().eq(0..37));
    // Equal points, and fewer different points than clusters: no cluster stays empty, and it ends.
    for points in [vec![2.5; 20], [[1.0f32, 1.0], [2.0, 2.0]].concat().repeat(5)] {
        for k in 1..=points.len() / 2 {
            let kmeans = KMeans::fit(&ctx, &points, 2, &options(k, k as u64)).unwrap();
            assert!(kmeans.converged(), "{k}");
            check(&kmeans, &points);
        }
    }
    let stopped = KMeans::fit(&ctx, &blobs(500, 2, 7, 1), 2, &KMeansOptions { max_iterations: 1, ..options(7, 0) });
    assert_eq!(stopped.unwrap().iterations(), 1);
}

/// Lloyd's iterations written out: labels by the least f64 distance, means of all points of a cluster, until no label
/// changes. `None` where a cluster ends empty.
fn plain_lloyd(points: &[f32], dim: usize, mut centroids: Vec<f32>, iterations: usize) -> Option<(Vec<u32>, usize)> {
    let k = centroids.len() / dim;
    let mut labels = Vec::new();
    for done in 0..=iterations {
        let nearest = |x: &[f32]| {
            let distance = |c: usize| squared_distance(x, &centroids[c * dim..][..dim]);
            (1..k).fold((0, distance(0)), |best, c| if distance(c) < best.1 { (c, distance(c)) } else { best }).0 as u32
        };
        let next: Vec<u32> = points.chunks_exact(dim).map(nearest).collect();
        if next == labels || done == iterations {
            return Some((next, done));
        }
        labels = next;
        let (mut sums, mut counts) = (vec![0.0f64; k * dim], vec![0.0f64; k]);
        for (x, &label) in points.chunks_exact(dim).zip(&labels) {
            counts[label as usize] += 1.0;
            sums[label as usize * dim..][..dim].iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        if counts.contains(&0.0) {
            return None;
        }
        centroids = (0..k * dim).map(|i| (sums[i] / counts[i / dim]) as f32).collect();
    }
    unreachable!()
}

/// Pruned and not, from the same centroids: equal to the bit, and to Lloyd's iterations written out.
#[test]
fn pruning_changes_nothing() {
    let mut stream = RandomStream::new(4, 903, 0, 0);
    let mut uniform = |n: usize| -> Vec<f32> { (0..n).map(|_| stream.uniform() as f32).collect() };
    let mut compared = 0;
    for (points, dim, k) in [
        (blobs(3000, 16, 20, 1), 16, 20),
        (blobs(900, 40, 60, 2), 40, 60),
        (uniform(2000 * 8), 8, 30),
        (uniform(700 * 2), 2, 50),
        (uniform(400), 1, 9),
        (uniform(50 * 6).repeat(20), 6, 30),
        (blobs(500, 3, 3, 7).iter().map(|v| v + 1000.0).collect(), 3, 13),
        (blobs(500, 3, 3, 7).iter().map(|v| v * 1e-20).collect(), 3, 13),
        (blobs(500, 3, 3, 7).iter().map(|v| v * 1e18).collect(), 3, 13),
    ] {
        let centroids = &points[..k * dim];
        let fit = |pruning, threads, max_iterations| {
            let options = KMeansOptions { clusters: k, max_iterations, pruning, seed: 0 };
            KMeans::fit_from(&context(threads), &points, dim, centroids, &options).unwrap()
        };
        let plain = fit(false, 1, 200);
        assert!(plain.converged());
        assert_eq!(plain, fit(true, 1, 200));
        assert_eq!(plain, fit(true, 2, 200));
        assert_eq!(fit(false, 2, 3), fit(true, 2, 3));
        if let Some((labels, iterations)) = plain_lloyd(&points, dim, centroids.to_vec(), 200) {
            assert_eq!((plain.labels(), plain.iterations()), (labels.as_slice(), iterations));
            compared += 1;
        }
    }
    assert!(compared >= 5, "{compared}");
}

/// The seeding skips points by the triangle inequality; measuring all gives the same seeds, so a fit is a fit from the
/// seeds that a slow k-means++ would draw. Checked by what it must give: distinct seeds, far ones more often.
#[test]
fn seeds_are_points_spread_over_the_blobs() {
    let (n, dim, k) = (20_000, 6, 6);
    let points = blobs(n, dim, k, 3);
    let mut whole = 0;
    for seed in 0..10 {
        let options = KMeansOptions { max_iterations: 1, ..options(k, seed) };
        let one = KMeans::fit(&context(1), &points, dim, &options).unwrap();
        assert_eq!(one, KMeans::fit(&context(2), &points, dim, &options).unwrap());
        whole += usize::from((0..k).all(|c| one.labels()[c..].iter().step_by(k).all(|&l| l == one.labels()[c])));
    }
    // Uniform seeds would give each blob one in 6!/6^6 = 1.5 % of the draws.
    assert!(whole >= 5, "{whole} of 10");
}

#[test]
fn errors_name_what_is_wrong() {
    let ctx = context(1);
    let text = |points: &[f32], dim: usize, k: usize| KMeans::fit(&ctx, points, dim, &options(k, 0)).unwrap_err();
    assert!(text(&[1.0, 2.0], 1, 3).to_string().contains("1 to the number of points, 2, found 3"));
    assert!(text(&[1.0], 1, 0).to_string().contains("clusters"));
    assert!(text(&[1.0], 0, 1).to_string().contains("dim"));
    assert!(text(&[], 2, 1).to_string().contains("clusters"));
    assert!(matches!(text(&[1.0, 2.0, 3.0], 2, 1), Error::Shape { .. }));
    assert!(matches!(text(&[1.0, f32::NAN], 1, 1), Error::NonFinite { index: 1, .. }));
    let mut many = vec![1.0f32; 300_000];
    many[200_001] = f32::NEG_INFINITY;
    assert!(matches!(text(&many, 3, 2), Error::NonFinite { index: 200_001, .. }));
    assert!(text(&many, 3, 2).to_string().contains("points, row 66667"));
    let from = |centroids: &[f32], k| KMeans::fit_from(&ctx, &[1.0, 2.0, 3.0], 1, centroids, &options(k, 0));
    assert!(matches!(from(&[1.0], 2), Err(Error::Shape { .. })));
    assert!(matches!(from(&[1.0, f32::NAN], 2), Err(Error::NonFinite { index: 1, .. })));
    assert!(from(&[1.0; 4], 4).is_err() && from(&[], 0).is_err());
    let none = KMeansOptions { max_iterations: 0, ..options(1, 0) };
    assert!(KMeans::fit(&ctx, &[1.0], 1, &none).unwrap_err().to_string().contains("max_iterations"));
    let kmeans = KMeans::fit(&ctx, &[1.0, 2.0], 1, &options(2, 0)).unwrap();
    assert!(matches!(kmeans.predict(&ctx, &[f32::INFINITY]), Err(Error::NonFinite { index: 0, .. })));
    assert!(kmeans.cluster_info(2).is_err());
}

#[test]
fn suggests_the_number_of_blobs() {
    let ctx = context(2);
    for k in [2, 3, 5] {
        assert_eq!(suggest_clusters(&ctx, &blobs(1500, 5, k, k as u64), 5, 8, 0).unwrap(), k);
    }
    assert_eq!(suggest_clusters(&ctx, &[1.0; 30], 3, 5, 0).unwrap(), 1);
    assert_eq!(suggest_clusters(&ctx, &[1.0, 2.0], 1, 5, 0).unwrap(), 1);
    assert!(suggest_clusters(&ctx, &[], 1, 5, 0).is_err() && suggest_clusters(&ctx, &[1.0], 1, 0, 0).is_err());
}

proptest! {
    #[test]
    fn every_fit_keeps_its_promises(
        points in proptest::collection::vec(-5i8..5, 2..160), dim in 1usize..5, k in 1usize..9, seed in any::<u64>(),
    ) {
        let points: Vec<f32> = points.iter().map(|&v| f32::from(v)).collect();
        let points = &points[..points.len() / dim * dim];
        let n = points.len() / dim;
        prop_assume!(n > 0);
        let kmeans = KMeans::fit(&context(1), points, dim, &options(k.min(n), seed)).unwrap();
        prop_assert!(kmeans.converged());
        check(&kmeans, points);
        prop_assert_eq!(&kmeans, &KMeans::fit(&context(2), points, dim, &options(k.min(n), seed)).unwrap());
        let plain = KMeansOptions { pruning: false, ..options(k.min(n), seed) };
        prop_assert_eq!(kmeans, KMeans::fit(&context(1), points, dim, &plain).unwrap());
    }
}
