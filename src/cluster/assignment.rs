//! The nearest centroid of every point.
#![forbid(unsafe_code)]

use rayon::prelude::*;

use crate::dispatch::Context;

/// Points of one block of work.
const BLOCK_POINTS: usize = 256;

/// Nearest centroids of a set of points.
pub(super) struct Assignment {
    /// Number of the nearest centroid; of equal distances the lowest.
    pub(super) labels: Vec<u32>,
    /// Squared distance to it.
    pub(super) distances: Vec<f64>,
}

/// Assigns `points` `[n, dim]` to `centroids` `[k, dim]`, `k` at least 1. Distances are f64 sums of squared differences.
pub(super) fn assign(context: &Context, points: &[f32], dim: usize, centroids: &[f32]) -> Assignment {
    let n = points.len() / dim;
    let (mut labels, mut distances) = (vec![0u32; n], vec![0.0f64; n]);
    context.install(|| {
        let points = points.par_chunks(BLOCK_POINTS * dim);
        let outputs = labels.par_chunks_mut(BLOCK_POINTS).zip(distances.par_chunks_mut(BLOCK_POINTS));
        points.zip(outputs).for_each(|(points, (labels, distances))| {
            for ((point, label), distance) in points.chunks_exact(dim).zip(labels).zip(distances) {
                (*label, *distance) = nearest(point, centroids);
            }
        });
    });
    Assignment { labels, distances }
}

fn nearest(point: &[f32], centroids: &[f32]) -> (u32, f64) {
    let mut best = (0, f64::INFINITY);
    for (index, centroid) in centroids.chunks_exact(point.len()).enumerate() {
        let distance = squared_distance(point, centroid);
        if distance < best.1 {
            best = (index as u32, distance);
        }
    }
    best
}

/// Lanes of [`squared_distance`]: independent sums, so that the compiler can use vector registers.
const LANES: usize = 8;

/// `sum (a - b)^2` in f64, in fixed lanes.
pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            let difference = f64::from(a[lane]) - f64::from(b[lane]);
            lanes[lane] += difference * difference;
        }
    }
    for (lane, (&a, &b)) in rest_a.iter().zip(rest_b).enumerate() {
        let difference = f64::from(a) - f64::from(b);
        lanes[lane] += difference * difference;
    }
    lanes.iter().sum()
}
