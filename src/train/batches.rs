//! Which examples a step sees: a function of the seed, the step and, where draws follow the losses, the clusters' means.
#![forbid(unsafe_code)]

use super::cluster_losses::ClusterLosses;
use crate::cluster::{BatchStrategy, DataClustering, WindowBatch};
use crate::tensor::RandomStream;

/// Random streams of batches drawn without clusters, and by their losses (see [`RandomStream::new`]).
const BATCH_PURPOSE: u32 = 62;
const LOSS_PURPOSE: u32 = 63;

/// The examples of a step.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Batch {
    pub examples: Vec<usize>,
    /// How often each counts; empty: once.
    pub weights: Vec<f32>,
    /// The cluster they come from, if it is one.
    pub cluster: Option<usize>,
}

/// Draws batches of examples: by clusters from `first_step` on where there are any, else uniformly.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct BatchSampler {
    pub seed: u64,
    pub examples: usize,
    pub clusters: Option<DataClustering>,
    pub strategy: BatchStrategy,
    /// Draws by the clusters' losses instead.
    pub by_loss: bool,
    pub first_step: u64,
}

impl BatchSampler {
    /// Puts the `count` examples of `step` into `batch`.
    pub fn draw(&self, step: u64, count: usize, losses: &ClusterLosses, batch: &mut Batch) {
        batch.weights.clear();
        if let Some(clusters) = self.clusters.as_ref().filter(|_| step >= self.first_step) {
            if self.by_loss {
                return self.by_loss(clusters, step, count, losses, batch);
            }
            let mut drawn = WindowBatch { windows: std::mem::take(&mut batch.examples), cluster: None };
            clusters.batch_into(self.strategy, step, count, &mut drawn);
            (batch.examples, batch.cluster) = (drawn.windows, drawn.cluster);
            return;
        }
        let mut stream = RandomStream::new(self.seed, BATCH_PURPOSE, step as u32, (step >> 32) as u32);
        batch.examples.clear();
        batch.examples.extend((0..count).map(|_| stream.below(self.examples as u64) as usize));
        batch.cluster = None;
    }

    /// Systematic draws of clusters by their probabilities `p` (one random number, evenly spaced places: cluster `k` comes
    /// `count p_k` times on average), of examples uniformly within. An example counts (share of the data) / `p_k`: the
    /// expectation of any weighted mean is the mean over the data.
    fn by_loss(&self, clusters: &DataClustering, step: u64, count: usize, losses: &ClusterLosses, batch: &mut Batch) {
        let sizes: Vec<usize> = (0..clusters.clusters()).map(|cluster| clusters.members(cluster).len()).collect();
        let probabilities = losses.probabilities(&sizes);
        let mut stream = RandomStream::new(self.seed, LOSS_PURPOSE, step as u32, (step >> 32) as u32);
        let offset = stream.uniform();
        batch.examples.clear();
        batch.cluster = None;
        for cluster in systematic(&probabilities, count, offset) {
            let share = sizes[cluster] as f64 / self.examples as f64;
            batch.examples.push(clusters.members(cluster)[stream.below(sizes[cluster] as u64) as usize]);
            batch.weights.push((share / probabilities[cluster]) as f32);
        }
    }
}

/// Where the places `(i + offset) / count` fall in the intervals that `probabilities` cut [0, 1) into.
fn systematic(probabilities: &[f64], count: usize, offset: f64) -> Vec<usize> {
    let (mut chosen, mut end) = (0, probabilities[0]);
    let place = |index: usize| (index as f64 + offset) / count as f64;
    let next = |index: usize| {
        // The sum of all may round to less than 1.
        while place(index) >= end && chosen + 1 < probabilities.len() {
            chosen += 1;
            end += probabilities[chosen];
        }
        chosen
    };
    (0..count).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::{Context, ContextOptions};

    fn sampler(by_loss: bool) -> BatchSampler {
        let context = Context::new(ContextOptions { threads: Some(1), isa: None }).unwrap();
        let points: Vec<f32> = (0..40).map(|i| if i < 20 { i as f32 * 1e-3 } else { 9.0 + i as f32 * 1e-3 }).collect();
        let clusters = Some(DataClustering::fit(&context, &points, 1, 2, 5).unwrap());
        BatchSampler { seed: 3, examples: 40, clusters, strategy: BatchStrategy::RoundRobin, by_loss, first_step: 2 }
    }

    /// Eight examples, into a batch that held others.
    fn drawn(sampler: &BatchSampler, step: u64, losses: &ClusterLosses) -> Batch {
        let mut batch = Batch { examples: vec![7; 9], weights: vec![2.0], cluster: Some(3) };
        sampler.draw(step, 8, losses, &mut batch);
        batch
    }

    #[test]
    fn batches_look_at_clusters_after_the_warm_up_only() {
        let clustered = sampler(false);
        let random = BatchSampler { clusters: None, ..clustered.clone() };
        let losses = ClusterLosses::new(2);
        let batch = |sampler: &BatchSampler, step| drawn(sampler, step, &losses);
        for step in 0..6 {
            let found = batch(&clustered, step);
            assert_eq!(found, batch(&clustered, step));
            assert_eq!(found == batch(&random, step), step < 2);
            assert_eq!(found.cluster, (step >= 2).then_some(step as usize % 2));
        }
        let seen: std::collections::BTreeSet<_> = (0..60).flat_map(|step| batch(&random, step).examples).collect();
        assert_eq!(seen.len(), 40);
    }

    /// The expectation over the one random number of the draws, exactly: a place falls into each interval for as much of it
    /// as the interval is long.
    #[test]
    fn draws_by_loss_are_unbiased() {
        let probabilities = [0.13, 0.4, 0.07, 0.4];
        let (shares, means) = ([0.25; 4], [5.0, 1.0, 7.0, 2.5]);
        let (count, grid) = (3, 100_000);
        let mut expectation = 0.0;
        for point in 0..grid {
            let offset = (f64::from(point) + 0.5) / f64::from(grid);
            let terms = systematic(&probabilities, count, offset);
            let weighted = terms.into_iter().map(|k| shares[k] / probabilities[k] * means[k]);
            expectation += weighted.sum::<f64>() / count as f64 / f64::from(grid);
        }
        let mean: f64 = shares.iter().zip(means).map(|(share, mean)| share * mean).sum();
        assert!((expectation - mean).abs() < 1e-4, "{expectation} {mean}");
    }

    #[test]
    fn clusters_of_high_loss_come_more_often_and_count_less() {
        let sampler = sampler(true);
        let clusters = sampler.clusters.clone().unwrap();
        let losses = ClusterLosses { means: vec![1.0, 3.0] };
        let (mut counts, mut whole) = ([0; 2], 0.0);
        for step in 2..1002 {
            let batch = drawn(&sampler, step, &losses);
            assert_eq!(batch, drawn(&sampler, step, &losses));
            for (&example, &weight) in batch.examples.iter().zip(&batch.weights) {
                let cluster = clusters.labels()[example] as usize;
                counts[cluster] += 1;
                whole += f64::from(weight);
                // Probabilities 3/8 and 5/8 of clusters that each hold half.
                assert!((weight - [0.5 / 0.375, 0.5 / 0.625][cluster]).abs() < 1e-6);
            }
        }
        assert_eq!(counts, [3000, 5000]);
        assert!((whole / 8000.0 - 1.0).abs() < 1e-6);
    }
}
