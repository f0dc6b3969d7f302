//! Clusters of each matrix's rows, how much they matter, and the precision each should have under the bit budget.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::objective::Objective;
use super::trainer::Trainer;
use crate::Result;
use crate::cluster::ParameterClustering;
use crate::nn::{ParamKind, Precision};
use crate::quant::AdaptiveQuantizer;

/// The clusters of one matrix.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ParameterReport {
    /// The parameter.
    pub name: String,
    /// Its clusters, in order.
    pub clusters: Vec<ClusterReport>,
}

/// One cluster of a matrix's rows.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct ClusterReport {
    /// Weights in it.
    pub elements: usize,
    /// Share of the matrix's importance: `sum (gradient * weight)^2` of the last step, the squared-gradient estimate of
    /// what disturbing these weights costs.
    pub importance: f64,
    /// Suggested form under a mean budget of `target_bits`.
    pub precision: Precision,
}

impl<O: Objective> Trainer<O> {
    /// Clusters the rows of every quantized matrix (`parameter_clusters` of them) and suggests a precision for each under
    /// `target_bits`. Importances come from the gradients of the last step. Error: a weight that is not finite.
    pub fn parameter_report(&self) -> Result<Vec<ParameterReport>> {
        let store = self.objective.store();
        let budget = AdaptiveQuantizer { mean_bits: self.config.target_bits, ..AdaptiveQuantizer::default() };
        let mut reports = Vec::new();
        for id in store.ids() {
            let spec = store.spec(id);
            if spec.kind != ParamKind::Linear || spec.precision == Precision::F32 || spec.is_empty() {
                continue;
            }
            let (weights, gradients) = (&*store.weight_values(id), &*store.gradient_values(id));
            let row = spec.shape.last().copied().unwrap_or(1);
            let count = self.config.parameter_clusters.min(weights.len() / row);
            let clustering = ParameterClustering::fit(&self.context, weights, row, count, self.config.seed)?;
            let squares = |(weights, gradients): (&[f32], &[f32])| {
                weights.iter().zip(gradients).map(|(w, g)| (f64::from(*w) * f64::from(*g)).powi(2)).sum::<f64>()
            };
            let sensitivities: Vec<f64> =
                weights.chunks_exact(row).zip(gradients.chunks_exact(row)).map(squares).collect();
            let importances = clustering.importance_from_units(&sensitivities)?;
            let total = importances.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            let suggested = clustering.suggest_bits(&importances, &budget)?;
            let clusters = suggested.into_iter().map(|cluster| ClusterReport {
                elements: cluster.elements,
                importance: cluster.importance / total,
                precision: cluster.precision,
            });
            reports.push(ParameterReport { name: spec.name.clone(), clusters: clusters.collect() });
        }
        Ok(reports)
    }
}
