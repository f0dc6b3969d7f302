//! k-means: k-means++ seeding and Lloyd's iterations.
//!
//! Every result is a pure function of points, options and seed: sums run over fixed blocks in a fixed order, whatever
//! the threads.
#![forbid(unsafe_code)]

use super::seeding::seed_centroids;
use crate::dispatch::{Context, Lloyd};
use crate::{Error, Result};

/// How [`KMeans::fit`] runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct KMeansOptions {
    /// Number of clusters, 1 to the number of points.
    pub clusters: usize,
    /// Lloyd iterations at most.
    pub max_iterations: usize,
    /// Seed of k-means++.
    pub seed: u64,
    /// Whether bounds on the distances spare searches (see [`Lloyd`]): the result is the same, the time is not.
    pub pruning: bool,
}

impl Default for KMeansOptions {
    fn default() -> Self {
        KMeansOptions { clusters: 8, max_iterations: 100, seed: 0, pruning: true }
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
    /// Errors: `dim`, `clusters` or `max_iterations` is zero, more clusters than points, `points` is no multiple of
    /// `dim`, a coordinate that is not finite (named by its point and its index in `points`).
    pub fn fit(context: &Context, points: &[f32], dim: usize, options: &KMeansOptions) -> Result<Self> {
        let start = start(context, points, dim, options)?;
        let centroids = context.install(|| seed_centroids(context, points, dim, options.clusters, options.seed));
        Ok(context.install(|| iterate(context, points, dim, start, centroids, options)))
    }

    /// As [`KMeans::fit`], from the caller's centroids `[clusters, dim]` instead of seeding; `seed` is not read.
    ///
    /// Errors: those of [`KMeans::fit`]; `centroids` of another length or not finite.
    pub fn fit_from(
        context: &Context,
        points: &[f32],
        dim: usize,
        centroids: &[f32],
        options: &KMeansOptions,
    ) -> Result<Self> {
        let start = start(context, points, dim, options)?;
        if centroids.len() != options.clusters * dim {
            let expected = format!("{} x {dim} numbers", options.clusters);
            return Err(Error::shape("kmeans", "centroids", expected, centroids.len()));
        }
        check_finite(context, "centroids", centroids, dim)?;
        Ok(context.install(|| iterate(context, points, dim, start, centroids.to_vec(), options)))
    }

    /// The nearest centroid of each of `points` `[n, dim]`; of equal distances the lowest number.
    /// Errors: `points` is no multiple of `dim`; a coordinate that is not finite.
    pub fn predict(&self, context: &Context, points: &[f32]) -> Result<Vec<u32>> {
        let n = check_points(context, points, self.dim)?;
        let (mut labels, mut distances) = (vec![0; n], vec![0.0; n]);
        let k = self.clusters();
        context.kmeans_assign(points, n, self.dim, &self.centroids, k, &mut labels, &mut distances);
        Ok(labels)
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
pub(super) fn check_points(context: &Context, points: &[f32], dim: usize) -> Result<usize> {
    let n = count_points(points, dim)?;
    check_finite(context, "points", points, dim)?;
    Ok(n)
}

fn count_points(points: &[f32], dim: usize) -> Result<usize> {
    if dim == 0 {
        return Err(Error::invalid("dim", "at least 1", 0));
    }
    if !points.len().is_multiple_of(dim) {
        return Err(Error::shape("kmeans", "points", format!("a multiple of {dim} numbers"), points.len()));
    }
    let n = points.len() / dim;
    if n >= u32::MAX as usize {
        return Err(Error::invalid("points", format!("fewer than {} points", u32::MAX), n));
    }
    Ok(n)
}

/// Checked points before the first assignment; errors of [`KMeans::fit`]. The points are read once: a coordinate that is not finite
/// shows in the length of its point (as does one so large that its square is not, which is fine).
fn start<'a>(context: &Context, points: &'a [f32], dim: usize, options: &KMeansOptions) -> Result<Lloyd<'a>> {
    let n = count_points(points, dim)?;
    check_options(options, n)?;
    let lloyd = context.install(|| Lloyd::new(context, points, dim, options.clusters, options.pruning));
    for (row, _) in lloyd.norms().iter().enumerate().filter(|(_, norm)| !norm.is_finite()) {
        name_non_finite("points", points, dim, row * dim..(row + 1) * dim)?;
    }
    Ok(lloyd)
}

/// Numbers of one block of [`check_finite`].
const CHECKED_BLOCK: usize = 1 << 16;

fn check_finite(context: &Context, what: &str, values: &[f32], dim: usize) -> Result<()> {
    // A sum of finite magnitudes is finite in f64: one that is not tells of a block to look through.
    let strange = |block: &[f32]| !context.kernels().abs_sum(block).is_finite();
    let block = context.map(values.chunks(CHECKED_BLOCK), strange).into_iter().position(|strange| strange);
    block.map_or(Ok(()), |block| name_non_finite(what, values, dim, block * CHECKED_BLOCK..values.len()))
}

/// Error: a value of the range is not finite (the first of them is named).
fn name_non_finite(what: &str, values: &[f32], dim: usize, range: std::ops::Range<usize>) -> Result<()> {
    match values[range.clone()].iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(place) => {
            let index = range.start + place;
            Err(Error::NonFinite { tensor: format!("{what}, row {}", index / dim), index, value: values[index] })
        }
    }
}

fn check_options(options: &KMeansOptions, n: usize) -> Result<()> {
    if options.clusters == 0 || options.clusters > n {
        return Err(Error::invalid("clusters", format!("1 to the number of points, {n}"), options.clusters));
    }
    if options.max_iterations == 0 {
        return Err(Error::invalid("max_iterations", "at least 1", 0));
    }
    Ok(())
}

/// Lloyd's iterations from given centroids.
fn iterate(
    context: &Context,
    points: &[f32],
    dim: usize,
    mut lloyd: Lloyd<'_>,
    mut centroids: Vec<f32>,
    options: &KMeansOptions,
) -> KMeans {
    let mut distances = vec![0.0; points.len() / dim];
    lloyd.assign(&centroids);
    let mut repaired = repair_empty(context, &mut lloyd, points, dim, &mut centroids, &mut distances);
    let (mut iterations, mut converged) = (0, false);
    while !converged && iterations < options.max_iterations {
        // An assignment undoes a repair: then labels must be compared whole.
        let before = repaired.then(|| lloyd.labels().to_vec());
        lloyd.means(&mut centroids);
        let changed = lloyd.assign(&centroids);
        repaired = repair_empty(context, &mut lloyd, points, dim, &mut centroids, &mut distances);
        converged = before.map_or(changed == 0, |before| before == lloyd.labels());
        iterations += 1;
    }
    context.kmeans_distances(points, dim, &centroids, lloyd.labels(), &mut distances);
    KMeans { dim, centroids, labels: lloyd.into_labels(), distances, iterations, converged }
}

/// Gives every empty cluster the point farthest from its centroid, out of clusters of two or more (of equal distances
/// the lowest index), which is also its centroid then. Whether there was one. `distances` is memory for one a point.
fn repair_empty(
    context: &Context,
    lloyd: &mut Lloyd<'_>,
    points: &[f32],
    dim: usize,
    centroids: &mut [f32],
    distances: &mut [f32],
) -> bool {
    let empty: Vec<usize> = (0..lloyd.counts().len()).filter(|&cluster| lloyd.counts()[cluster] == 0).collect();
    if empty.is_empty() {
        return false;
    }
    context.kmeans_distances(points, dim, centroids, lloyd.labels(), distances);
    for empty in empty {
        let movable = (0..distances.len()).filter(|&i| lloyd.counts()[lloyd.labels()[i] as usize] > 1);
        let farthest = movable.reduce(|best, i| if distances[i] > distances[best] { i } else { best });
        let Some(point) = farthest else { break };
        lloyd.relabel(point, empty as u32);
        distances[point] = 0.0;
        centroids[empty * dim..][..dim].copy_from_slice(&points[point * dim..][..dim]);
    }
    true
}
