//! `hq_data_clustering` and `hq_parameter_clustering`: clusters of training windows and of the parts of a matrix.

use super::arguments::{expect_len, input, output, room_for, size};
use super::boundary::{Failure, Opaque, free_handle, guard, handle_ref, new_handle, optional_place, place};
use super::context::{context_of, context_value, hq_context};
use super::quantizer::{number_of, precision_of};
use super::status::hq_status;
use crate::cluster::{BatchStrategy, DataClustering, ParameterClustering, WindowEmbedding};
use crate::quant::{AdaptiveQuantizer, Precision};

/// Each batch spans the clusters, as evenly as its size allows.
pub const HQ_BATCH_STRATIFIED: u32 = 0;
/// Each batch from one cluster, `step mod clusters`.
pub const HQ_BATCH_ROUND_ROBIN: u32 = 1;
/// Clusters are ignored.
pub const HQ_BATCH_RANDOM: u32 = 2;

/// Training windows in balanced clusters. Calls with a `const` handle may run on several threads at the same time.
pub struct hq_data_clustering {
    _opaque: [u8; 0],
}

impl Opaque for hq_data_clustering {
    type Value = DataClustering;
    const NAME: &'static str = "hq_data_clustering";
}

/// The rows or groups of a matrix in clusters: it never changes, so any number of threads may use it at the same time.
pub struct hq_parameter_clustering {
    _opaque: [u8; 0],
}

impl Opaque for hq_parameter_clustering {
    type Value = ParameterClustering;
    const NAME: &'static str = "hq_parameter_clustering";
}

/// Embeds windows of tokens for clustering, by hashed counts of tokens and pairs: window `i` is the `length` tokens from
/// `starts[i]` (`count` of them) in `tokens` (`token_count`); `embeddings` is `count x dim`, `dim` 1 to 4,096 (32 is good).
/// HQ_SHAPE: a window that ends beyond the tokens.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_embed_windows(
    context: *const hq_context,
    tokens: *const u32,
    token_count: usize,
    starts: *const usize,
    count: usize,
    length: usize,
    dim: usize,
    embeddings: *mut f32,
) -> hq_status {
    guard("hq_embed_windows", || {
        let embedding = WindowEmbedding::new(dim)?;
        let len = size(&[count, dim], "embeddings")?;
        // SAFETY: as the caller vouches.
        let (context, tokens) = unsafe { (context_of(context)?, input(tokens, token_count, "tokens")?) };
        // SAFETY: as the caller vouches.
        let (starts, embeddings) = unsafe { (input(starts, count, "starts")?, output(embeddings, len, "embeddings")?) };
        embeddings.copy_from_slice(&embedding.embed_windows(context, tokens, starts, length)?);
        Ok(())
    })
}

/// Clusters `windows` embeddings of `dim` numbers (row-major; from `hq_embed_windows` or the caller's own) into clusters
/// whose sizes differ by at most one. More clusters than windows are cut to the number of windows, with a warning in the
/// context's log. HQ_NOT_FINITE: a number is NaN or infinite.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_data_clustering_fit(
    context: *const hq_context,
    embeddings: *const f32,
    windows: usize,
    dim: usize,
    clusters: usize,
    seed: u64,
    out: *mut *mut hq_data_clustering,
) -> hq_status {
    guard("hq_data_clustering_fit", || {
        // SAFETY: as the caller vouches.
        let (value, out) = unsafe { (context_value(context)?, place(out, "out")?) };
        // SAFETY: as the caller vouches.
        let points = unsafe { input(embeddings, size(&[windows, dim], "embeddings")?, "embeddings") }?;
        let fitted = value.logged(|| DataClustering::fit(&value.context, points, dim, clusters, seed))?;
        out.write(new_handle(fitted));
        Ok(())
    })
}

/// The cluster of each window: `count` must be the number of windows. `clusters`, if not NULL, gets their number.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_data_clustering_labels(
    clustering: *const hq_data_clustering,
    labels: *mut u32,
    count: usize,
    clusters: *mut usize,
) -> hq_status {
    guard("hq_data_clustering_labels", || {
        // SAFETY: as the caller vouches.
        let (value, clusters) =
            unsafe { (handle_ref(clustering, "clustering")?, optional_place(clusters, "clusters")?) };
        expect_len(count, value.windows(), "count")?;
        // SAFETY: as the caller vouches.
        unsafe { output(labels, count, "labels") }?.copy_from_slice(value.labels());
        if let Some(clusters) = clusters {
            clusters.write(value.clusters());
        }
        Ok(())
    })
}

/// The batch of `step`: `size` window numbers into `windows`, a function of the clusters, their seed, step, size and
/// `strategy` (an HQ_BATCH_ constant) alone. At a constant size no window of a cluster comes twice before all its fellows
/// came once. `cluster`, if not NULL, gets the cluster they come from, or -1.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_data_clustering_batch(
    clustering: *const hq_data_clustering,
    strategy: u32,
    step: u64,
    size: usize,
    windows: *mut u64,
    cluster: *mut i64,
) -> hq_status {
    guard("hq_data_clustering_batch", || {
        let strategy = match strategy {
            HQ_BATCH_STRATIFIED => BatchStrategy::Stratified,
            HQ_BATCH_ROUND_ROBIN => BatchStrategy::RoundRobin,
            HQ_BATCH_RANDOM => BatchStrategy::Random,
            other => return Err(Failure::invalid("strategy", "an HQ_BATCH_ constant (0 to 2)", other)),
        };
        // SAFETY: as the caller vouches.
        let (value, cluster) = unsafe { (handle_ref(clustering, "clustering")?, optional_place(cluster, "cluster")?) };
        // SAFETY: as the caller vouches.
        let windows = unsafe { output(windows, size, "windows") }?;
        if step.checked_add(1).and_then(|next| next.checked_mul(size as u64)).is_none() {
            return Err(Failure::shape("step x size", "below 2^64", format!("{step} x {size}")));
        }
        let batch = value.batch(strategy, step, size);
        windows.iter_mut().zip(batch.windows).for_each(|(window, found)| *window = found as u64);
        if let Some(cluster) = cluster {
            cluster.write(batch.cluster.map_or(-1, |cluster| cluster as i64));
        }
        Ok(())
    })
}

/// Frees a clustering; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_data_clustering_free(clustering: *mut hq_data_clustering) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(clustering) };
}

/// Clusters the units of a matrix by magnitude, spread, extremes, mean and share of zeros: `count` weights in units of
/// `unit` neighbours (the number of columns for rows, 128 for groups). HQ_SHAPE: `unit` does not divide `count`;
/// HQ_NOT_FINITE: a weight is NaN or infinite.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameter_clustering_fit(
    context: *const hq_context,
    weights: *const f32,
    count: usize,
    unit: usize,
    clusters: usize,
    seed: u64,
    out: *mut *mut hq_parameter_clustering,
) -> hq_status {
    guard("hq_parameter_clustering_fit", || {
        // SAFETY: as the caller vouches.
        let (value, out) = unsafe { (context_value(context)?, place(out, "out")?) };
        // SAFETY: as the caller vouches.
        let weights = unsafe { input(weights, count, "weights") }?;
        let fitted = value.logged(|| ParameterClustering::fit(&value.context, weights, unit, clusters, seed))?;
        out.write(new_handle(fitted));
        Ok(())
    })
}

/// The cluster of each unit: `count` must be the number of units. `clusters`, if not NULL, gets their number.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameter_clustering_labels(
    clustering: *const hq_parameter_clustering,
    labels: *mut u32,
    count: usize,
    clusters: *mut usize,
) -> hq_status {
    guard("hq_parameter_clustering_labels", || {
        // SAFETY: as the caller vouches.
        let (value, clusters) =
            unsafe { (handle_ref(clustering, "clustering")?, optional_place(clusters, "clusters")?) };
        let kmeans = value.kmeans();
        expect_len(count, kmeans.labels().len(), "count")?;
        // SAFETY: as the caller vouches.
        unsafe { output(labels, count, "labels") }?.copy_from_slice(kmeans.labels());
        if let Some(clusters) = clusters {
            clusters.write(kmeans.clusters());
        }
        Ok(())
    })
}

/// A precision for each cluster under a mean budget of bits a weight. `sensitivities` has one number a unit (`units`), for
/// example the sum of `(gradient * weight)^2` over its weights; a cluster's importance is their sum. `precisions` gets one
/// HQ_PRECISION_ constant for each of `clusters`.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameter_clustering_suggest(
    clustering: *const hq_parameter_clustering,
    sensitivities: *const f64,
    units: usize,
    mean_bits: f64,
    min_bits: f64,
    max_bits: f64,
    precisions: *mut u32,
    clusters: usize,
) -> hq_status {
    guard("hq_parameter_clustering_suggest", || {
        // SAFETY: as the caller vouches.
        let value = unsafe { handle_ref(clustering, "clustering") }?;
        expect_len(clusters, value.kmeans().clusters(), "clusters")?;
        // SAFETY: as the caller vouches.
        let (sensitivities, precisions) =
            unsafe { (input(sensitivities, units, "sensitivities")?, output(precisions, clusters, "precisions")?) };
        let importances = value.importance_from_units(sensitivities)?;
        let found = value.suggest_bits(&importances, &AdaptiveQuantizer { mean_bits, min_bits, max_bits })?;
        precisions.iter_mut().zip(found).for_each(|(number, row)| *number = number_of(row.precision));
        Ok(())
    })
}

/// Quantizes the `count` weights that the clustering was made from, each cluster in its own precision (one HQ_PRECISION_
/// constant for each of `clusters`) with a scale a unit: `values` (`count`) gets what the codes stand for, `bytes`, if not
/// NULL, the bytes of all codes, scales and cluster numbers.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameter_clustering_quantize(
    clustering: *const hq_parameter_clustering,
    context: *const hq_context,
    weights: *const f32,
    count: usize,
    precisions: *const u32,
    clusters: usize,
    values: *mut f32,
    bytes: *mut usize,
) -> hq_status {
    guard("hq_parameter_clustering_quantize", || {
        room_for::<f32>(count, "count")?;
        // SAFETY: as the caller vouches.
        let (value, context) = unsafe { (handle_ref(clustering, "clustering")?, context_of(context)?) };
        // SAFETY: as the caller vouches.
        let (weights, precisions) =
            unsafe { (input(weights, count, "weights")?, input(precisions, clusters, "precisions")?) };
        // SAFETY: as the caller vouches.
        let (values, bytes) = unsafe { (output(values, count, "values")?, optional_place(bytes, "bytes")?) };
        let precisions: Vec<Precision> =
            precisions.iter().map(|&number| precision_of(number)).collect::<Result<_, Failure>>()?;
        let quantized = value.quantize(context, weights, &precisions)?;
        values.copy_from_slice(&quantized.values);
        if let Some(bytes) = bytes {
            bytes.write(quantized.bytes);
        }
        Ok(())
    })
}

/// Frees a clustering; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_parameter_clustering_free(clustering: *mut hq_parameter_clustering) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(clustering) };
}
