//! k-means++ (Arthur and Vassilvitskii, 2007).
#![forbid(unsafe_code)]

use super::distance::squared_distance;
use crate::dispatch::Context;
use crate::tensor::RandomStream;

/// Random streams of seeding (see [`RandomStream::new`]).
const SEEDING_PURPOSE: u32 = 30;

/// Points whose distances are summed in one go: the sums, and with them the draw, do not depend on the threads.
const BLOCK_POINTS: usize = 4096;

/// A square rounded to f32 and one computed in f64 differ by less than this share.
const ROUNDING: f64 = 1e-6;

/// Each next centroid is a point drawn with probability proportional to its squared distance to the nearest centroid
/// so far; when all distances are zero, the lowest index not yet taken. `points` `[n, dim]`, `1 <= k <= n`; gives
/// `[k, dim]`.
///
/// A point is not measured against a new centroid that lies at least twice as far from the point's nearest one as the
/// point does: by the triangle inequality it cannot be nearer.
pub(super) fn seed_centroids(context: &Context, points: &[f32], dim: usize, k: usize, seed: u64) -> Vec<f32> {
    let n = points.len() / dim;
    let mut stream = RandomStream::new(seed, SEEDING_PURPOSE, 0, 0);
    let mut taken = vec![false; n];
    let (mut labels, mut distances) = (vec![0u32; n], vec![f32::INFINITY; n]);
    let mut centroids: Vec<f32> = Vec::with_capacity(k * dim);
    let mut choice = stream.below(n as u64) as usize;
    loop {
        taken[choice] = true;
        let centroid = &points[choice * dim..][..dim];
        let number = centroids.len() / dim;
        // A quarter of the square: half the distance. The first centroid is nearer than nothing.
        let reach = |other| (squared_distance(other, centroid) / 4.0 * (1.0 - ROUNDING)) as f32;
        let mut reach: Vec<f32> = centroids.chunks_exact(dim).map(reach).collect();
        reach.resize(number.max(1), 0.0);
        centroids.extend_from_slice(centroid);
        if number + 1 == k {
            return centroids;
        }
        context.kmeans_nearer(points, centroid, number as u32, &reach, &mut labels, &mut distances);
        choice = match draw(context, &distances, stream.uniform()) {
            Some(index) => index,
            None => taken.iter().position(|&taken| !taken).unwrap_or(0),
        };
    }
}

/// The index at the share `at` (0 to 1) of the sum of all weights; `None` if they are all zero.
fn draw(context: &Context, weights: &[f32], at: f64) -> Option<usize> {
    let sum = |block: &[f32]| context.kernels().abs_sum(block); // weights are not negative
    let sums = context.map(weights.chunks(BLOCK_POINTS), sum);
    let total: f64 = sums.iter().sum();
    let mut left = at * total;
    for (index, (block, sum)) in weights.chunks(BLOCK_POINTS).zip(sums).enumerate() {
        if left < sum {
            for (place, &weight) in block.iter().enumerate() {
                left -= f64::from(weight);
                if left < 0.0 {
                    return Some(index * BLOCK_POINTS + place);
                }
            }
        } else {
            left -= sum;
        }
    }
    // Rounding may leave a rest beyond the last point: then the last one that is not a centroid.
    weights.iter().rposition(|&weight| weight > 0.0)
}
