//! k-means: k-means++ seeding (Arthur and Vassilvitskii, 2007) and Lloyd's iterations.
//!
//! Every result is a pure function of points, options and seed: sums run over fixed blocks in a fixed order, whatever
//! the threads.
#![forbid(unsafe_code)]

use super::assignment::{Assignment, assign};
use crate::dispatch::Context;
use crate::tensor::RandomStream;
use crate::{Error, Result};

/// Random streams of seeding (see [`RandomStream::new`]).
const SEEDING_PURPOSE: u32 = 30;

/// How [`KMeans::fit`] runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct KMeansOptions {
    /// Number of clusters, 1 to the number of points.
    pub clusters: usize,
    /// Lloyd iterations at most.
    pub max_iterations: usize,
    /// Seed of k-means++.
    pub seed: u64,
}

impl Default for KMeansOptions {
    fn default() -> Self {
        KMeansOptions { clusters: 8, max_iterations: 100, seed: 0 }
    }
}

/// A fitted clustering of points `[n, dim]`.
#[derive(Clone, PartialEq, Debug)]
pub struct KMeans {
    dim: usize,
    centroids: Vec<f32>,
    labels: Vec<u32>,
    /// Squared distance of each point to its centroid.
    distances: Vec<f32>,
    iterations: usize,
    converged: bool,
}

/// One cluster of a [`KMeans`].
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterInfo {
    /// Its number, `0..k`.
    pub id: usize,
    /// Mean of its points, `[dim]`.
    pub centroid: Vec<f32>,
    /// Indices of its points, ascending.
    pub members: Vec<usize>,
    /// Number of its points.
    pub size: usize,
    /// Mean Euclidean distance of its points to the centroid.
    pub mean_distance: f64,
    /// Standard deviation (of the population) of those distances.
    pub std: f64,
}

impl KMeans {
    /// Clusters `points` `[n, dim]` until no label changes (or `max_iterations`). A cluster that loses all its points
    /// takes over the point farthest from its own centroid, so no cluster ends empty, even among equal points.
    ///
    /// Errors: `dim` or `clusters` is zero, more clusters than points, `points` is no multiple of `dim`, a coordinate
    /// that is not finite (named by its index in `points`).
    pub fn fit(context: &Context, points: &[f32], dim: usize, options: &KMeansOptions) -> Result<Self> {
        let n = check_points(points, dim)?;
        let k = options.clusters;
        if k == 0 || k > n {
            return Err(Error::invalid("clusters", format!("1 to the number of points, {n}"), k));
        }
        if options.max_iterations == 0 {
            return Err(Error::invalid("max_iterations", "at least 1", 0));
        }
        let mut centroids = seed_centroids(context, points, dim, k, options.seed);
        let mut current = assign(context, points, dim, &centroids);
        repair_empty(&mut current, points, &mut centroids, dim);
        let (mut iterations, mut converged) = (0, false);
        while !converged && iterations < options.max_iterations {
            centroids = means(context, points, dim, &current.labels, k);
            let mut next = assign(context, points, dim, &centroids);
            repair_empty(&mut next, points, &mut centroids, dim);
            converged = next.labels == current.labels;
            current = next;
            iterations += 1;
        }
        let Assignment { labels, distances } = current;
        Ok(KMeans { dim, centroids, labels, distances, iterations, converged })
    }

    /// The nearest centroid of each of `points` `[n, dim]`; of equal distances the lowest number.
    /// Errors: `points` is no multiple of `dim`; a coordinate that is not finite.
    pub fn predict(&self, context: &Context, points: &[f32]) -> Result<Vec<u32>> {
        check_points(points, self.dim)?;
        Ok(assign(context, points, self.dim, &self.centroids).labels)
    }

    /// Number of clusters.
    pub fn clusters(&self) -> usize {
        self.centroids.len() / self.dim
    }

    /// Coordinates of a point.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Centroids `[k, dim]`.
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// Cluster of each fitted point.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Sum of the squared distances of the fitted points to their centroids.
    pub fn inertia(&self) -> f64 {
        self.distances.iter().map(|&d| f64::from(d)).sum()
    }

    /// Whether the last iteration changed no label.
    pub fn converged(&self) -> bool {
        self.converged
    }

    /// Lloyd iterations done.
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    /// The facts of one cluster. Error: no such cluster.
    pub fn cluster_info(&self, id: usize) -> Result<ClusterInfo> {
        let k = self.clusters();
        if id >= k {
            return Err(Error::invalid("cluster", format!("0 to {}", k - 1), id));
        }
        let members: Vec<usize> = (0..self.labels.len()).filter(|&i| self.labels[i] as usize == id).collect();
        let size = members.len();
        let distances: Vec<f64> = members.iter().map(|&i| f64::from(self.distances[i]).sqrt()).collect();
        let mean_distance = distances.iter().sum::<f64>() / size as f64;
        let variance = distances.iter().map(|d| (d - mean_distance) * (d - mean_distance)).sum::<f64>() / size as f64;
        let centroid = self.centroids[id * self.dim..][..self.dim].to_vec();
        Ok(ClusterInfo { id, centroid, members, size, mean_distance, std: variance.sqrt() })
    }
}

/// The number of points; errors of [`KMeans::fit`].
pub(super) fn check_points(points: &[f32], dim: usize) -> Result<usize> {
    if dim == 0 {
        return Err(Error::invalid("dim", "at least 1", 0));
    }
    if !points.len().is_multiple_of(dim) {
        return Err(Error::shape("kmeans", "points", format!("a multiple of {dim} numbers"), points.len()));
    }
    if let Some(index) = points.iter().position(|v| !v.is_finite()) {
        return Err(Error::NonFinite { tensor: "points".into(), index, value: points[index] });
    }
    Ok(points.len() / dim)
}

/// k-means++: each next centroid is a point drawn with probability proportional to its squared distance to the nearest
/// centroid so far; when all distances are zero, the lowest index not yet taken.
fn seed_centroids(context: &Context, points: &[f32], dim: usize, k: usize, seed: u64) -> Vec<f32> {
    let n = points.len() / dim;
    let mut stream = RandomStream::new(seed, SEEDING_PURPOSE, 0, 0);
    let mut taken = vec![false; n];
    let mut nearest = vec![f64::INFINITY; n];
    let mut centroids = Vec::with_capacity(k * dim);
    let mut choice = stream.below(n as u64) as usize;
    loop {
        taken[choice] = true;
        let centroid = &points[choice * dim..][..dim];
        centroids.extend_from_slice(centroid);
        if centroids.len() == k * dim {
            return centroids;
        }
        let added = assign(context, points, dim, centroid).distances;
        nearest.iter_mut().zip(added).for_each(|(d, new)| *d = d.min(f64::from(new)));
        let total: f64 = nearest.iter().sum();
        let mut left = stream.uniform() * total;
        let drawn = nearest.iter().position(|&d| {
            left -= d;
            left < 0.0
        });
        // Rounding may leave a rest beyond the last point: then the last one that is not a centroid.
        choice = match drawn {
            Some(index) => index,
            None if total > 0.0 => nearest.iter().rposition(|&d| d > 0.0).unwrap_or(0),
            None => taken.iter().position(|&t| !t).unwrap_or(0),
        };
    }
}

/// Gives every empty cluster the point farthest from its centroid, out of clusters of two or more (of equal distances
/// the lowest index), which is also its centroid then.
fn repair_empty(assignment: &mut Assignment, points: &[f32], centroids: &mut [f32], dim: usize) {
    let Assignment { labels, distances } = assignment;
    let k = centroids.len() / dim;
    let mut sizes = vec![0usize; k];
    labels.iter().for_each(|&label| sizes[label as usize] += 1);
    for empty in 0..k {
        if sizes[empty] > 0 {
            continue;
        }
        let movable = (0..labels.len()).filter(|&i| sizes[labels[i] as usize] > 1);
        let farthest = movable.reduce(|best, i| if distances[i] > distances[best] { i } else { best });
        let Some(point) = farthest else { return };
        sizes[labels[point] as usize] -= 1;
        sizes[empty] = 1;
        labels[point] = empty as u32;
        distances[point] = 0.0;
        centroids[empty * dim..][..dim].copy_from_slice(&points[point * dim..][..dim]);
    }
}

/// The mean of the points of each cluster, `[k, dim]`.
fn means(context: &Context, points: &[f32], dim: usize, labels: &[u32], k: usize) -> Vec<f32> {
    let (mut sums, mut counts) = (vec![0.0; k * dim], vec![0; k]);
    context.kmeans_sums(points, dim, labels, &mut sums, &mut counts);
    sums.iter().enumerate().map(|(i, sum)| (sum / counts[i / dim] as f64) as f32).collect()
}
