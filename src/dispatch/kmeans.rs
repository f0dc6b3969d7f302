//! k-means assignment and centroid sums on the context's threads.
#![forbid(unsafe_code)]

use rayon::prelude::*;

use super::Context;

/// Points of one parallel block of assignment.
const BLOCK_POINTS: usize = 384;
/// Points of a block of sums, at least, and blocks at most: the split depends on the number of points alone.
const SUM_POINTS: usize = 2048;
const SUM_BLOCKS: usize = 16;

impl Context {
    /// Nearest centroid and squared distance of each point. `points`: `[n, dim]`, `centroids`: `[k, dim]`. The label is
    /// the minimum of the f64 distances, the lowest index on a tie; a point with NaN gets label 0, distance NaN.
    ///
    /// # Panics
    /// If `k` is zero or the lengths do not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn kmeans_assign(
        &self,
        points: &[f32],
        n: usize,
        dim: usize,
        centroids: &[f32],
        k: usize,
        labels: &mut [u32],
        distances: &mut [f32],
    ) {
        assert!(points.len() == n * dim && labels.len() == n && distances.len() == n, "kmeans_assign: lengths");
        let panels = self.kernels().centroid_panels(centroids, k, dim);
        self.install(|| {
            let outputs = labels.par_chunks_mut(BLOCK_POINTS).zip(distances.par_chunks_mut(BLOCK_POINTS));
            outputs.enumerate().for_each(|(block, (labels, distances))| {
                let first = block * BLOCK_POINTS;
                let points = &points[first * dim..(first + labels.len()) * dim];
                self.kernels().kmeans_assign(points, &panels, labels, distances);
            });
        });
    }

    /// Sum `[k, dim]` and number `[k]` of the points of each label, overwritten. f64 sums of fixed blocks of points,
    /// added in order: the result does not depend on the threads.
    ///
    /// # Panics
    /// If the lengths do not fit or a label is `counts.len()` or more.
    pub fn kmeans_sums(&self, points: &[f32], dim: usize, labels: &[u32], sums: &mut [f64], counts: &mut [u64]) {
        let (n, k) = (labels.len(), counts.len());
        assert!(points.len() == n * dim && sums.len() == k * dim, "kmeans_sums: lengths");
        let block = n.div_ceil(SUM_BLOCKS).max(SUM_POINTS);
        let partial: Vec<(Vec<f64>, Vec<u64>)> = self.install(|| {
            labels
                .par_chunks(block)
                .enumerate()
                .map(|(index, labels)| {
                    let first = index * block;
                    let points = &points[first * dim..(first + labels.len()) * dim];
                    let (mut sums, mut counts) = (vec![0.0; k * dim], vec![0; k]);
                    self.kernels().kmeans_sums(points, dim, labels, &mut sums, &mut counts);
                    (sums, counts)
                })
                .collect()
        });
        sums.fill(0.0);
        counts.fill(0);
        for (part, numbers) in partial {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            counts.iter_mut().zip(numbers).for_each(|(count, part)| *count += part);
        }
    }
}
