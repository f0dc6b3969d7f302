//! Clusters of the rows or groups of a layer, and the bits each deserves.
#![forbid(unsafe_code)]

use super::{KMeans, KMeansOptions};
use crate::dispatch::Context;
use crate::quant::{AdaptiveQuantizer, BitUnit, Granularity, Precision, Quantizer};
use crate::{Error, Result};

/// Features of a unit: mean magnitude, standard deviation, largest magnitude, mean, share of zeros under the ternary
/// rule.
const FEATURES: usize = 5;

/// The units of a matrix (runs of `unit` weights: whole rows, or groups within rows) in clusters of alike weights.
#[derive(Clone, PartialEq, Debug)]
pub struct ParameterClustering {
    unit: usize,
    kmeans: KMeans,
}

/// One cluster with what was measured and what is suggested.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ClusterBits {
    /// Number of the cluster.
    pub cluster: usize,
    /// Weights in it.
    pub elements: usize,
    /// Its importance as measured.
    pub importance: f64,
    /// The form suggested for it.
    pub precision: Precision,
}

/// A matrix quantized cluster by cluster.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusteredWeights {
    /// The values the codes stand for, in the place of the weights.
    pub values: Vec<f32>,
    /// Bytes of all codes and scales, and of one cluster number a unit.
    pub bytes: usize,
}

impl ParameterClustering {
    /// Clusters the units of `weights`, each `unit` long (`cols` for rows, 128 for groups of 128 of a matrix whose
    /// columns are a multiple of 128), by magnitude, spread, extremes, mean and share of zeros, each feature scaled to
    /// unit variance. More clusters than units are cut to the number of units, with a warning.
    ///
    /// Errors: `unit` is zero or does not divide the weights, no weights, a weight that is not finite, zero clusters.
    pub fn fit(context: &Context, weights: &[f32], unit: usize, clusters: usize, seed: u64) -> Result<Self> {
        if unit == 0 || weights.is_empty() || !weights.len().is_multiple_of(unit) {
            let expected = format!("a positive multiple of the unit, {unit}");
            return Err(Error::shape("ParameterClustering", "weights", expected, weights.len()));
        }
        if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
            return Err(Error::NonFinite { tensor: "weights".into(), index, value: weights[index] });
        }
        let units = weights.len() / unit;
        if clusters > units {
            tracing::warn!("parameter_clusters: {clusters} clusters for {units} units: using {units}");
        }
        let mut points: Vec<[f64; FEATURES]> = weights.chunks_exact(unit).map(features).collect();
        standardize(&mut points);
        let points: Vec<f32> = points.iter().flatten().map(|&v| v as f32).collect();
        let options = KMeansOptions { clusters: clusters.min(units), seed, ..KMeansOptions::default() };
        Ok(ParameterClustering { unit, kmeans: KMeans::fit(context, &points, FEATURES, &options)? })
    }

    /// The clustering behind it: labels and facts of the units.
    pub fn kmeans(&self) -> &KMeans {
        &self.kmeans
    }

    /// Weights of one unit.
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// Importance of each cluster as the sum of its units' sensitivities (say, of `sum (g * w)^2` over the unit's
    /// weights and some batches: the squared-gradient estimate of what disturbing them costs).
    /// Errors: not one number a unit, one that is negative or not finite.
    pub fn importance_from_units(&self, sensitivities: &[f64]) -> Result<Vec<f64>> {
        let labels = self.kmeans.labels();
        if sensitivities.len() != labels.len() {
            return Err(Error::shape("importance", "sensitivities", labels.len(), sensitivities.len()));
        }
        if let Some(index) = sensitivities.iter().position(|s| !(s.is_finite() && *s >= 0.0)) {
            return Err(Error::invalid(format!("sensitivity {index}"), "a number of at least 0", sensitivities[index]));
        }
        let mut sums = vec![0.0; self.kmeans.clusters()];
        labels.iter().zip(sensitivities).for_each(|(&label, s)| sums[label as usize] += s);
        Ok(sums)
    }

    /// Importance of each cluster by experiment: `measure` gets a cluster's number and its units (ascending) and gives,
    /// say, the rise of the loss when they alone are quantized. A negative rise counts as zero.
    /// Errors: those of `measure`; a measurement that is not finite.
    pub fn importance_by(&self, mut measure: impl FnMut(usize, &[usize]) -> Result<f64>) -> Result<Vec<f64>> {
        let measured = (0..self.kmeans.clusters()).map(|cluster| {
            let rise = measure(cluster, &self.kmeans.cluster_info(cluster)?.members)?;
            if !rise.is_finite() {
                return Err(Error::invalid(format!("importance of cluster {cluster}"), "a finite number", rise));
            }
            Ok(rise.max(0.0))
        });
        measured.collect()
    }

    /// The precision of each cluster under a mean bit budget (1.58 by default). Errors: not one importance a cluster,
    /// those of [`AdaptiveQuantizer::allocate`].
    pub fn suggest_bits(&self, importances: &[f64], budget: &AdaptiveQuantizer) -> Result<Vec<ClusterBits>> {
        let sizes = self.sizes();
        if importances.len() != sizes.len() {
            return Err(Error::shape("suggest_bits", "importances", sizes.len(), importances.len()));
        }
        let units = sizes.iter().zip(importances);
        let units: Vec<BitUnit> =
            units.map(|(&size, &importance)| BitUnit { elements: size * self.unit, importance, rows: 0 }).collect();
        let precisions = budget.allocate(&units)?;
        let rows = units.iter().zip(precisions).enumerate();
        Ok(rows
            .map(|(cluster, (unit, precision))| ClusterBits {
                cluster,
                elements: unit.elements,
                importance: unit.importance,
                precision,
            })
            .collect())
    }

    /// Quantizes the weights this clustering was made from, each cluster as one matrix of its own precision with a
    /// scale a unit and least-squares output scales. Errors: another number of weights, not one precision a cluster, a
    /// weight that is not finite.
    pub fn quantize(&self, context: &Context, weights: &[f32], precisions: &[Precision]) -> Result<ClusteredWeights> {
        let clusters = self.kmeans.clusters();
        let elements = self.kmeans.labels().len() * self.unit;
        if weights.len() != elements {
            return Err(Error::shape("ParameterClustering", "weights", elements, weights.len()));
        }
        if precisions.len() != clusters {
            return Err(Error::shape("ParameterClustering", "precisions", clusters, precisions.len()));
        }
        let mut values = weights.to_vec();
        let mut bytes = self.kmeans.labels().len() * clusters.next_power_of_two().ilog2() as usize;
        bytes = bytes.div_ceil(8);
        for (cluster, &precision) in precisions.iter().enumerate() {
            let members = self.kmeans.cluster_info(cluster)?.members;
            if precision == Precision::F32 {
                bytes += 4 * members.len() * self.unit;
                continue;
            }
            let gathered: Vec<f32> =
                members.iter().flat_map(|&m| &weights[m * self.unit..][..self.unit]).copied().collect();
            let quantizer = Quantizer::new(precision).granularity(Granularity::Row).least_squares();
            let tensor = quantizer.quantize(context, &gathered, members.len(), self.unit)?;
            bytes += tensor.packed_bytes();
            let dequantized = tensor.dequantize(context);
            for (&member, unit) in members.iter().zip(dequantized.chunks_exact(self.unit)) {
                values[member * self.unit..][..self.unit].copy_from_slice(unit);
            }
        }
        Ok(ClusteredWeights { values, bytes })
    }

    fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.kmeans.clusters()];
        self.kmeans.labels().iter().for_each(|&label| sizes[label as usize] += 1);
        sizes
    }
}

fn features(unit: &[f32]) -> [f64; FEATURES] {
    let n = unit.len() as f64;
    let values = || unit.iter().map(|&w| f64::from(w));
    let magnitude = values().map(f64::abs).sum::<f64>() / n;
    let mean = values().sum::<f64>() / n;
    let deviation = (values().map(|w| (w - mean) * (w - mean)).sum::<f64>() / n).sqrt();
    let largest = values().map(f64::abs).fold(0.0, f64::max);
    let zeros = values().filter(|w| w.abs() <= magnitude / 2.0).count() as f64 / n;
    [magnitude, deviation, largest, mean, zeros]
}

/// Each feature to mean 0 and variance 1; one that does not vary to 0.
fn standardize(points: &mut [[f64; FEATURES]]) {
    let n = points.len() as f64;
    for feature in 0..FEATURES {
        let mean = points.iter().map(|p| p[feature]).sum::<f64>() / n;
        let deviation = (points.iter().map(|p| (p[feature] - mean).powi(2)).sum::<f64>() / n).sqrt();
        let factor = if deviation > 1e-12 * mean.abs() { 1.0 / deviation } else { 0.0 };
        points.iter_mut().for_each(|p| p[feature] = (p[feature] - mean) * factor);
    }
}
