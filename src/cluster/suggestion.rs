//! How many clusters a set of points has.
#![forbid(unsafe_code)]

use super::distance::squared_distance;
use super::kmeans::check_points;
use super::{KMeans, KMeansOptions};
use crate::dispatch::Context;
use crate::tensor::RandomStream;
use crate::{Error, Result};

/// Random streams of the sample (see [`RandomStream::new`]).
const SAMPLE_PURPOSE: u32 = 33;

/// Points of the sample: its distance matrix takes 4 MB.
const SAMPLE_POINTS: usize = 1000;

/// A mean silhouette below this means no substantial structure (Kaufman and Rousseeuw, 1990).
const LEAST_SILHOUETTE: f64 = 0.25;

/// The number of clusters from 1 to `max_clusters` that fits `points` `[n, dim]` best.
///
/// Method: the mean silhouette (Rousseeuw, 1987) of a k-means clustering of at most 1,000 sampled points, for every
/// k >= 2; the largest wins, the smaller k on ties; 1 if none reaches 0.25. Cost: `1000^2 * (dim + max_clusters)`.
///
/// Errors: `max_clusters` or `dim` is zero, no point, a coordinate that is not finite.
pub fn suggest_clusters(
    context: &Context,
    points: &[f32],
    dim: usize,
    max_clusters: usize,
    seed: u64,
) -> Result<usize> {
    let n = check_points(context, points, dim)?;
    if max_clusters == 0 || n == 0 {
        let (name, found) = if n == 0 { ("points", n) } else { ("max_clusters", max_clusters) };
        return Err(Error::invalid(name, "at least 1", found));
    }
    let mut order: Vec<usize> = (0..n).collect();
    if n > SAMPLE_POINTS {
        RandomStream::new(seed, SAMPLE_PURPOSE, 0, 0).shuffle(&mut order);
        order.truncate(SAMPLE_POINTS);
    }
    let sample: Vec<f32> = order.iter().flat_map(|&i| &points[i * dim..][..dim]).copied().collect();
    let distances = distance_matrix(context, &sample, dim);
    let mut best = (LEAST_SILHOUETTE, 1);
    // With as many clusters as points every silhouette is 0.
    for clusters in 2..=max_clusters.min(order.len().saturating_sub(1)) {
        let options = KMeansOptions { clusters, seed, ..KMeansOptions::default() };
        let kmeans = KMeans::fit(context, &sample, dim, &options)?;
        let silhouette = mean_silhouette(&distances, kmeans.labels(), clusters);
        if silhouette > best.0 {
            best = (silhouette, clusters);
        }
    }
    Ok(best.1)
}

fn distance_matrix(context: &Context, points: &[f32], dim: usize) -> Vec<f32> {
    let n = points.len() / dim;
    let mut matrix = vec![0.0f32; n * n];
    context.for_each(matrix.chunks_mut(n).zip(points.chunks(dim)), |(row, point)| {
        let distances = points.chunks_exact(dim).map(|other| squared_distance(point, other).sqrt() as f32);
        row.iter_mut().zip(distances).for_each(|(d, value)| *d = value);
    });
    matrix
}

/// Mean over all points of `(b - a) / max(a, b)`: `a` the mean distance to the fellows of its cluster, `b` the least
/// mean distance to another cluster; 0 for a point alone.
fn mean_silhouette(distances: &[f32], labels: &[u32], clusters: usize) -> f64 {
    let n = labels.len();
    let mut sizes = vec![0.0f64; clusters];
    labels.iter().for_each(|&label| sizes[label as usize] += 1.0);
    let silhouette = |(row, &label): (&[f32], &u32)| {
        let own = label as usize;
        if sizes[own] < 2.0 {
            return 0.0;
        }
        let mut sums = vec![0.0f64; clusters];
        row.iter().zip(labels).for_each(|(&d, &label)| sums[label as usize] += f64::from(d));
        let within = sums[own] / (sizes[own] - 1.0);
        let others = (0..clusters).filter(|&c| c != own && sizes[c] > 0.0);
        let between = others.map(|c| sums[c] / sizes[c]).fold(f64::INFINITY, f64::min);
        let larger = within.max(between);
        if larger > 0.0 { (between - within) / larger } else { 0.0 }
    };
    distances.chunks(n).zip(labels).map(silhouette).sum::<f64>() / n as f64
}
