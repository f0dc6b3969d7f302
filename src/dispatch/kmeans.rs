//! k-means on the context's threads: nearest centroids and distances.
#![forbid(unsafe_code)]

use super::cuda::Traffic;
use super::{Context, Operation, Size};
use crate::gpu::HostCall;

/// Points of one parallel block of work that nothing is kept of.
pub(super) const BLOCK_POINTS: usize = 384;

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
        assert!(k > 0 && centroids.len() == k * dim, "kmeans_assign: {} values for {k} x {dim}", centroids.len());
        let operation = Operation::KmeansAssign;
        let work = Size { rows: n, cols: dim, depth: k }.work(operation);
        let call = HostCall::KmeansAssign { points, dim, centroids, labels, distances };
        if self.on_cuda(operation, work, Traffic::kmeans(n, dim, k), call) {
            return;
        }
        let call = self.call(operation, work);
        let kernels = call.kernels;
        let packed = kernels.pack_centroids(centroids, k, dim, 1);
        type Block<'a> = (usize, (&'a mut [u32], &'a mut [f32]));
        let assign = |scratch: &mut Vec<f32>, (block, (labels, distances)): Block<'_>| {
            let first = block * BLOCK_POINTS;
            let points = &points[first * dim..(first + labels.len()) * dim];
            // The norms stand where the distances will.
            kernels.kmeans_norms(points, dim, distances);
            kernels.kmeans_assign(points, distances, None, &packed, None, scratch, labels);
            kernels.kmeans_distances(points, dim, centroids, labels, distances);
        };
        if !call.parallel {
            let outputs = labels.chunks_mut(BLOCK_POINTS).zip(distances.chunks_mut(BLOCK_POINTS));
            let mut scratch = Vec::new();
            return outputs.enumerate().for_each(|block| assign(&mut scratch, block));
        }
        let outputs = labels.chunks_mut(BLOCK_POINTS).zip(distances.chunks_mut(BLOCK_POINTS));
        self.for_each(outputs.enumerate(), |block| assign(&mut Vec::new(), block));
    }

    /// Squared distance in f64, rounded, of each point `[n, dim]` to the centroid of its label.
    ///
    /// # Panics
    /// If the lengths do not fit or a label is no centroid.
    pub fn kmeans_distances(
        &self,
        points: &[f32],
        dim: usize,
        centroids: &[f32],
        labels: &[u32],
        distances: &mut [f32],
    ) {
        assert!(points.len() == labels.len() * dim && distances.len() == labels.len(), "kmeans_distances: lengths");
        let outputs = distances.chunks_mut(BLOCK_POINTS).zip(labels.chunks(BLOCK_POINTS));
        self.for_each(outputs.enumerate(), |(block, (distances, labels))| {
            let first = block * BLOCK_POINTS;
            let points = &points[first * dim..(first + labels.len()) * dim];
            self.kernels().kmeans_distances(points, dim, centroids, labels, distances);
        });
    }

    /// For each point `[n, dim]` to which `centroid` is nearer than `distances` says: the squared distance, and the
    /// label `number`. Points whose distance is below `reach` of their label are passed over.
    ///
    /// # Panics
    /// If the lengths do not fit or a label is `reach.len()` or more.
    pub fn kmeans_nearer(
        &self,
        points: &[f32],
        centroid: &[f32],
        number: u32,
        reach: &[f32],
        labels: &mut [u32],
        distances: &mut [f32],
    ) {
        let dim = centroid.len();
        assert!(points.len() == labels.len() * dim && distances.len() == labels.len(), "kmeans_nearer: lengths");
        let outputs = labels.chunks_mut(BLOCK_POINTS).zip(distances.chunks_mut(BLOCK_POINTS));
        self.for_each(outputs.enumerate(), |(block, (labels, distances))| {
            let first = block * BLOCK_POINTS;
            let points = &points[first * dim..(first + labels.len()) * dim];
            self.kernels().kmeans_nearer(points, centroid, number, reach, labels, distances);
        });
    }
}
