//! `hq_kmeans`: clusters of points; its two kernels on the caller's buffers.

use super::arguments::{Growable, at_least_one, expect_len, index, input, options, output, report, size};
use super::boundary::{Failure, Opaque, free_handle, guard, handle_ref, new_handle, place};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use super::vectors::check_finite;
use crate::cluster::{KMeans, KMeansOptions, suggest_clusters};
use crate::kernels::NO_LABEL;

/// A fitted clustering: it never changes, so any number of threads may use it at the same time.
pub struct hq_kmeans {
    _opaque: [u8; 0],
}

impl Opaque for hq_kmeans {
    type Value = KMeans;
    const NAME: &'static str = "hq_kmeans";
}

/// How `hq_kmeans_fit` runs. Set `struct_size` to `sizeof(hq_kmeans_options)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_kmeans_options {
    /// `sizeof(hq_kmeans_options)`.
    pub struct_size: u32,
    /// Lloyd iterations at most; 0: 100.
    pub max_iterations: u32,
    /// Number of clusters, 1 to the number of points.
    pub clusters: u64,
    /// Seed of k-means++.
    pub seed: u64,
    /// 1: search every centroid at every iteration, instead of sparing searches by bounds. The result is the same.
    pub no_pruning: u32,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_kmeans_options {
    /// Up to `seed`.
    const FIRST_SIZE: usize = 24;
}

/// Facts of a clustering. Set `struct_size` to `sizeof(hq_kmeans_info)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_kmeans_info {
    /// `sizeof(hq_kmeans_info)`.
    pub struct_size: u32,
    /// 1 if the iterations ended because no label changed.
    pub converged: u32,
    /// Points that were clustered.
    pub points: u64,
    /// Coordinates of a point.
    pub dim: u64,
    /// Clusters.
    pub clusters: u64,
    /// Lloyd iterations done.
    pub iterations: u64,
    /// Sum of squared distances of the points to their centroids.
    pub inertia: f64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_kmeans_info {
    const FIRST_SIZE: usize = size_of::<hq_kmeans_info>();
}

/// Facts of one cluster. Set `struct_size` to `sizeof(hq_cluster_info)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_cluster_info {
    /// `sizeof(hq_cluster_info)`.
    pub struct_size: u32,
    /// Number of the cluster.
    pub cluster: u32,
    /// Points in it.
    pub size: u64,
    /// Mean Euclidean distance of its points to the centroid.
    pub mean_distance: f64,
    /// Standard deviation (of the population) of those distances.
    pub deviation: f64,
}

// SAFETY: repr(C), size first, numbers.
unsafe impl Growable for hq_cluster_info {
    const FIRST_SIZE: usize = size_of::<hq_cluster_info>();
}

/// Clusters `count` points of `dim` coordinates (row-major): k-means++ seeding, then Lloyd's iterations until no label
/// changes. The same at any number of threads. HQ_INVALID_VALUE: no clusters, or more than points; HQ_NOT_FINITE: a
/// coordinate is NaN or infinite.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_fit(
    context: *const hq_context,
    options: *const hq_kmeans_options,
    points: *const f32,
    count: usize,
    dim: usize,
    out: *mut *mut hq_kmeans,
) -> hq_status {
    guard("hq_kmeans_fit", || {
        // SAFETY: as the caller vouches.
        let (context, wanted) = unsafe { (context_of(context)?, self::options(options, "options")?) };
        // SAFETY: as the caller vouches.
        let (points, out) = unsafe { (input(points, size(&[count, dim], "points")?, "points")?, place(out, "out")?) };
        let options = fit_options(&wanted)?;
        out.write(new_handle(KMeans::fit(context, points, dim, &options)?));
        Ok(())
    })
}

fn fit_options(wanted: &hq_kmeans_options) -> Result<KMeansOptions, Failure> {
    let mut options = KMeansOptions { seed: wanted.seed, pruning: wanted.no_pruning == 0, ..KMeansOptions::default() };
    options.clusters = index(wanted.clusters, "clusters")?;
    if wanted.max_iterations != 0 {
        options.max_iterations = wanted.max_iterations as usize;
    }
    Ok(options)
}

/// As `hq_kmeans_fit`, from the caller's `centroids` (`clusters x dim`, row-major) instead of seeding.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_fit_from(
    context: *const hq_context,
    options: *const hq_kmeans_options,
    centroids: *const f32,
    points: *const f32,
    count: usize,
    dim: usize,
    out: *mut *mut hq_kmeans,
) -> hq_status {
    guard("hq_kmeans_fit_from", || {
        // SAFETY: as the caller vouches.
        let (context, wanted) = unsafe { (context_of(context)?, self::options(options, "options")?) };
        let options = fit_options(&wanted)?;
        let (len, total) = (size(&[count, dim], "points")?, size(&[options.clusters, dim], "centroids")?);
        // SAFETY: as the caller vouches.
        let (centroids, points) = unsafe { (input(centroids, total, "centroids")?, input(points, len, "points")?) };
        // SAFETY: as the caller vouches.
        let out = unsafe { place(out, "out") }?;
        out.write(new_handle(KMeans::fit_from(context, points, dim, centroids, &options)?));
        Ok(())
    })
}

/// The nearest centroid of each of `count` points: `labels` (`count`; the lowest number on ties).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_predict(
    kmeans: *const hq_kmeans,
    context: *const hq_context,
    points: *const f32,
    count: usize,
    labels: *mut u32,
) -> hq_status {
    guard("hq_kmeans_predict", || {
        // SAFETY: as the caller vouches.
        let (kmeans, context) = unsafe { (handle_ref(kmeans, "kmeans")?, context_of(context)?) };
        let len = size(&[count, kmeans.dim()], "points")?;
        // SAFETY: as the caller vouches.
        let (points, labels) = unsafe { (input(points, len, "points")?, output(labels, count, "labels")?) };
        labels.copy_from_slice(&kmeans.predict(context, points)?);
        Ok(())
    })
}

/// What was clustered and how it ended.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_get_info(kmeans: *const hq_kmeans, info: *mut hq_kmeans_info) -> hq_status {
    guard("hq_kmeans_get_info", || {
        // SAFETY: as the caller vouches.
        let (kmeans, info) = unsafe { (handle_ref(kmeans, "kmeans")?, report(info, "info")?) };
        info.write(hq_kmeans_info {
            struct_size: 0,
            converged: u32::from(kmeans.converged()),
            points: kmeans.labels().len() as u64,
            dim: kmeans.dim() as u64,
            clusters: kmeans.clusters() as u64,
            iterations: kmeans.iterations() as u64,
            inertia: kmeans.inertia(),
        });
        Ok(())
    })
}

/// The centroids: `len` must be `clusters * dim`; row-major.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_centroids(kmeans: *const hq_kmeans, centroids: *mut f32, len: usize) -> hq_status {
    guard("hq_kmeans_centroids", || {
        // SAFETY: as the caller vouches.
        let kmeans = unsafe { handle_ref(kmeans, "kmeans") }?;
        expect_len(len, kmeans.centroids().len(), "len")?;
        // SAFETY: as the caller vouches.
        unsafe { output(centroids, len, "centroids") }?.copy_from_slice(kmeans.centroids());
        Ok(())
    })
}

/// The cluster of each fitted point: `count` must be the number of points.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_labels(kmeans: *const hq_kmeans, labels: *mut u32, count: usize) -> hq_status {
    guard("hq_kmeans_labels", || {
        // SAFETY: as the caller vouches.
        let kmeans = unsafe { handle_ref(kmeans, "kmeans") }?;
        expect_len(count, kmeans.labels().len(), "count")?;
        // SAFETY: as the caller vouches.
        unsafe { output(labels, count, "labels") }?.copy_from_slice(kmeans.labels());
        Ok(())
    })
}

/// The facts of cluster number `cluster`. HQ_INVALID_VALUE: there is no such cluster.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_cluster(
    kmeans: *const hq_kmeans,
    cluster: u32,
    info: *mut hq_cluster_info,
) -> hq_status {
    guard("hq_kmeans_cluster", || {
        // SAFETY: as the caller vouches.
        let (kmeans, info) = unsafe { (handle_ref(kmeans, "kmeans")?, report(info, "info")?) };
        let found = kmeans.cluster_info(cluster as usize)?;
        let (size, mean_distance, deviation) = (found.size as u64, found.mean_distance, found.std);
        info.write(hq_cluster_info { struct_size: 0, cluster, size, mean_distance, deviation });
        Ok(())
    })
}

/// Frees a clustering; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_free(kmeans: *mut hq_kmeans) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(kmeans) };
}

/// The number of clusters, 1 to `max_clusters`, that fits `count` points of `dim` coordinates best, by the mean silhouette
/// (Rousseeuw, 1987) on a sample of at most 1,000 points; 1 if there is no structure.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_suggest_clusters(
    context: *const hq_context,
    points: *const f32,
    count: usize,
    dim: usize,
    max_clusters: usize,
    seed: u64,
    clusters: *mut usize,
) -> hq_status {
    guard("hq_suggest_clusters", || {
        // SAFETY: as the caller vouches.
        let (context, clusters) = unsafe { (context_of(context)?, place(clusters, "clusters")?) };
        // SAFETY: as the caller vouches.
        let points = unsafe { input(points, size(&[count, dim], "points")?, "points") }?;
        clusters.write(suggest_clusters(context, points, dim, max_clusters, seed)?);
        Ok(())
    })
}

/// One assignment: for each of `count` points of `dim` coordinates the nearest of `clusters` centroids (`clusters x dim`),
/// `labels` (`count`; the lowest number on ties), and its squared distance, `distances` (`count`). Exact: the minimum of
/// the distances in f64. HQ_NOT_FINITE: a centroid is NaN or infinite; a point that is gets label 0 and distance NaN.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_assign(
    context: *const hq_context,
    points: *const f32,
    count: usize,
    dim: usize,
    centroids: *const f32,
    clusters: usize,
    labels: *mut u32,
    distances: *mut f32,
) -> hq_status {
    guard("hq_kmeans_assign", || {
        at_least_one(dim, "dim")?;
        at_least_one(clusters, "clusters")?;
        let (len, total) = (size(&[count, dim], "points")?, size(&[clusters, dim], "centroids")?);
        if u32::try_from(clusters).is_err() {
            return Err(Failure::shape("clusters", "below 2^32", clusters));
        }
        // SAFETY: as the caller vouches.
        let (context, points) = unsafe { (context_of(context)?, input(points, len, "points")?) };
        // SAFETY: as the caller vouches.
        let (centroids, labels) = unsafe { (input(centroids, total, "centroids")?, output(labels, count, "labels")?) };
        // SAFETY: as the caller vouches.
        let distances = unsafe { output(distances, count, "distances") }?;
        check_finite(centroids, "centroids")?;
        context.kmeans_assign(points, count, dim, centroids, clusters, labels, distances);
        Ok(())
    })
}

/// The sum (`sums`, `clusters x dim`, f64) and number (`counts`, `clusters`) of the points of each label; `labels`
/// (`count`) are below `clusters`. Divide for the next centroids. On the calling thread, in the order of the points.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_sums(
    context: *const hq_context,
    points: *const f32,
    count: usize,
    dim: usize,
    labels: *const u32,
    clusters: usize,
    sums: *mut f64,
    counts: *mut i64,
) -> hq_status {
    guard("hq_kmeans_sums", || {
        at_least_one(dim, "dim")?;
        at_least_one(clusters, "clusters")?;
        let (len, total) = (size(&[count, dim], "points")?, size(&[clusters, dim], "sums")?);
        // SAFETY: as the caller vouches.
        let (context, points) = unsafe { (context_of(context)?, input(points, len, "points")?) };
        // SAFETY: as the caller vouches.
        let (labels, sums) = unsafe { (input(labels, count, "labels")?, output(sums, total, "sums")?) };
        // SAFETY: as the caller vouches.
        let counts = unsafe { output(counts, clusters, "counts") }?;
        if let Some(at) = labels.iter().position(|&label| label as usize >= clusters) {
            return Err(Failure::invalid(&format!("labels[{at}]"), format!("below {clusters}"), labels[at]));
        }
        sums.fill(0.0);
        counts.fill(0);
        let (before, mut touched) = (vec![NO_LABEL; count], vec![0; clusters]);
        context.kernels().kmeans_move(points, dim, &before, labels, sums, counts, &mut touched);
        Ok(())
    })
}
