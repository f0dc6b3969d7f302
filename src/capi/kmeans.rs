//! `hq_kmeans`: clusters of points.

use super::boundary::{free_handle, give_handle, guard, handle_ref, input, not_null, output, size};
use super::context::{context_of, hq_context};
use super::status::hq_status;
use crate::cluster::{KMeans, KMeansOptions};

/// A fitted clustering.
pub struct hq_kmeans {
    _opaque: [u8; 0],
}

/// Clusters `count` points of `dim` coordinates (row-major) into `clusters` groups: k-means++ seeding from `seed`, then
/// Lloyd's iterations until no label changes (100 at most). The same at any number of threads. HQ_INVALID_VALUE: more
/// clusters than points; HQ_NOT_FINITE: a coordinate is NaN or infinite.
///
/// # Safety
/// Pointers are valid for the stated lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_fit(
    context: *const hq_context,
    points: *const f32,
    count: usize,
    dim: usize,
    clusters: usize,
    seed: u64,
    out: *mut *mut hq_kmeans,
) -> hq_status {
    guard("hq_kmeans_fit", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        not_null(out, "out")?;
        // SAFETY: as the caller vouches.
        let points = unsafe { input(points, size(&[count, dim], "points")?, "points") }?;
        let options = KMeansOptions { clusters, seed, ..KMeansOptions::default() };
        let fitted = KMeans::fit(context, points, dim, &options)?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { give_handle(fitted, out) };
        Ok(())
    })
}

/// As `hq_kmeans_fit`, from the caller's centroids (`clusters x dim`, row-major) instead of seeding, with at most
/// `max_iterations` iterations. `pruning`: let bounds on the distances spare searches; the result is the same, to the
/// bit. HQ_NOT_FINITE: a coordinate of a point or a centroid is NaN or infinite.
///
/// # Safety
/// Pointers are valid for the stated lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_fit_from(
    context: *const hq_context,
    points: *const f32,
    count: usize,
    dim: usize,
    clusters: usize,
    centroids: *const f32,
    max_iterations: usize,
    pruning: bool,
    out: *mut *mut hq_kmeans,
) -> hq_status {
    guard("hq_kmeans_fit_from", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        not_null(out, "out")?;
        // SAFETY: as the caller vouches.
        let points = unsafe { input(points, size(&[count, dim], "points")?, "points") }?;
        // SAFETY: as the caller vouches.
        let centroids = unsafe { input(centroids, size(&[clusters, dim], "centroids")?, "centroids") }?;
        let options = KMeansOptions { clusters, max_iterations, pruning, ..KMeansOptions::default() };
        let fitted = KMeans::fit_from(context, points, dim, centroids, &options)?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { give_handle(fitted, out) };
        Ok(())
    })
}

/// The nearest centroid of each of `count` points (the lowest number on ties).
///
/// # Safety
/// Pointers are valid for the stated lengths; outputs overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_predict(
    kmeans: *const hq_kmeans,
    context: *const hq_context,
    points: *const f32,
    count: usize,
    labels: *mut u32,
) -> hq_status {
    guard("hq_kmeans_predict", || {
        // SAFETY: as the caller vouches, here and below.
        let kmeans = unsafe { handle_ref::<KMeans, _>(kmeans, "kmeans") }?;
        // SAFETY: see above.
        let context = unsafe { context_of(context) }?;
        // SAFETY: see above.
        let points = unsafe { input(points, size(&[count, kmeans.dim()], "points")?, "points") }?;
        // SAFETY: see above.
        let labels = unsafe { output(labels, count, "labels") }?;
        labels.copy_from_slice(&kmeans.predict(context, points)?);
        Ok(())
    })
}

/// The centroids, `clusters x dim`, row-major.
///
/// # Safety
/// `centroids` is valid for writes of `clusters * dim` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_centroids(kmeans: *const hq_kmeans, centroids: *mut f32) -> hq_status {
    guard("hq_kmeans_centroids", || {
        // SAFETY: as the caller vouches, here and below.
        let kmeans = unsafe { handle_ref::<KMeans, _>(kmeans, "kmeans") }?;
        // SAFETY: see above.
        let centroids = unsafe { output(centroids, kmeans.centroids().len(), "centroids") }?;
        centroids.copy_from_slice(kmeans.centroids());
        Ok(())
    })
}

/// The cluster of each fitted point.
///
/// # Safety
/// `labels` is valid for writes of as many numbers as there were points.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_labels(kmeans: *const hq_kmeans, labels: *mut u32) -> hq_status {
    guard("hq_kmeans_labels", || {
        // SAFETY: as the caller vouches, here and below.
        let kmeans = unsafe { handle_ref::<KMeans, _>(kmeans, "kmeans") }?;
        // SAFETY: see above.
        let labels = unsafe { output(labels, kmeans.labels().len(), "labels") }?;
        labels.copy_from_slice(kmeans.labels());
        Ok(())
    })
}

/// Lloyd's iterations done.
///
/// # Safety
/// `iterations` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_iterations(kmeans: *const hq_kmeans, iterations: *mut usize) -> hq_status {
    guard("hq_kmeans_iterations", || {
        // SAFETY: as the caller vouches, here and below.
        let kmeans = unsafe { handle_ref::<KMeans, _>(kmeans, "kmeans") }?;
        not_null(iterations, "iterations")?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { iterations.write(kmeans.iterations()) };
        Ok(())
    })
}

/// Sum of squared distances of the fitted points to their centroids.
///
/// # Safety
/// `inertia` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_inertia(kmeans: *const hq_kmeans, inertia: *mut f64) -> hq_status {
    guard("hq_kmeans_inertia", || {
        // SAFETY: as the caller vouches, here and below.
        let kmeans = unsafe { handle_ref::<KMeans, _>(kmeans, "kmeans") }?;
        not_null(inertia, "inertia")?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { inertia.write(kmeans.inertia()) };
        Ok(())
    })
}

/// Whether the iterations ended because no label changed.
///
/// # Safety
/// `converged` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_converged(kmeans: *const hq_kmeans, converged: *mut bool) -> hq_status {
    guard("hq_kmeans_converged", || {
        // SAFETY: as the caller vouches, here and below.
        let kmeans = unsafe { handle_ref::<KMeans, _>(kmeans, "kmeans") }?;
        not_null(converged, "converged")?;
        // SAFETY: not NULL; the caller vouches for it.
        unsafe { converged.write(kmeans.converged()) };
        Ok(())
    })
}

/// Frees a clustering; NULL is fine.
///
/// # Safety
/// `kmeans` is NULL or came from `hq_kmeans_fit` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_kmeans_free(kmeans: *mut hq_kmeans) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle::<KMeans, _>(kmeans) };
}
