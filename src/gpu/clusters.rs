//! k-means on a device.

use super::{DeviceSlice, DeviceSliceMut, Stream, arguments};
use crate::{Error, Result};

/// An infinity's bits: from there on a coordinate is not finite.
const INFINITY_BITS: i32 = 0x7F80_0000;

/// One iteration of Lloyd's: everything on the device.
pub struct KmeansIteration<'a> {
    /// Points `[n, dim]`.
    pub points: DeviceSlice<'a, f32>,
    /// Coordinates of a point.
    pub dim: usize,
    /// Centroids `[k, dim]`.
    pub centroids: DeviceSlice<'a, f32>,
    /// Label of each point before and after; 2^32 - 1: none yet.
    pub labels: DeviceSliceMut<'a, u32>,
    /// Sums of the points of each cluster `[k, dim]`.
    pub sums: DeviceSliceMut<'a, f64>,
    /// Points of each cluster.
    pub counts: DeviceSliceMut<'a, u64>,
}

/// Where the parts of the scratch memory begin: a few words, norms `[n]`, half norms `[k]`, sums `[k, dim]`.
struct Parts {
    max_norm: u64,
    changed: u64,
    max_bits: u64,
    sums: u64,
    norms: u64,
    half_norms: u64,
}

const WORDS: usize = 32;

impl Stream {
    /// Gives every point the label of its nearest centroid, bit for bit the CPU's, and sums and counts the points of each
    /// cluster. The sums are exact to `n 2^-61` of the largest coordinate for each point, the same at every launch and on
    /// every GPU. Returns how many labels changed; waits for the result. Errors: sizes that do not fit, points that are not
    /// finite.
    pub fn kmeans_iteration(&self, step: KmeansIteration<'_>) -> Result<u64> {
        const NAME: &str = "kmeans_iteration";
        let (dim, n, k) = (step.dim, step.labels.len, step.counts.len);
        if dim == 0 || k == 0 || n >= u32::MAX as usize || k >= u32::MAX as usize {
            return Err(Error::shape(NAME, "k", "1 or more centroids and dimensions, fewer than 2^32 - 1 points", k));
        }
        let size =
            |rows: usize| rows.checked_mul(dim).ok_or_else(|| Error::shape(NAME, "dim", "a size within memory", dim));
        self.expect(NAME, "points", step.points, size(n)?)?;
        self.expect(NAME, "centroids", step.centroids, size(k)?)?;
        self.expect(NAME, "sums", step.sums.as_ref(), size(k)?)?;
        self.expect(NAME, "labels", step.labels.as_ref(), n)?;
        self.expect(NAME, "counts", step.counts.as_ref(), k)?;
        let cells = k * dim;
        let bytes = WORDS + 8 * cells + 4 * (n + k);
        self.with_scratch(bytes, |scratch| {
            let sums = scratch + WORDS as u64;
            let norms = sums + 8 * cells as u64;
            let half_norms = norms + 4 * n as u64;
            let parts =
                Parts { max_norm: scratch, changed: scratch + 8, max_bits: scratch + 16, sums, norms, half_norms };
            self.run_iteration(&step, &parts)
        })
    }

    fn run_iteration(&self, step: &KmeansIteration<'_>, at: &Parts) -> Result<u64> {
        let (dim, n, k) = (step.dim, step.labels.len, step.counts.len);
        let (points, centroids, cells) = (step.points.address, step.centroids.address, k * dim);
        let mut max_bits = 0i32;
        // SAFETY: the kernels' parameters, as cuda/kmeans.cu has them; sizes are checked, and the places that copies go to
        // live until the waits are over.
        unsafe {
            self.inner.clear(at.max_norm, WORDS + 8 * cells)?;
            self.inner.clear(step.counts.address, 8 * k)?;
            self.inner.launch("hqk_kmeans_norms_cuda", arguments![points, n, dim, at.norms, at.max_bits])?;
            self.inner.download((&raw mut max_bits).cast(), at.max_bits, 4)?;
            self.synchronize()?;
            if max_bits >= INFINITY_BITS {
                return Err(Error::invalid("points", "finite coordinates", "one that is not"));
            }
            let prepare = arguments![centroids, k, dim, at.half_norms, at.max_norm];
            self.inner.launch("hqk_kmeans_prepare_cuda", prepare)?;
            let iterate = arguments![
                points,
                at.norms,
                n,
                dim,
                centroids,
                at.half_norms,
                at.max_norm,
                k,
                at.max_bits,
                step.labels.address,
                at.sums,
                step.counts.address,
                at.changed,
            ];
            self.inner.launch("hqk_kmeans_iteration_cuda", iterate)?;
            let finish = arguments![at.sums, cells, at.max_bits, n, step.sums.address];
            self.inner.launch("hqk_kmeans_finish_cuda", finish)?;
            let mut changed = 0u64;
            self.inner.download((&raw mut changed).cast(), at.changed, 8)?;
            self.synchronize()?;
            Ok(changed)
        }
    }

    /// Label of the nearest centroid `[k, dim]` and squared distance to it for each point `[n, dim]`: bit for bit
    /// [`crate::dispatch::Context::kmeans_assign`]. Waits for a first look at the numbers. Errors: sizes that do not fit, points
    /// or centroids that are not finite.
    pub fn kmeans_assign(
        &self,
        points: DeviceSlice<'_, f32>,
        dim: usize,
        centroids: DeviceSlice<'_, f32>,
        labels: DeviceSliceMut<'_, u32>,
        distances: DeviceSliceMut<'_, f32>,
    ) -> Result<()> {
        const NAME: &str = "kmeans_assign";
        let (n, k) = (labels.len, centroids.len.checked_div(dim).unwrap_or(0));
        if k == 0 || n >= u32::MAX as usize || k >= u32::MAX as usize {
            return Err(Error::shape(NAME, "centroids", "1 or more, fewer than 2^32 - 1 points", k));
        }
        self.expect(NAME, "points", points, n.saturating_mul(dim))?;
        self.expect(NAME, "centroids", centroids, k * dim)?;
        self.expect(NAME, "labels", labels.as_ref(), n)?;
        self.expect(NAME, "distances", distances.as_ref(), n)?;
        let (points, centroids, labels, distances) =
            (points.address, centroids.address, labels.address, distances.address);
        self.with_scratch(WORDS + 4 * (n + k), |scratch| {
            let (max_norm, max_bits, norms) = (scratch, scratch + 16, scratch + WORDS as u64);
            let half_norms = norms + 4 * n as u64;
            let (none, mut words) = (0u64, [0u64; 3]);
            // SAFETY: the kernels' parameters, as cuda/kmeans.cu has them: without sums nothing is added up or counted. Sizes
            // are checked, and the words live until the wait is over.
            unsafe {
                self.inner.clear(scratch, WORDS)?;
                self.inner.launch("hqk_kmeans_norms_cuda", arguments![points, n, dim, norms, max_bits])?;
                self.inner.launch("hqk_kmeans_prepare_cuda", arguments![centroids, k, dim, half_norms, max_norm])?;
                self.inner.download((&raw mut words).cast(), scratch, size_of_val(&words))?;
            }
            self.synchronize()?;
            if !f64::from_bits(words[0]).is_finite() || words[2] as i32 >= INFINITY_BITS {
                return Err(Error::invalid("points", "finite coordinates of points and centroids", "one that is not"));
            }
            let assign = arguments![
                points, norms, n, dim, centroids, half_norms, max_norm, k, max_bits, labels, none, none, none
            ];
            let measure = arguments![points, n, dim, centroids, labels, distances];
            // SAFETY: as above; the labels are those of centroids by then.
            unsafe {
                self.inner.launch("hqk_kmeans_iteration_cuda", assign)?;
                self.inner.launch("hqk_kmeans_distances_cuda", measure)
            }
        })
    }

    /// Squared distance in f64, rounded, of each point to the centroid of its label, bit for bit the CPU's. Labels are below
    /// the number of centroids: the caller has seen to it.
    ///
    /// # Safety
    /// A label that is no centroid reads outside the centroids.
    pub unsafe fn kmeans_distances(
        &self,
        points: DeviceSlice<'_, f32>,
        dim: usize,
        centroids: DeviceSlice<'_, f32>,
        labels: DeviceSlice<'_, u32>,
        distances: DeviceSliceMut<'_, f32>,
    ) -> Result<()> {
        let n = labels.len;
        self.expect("kmeans_distances", "points", points, n.saturating_mul(dim))?;
        self.expect("kmeans_distances", "centroids", centroids, centroids.len)?;
        self.expect("kmeans_distances", "labels", labels, n)?;
        self.expect("kmeans_distances", "distances", distances.as_ref(), n)?;
        let arguments = arguments![points.address, n, dim, centroids.address, labels.address, distances.address];
        // SAFETY: the kernel's parameters; sizes are checked, the caller vouches for the labels.
        unsafe { self.inner.launch("hqk_kmeans_distances_cuda", arguments) }
    }
}
