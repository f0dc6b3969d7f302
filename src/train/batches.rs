//! Which examples a step sees: a function of the seed and the step alone.
#![forbid(unsafe_code)]

use crate::cluster::{BatchStrategy, DataClustering, WindowBatch};
use crate::tensor::RandomStream;

/// Random streams of batches drawn without clusters (see [`RandomStream::new`]).
const BATCH_PURPOSE: u32 = 62;

/// Draws batches of examples: by clusters from `first_step` on where there are any, else uniformly.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct BatchSampler {
    pub seed: u64,
    pub examples: usize,
    pub clusters: Option<DataClustering>,
    pub strategy: BatchStrategy,
    pub first_step: u64,
}

impl BatchSampler {
    /// Puts the `count` examples of `step` into `batch`.
    pub fn draw(&self, step: u64, count: usize, batch: &mut WindowBatch) {
        if let Some(clusters) = self.clusters.as_ref().filter(|_| step >= self.first_step) {
            return clusters.batch_into(self.strategy, step, count, batch);
        }
        let mut stream = RandomStream::new(self.seed, BATCH_PURPOSE, step as u32, (step >> 32) as u32);
        batch.windows.clear();
        batch.windows.extend((0..count).map(|_| stream.below(self.examples as u64) as usize));
        batch.cluster = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::{Context, ContextOptions};

    #[test]
    fn batches_look_at_clusters_after_the_warm_up_only() {
        let context = Context::new(ContextOptions { threads: Some(1), isa: None }).unwrap();
        let points: Vec<f32> = (0..40).map(|i| if i < 20 { i as f32 * 1e-3 } else { 9.0 + i as f32 * 1e-3 }).collect();
        let clusters = DataClustering::fit(&context, &points, 1, 2, 5).unwrap();
        let random =
            BatchSampler { seed: 3, examples: 40, clusters: None, strategy: BatchStrategy::RoundRobin, first_step: 0 };
        let clustered = BatchSampler { clusters: Some(clusters), first_step: 2, ..random.clone() };
        let batch = |sampler: &BatchSampler, step| {
            let mut batch = WindowBatch { windows: vec![7; 9], cluster: Some(3) };
            sampler.draw(step, 8, &mut batch);
            batch
        };
        for step in 0..6 {
            let found = batch(&clustered, step);
            assert_eq!(found, batch(&clustered, step));
            assert_eq!(found == batch(&random, step), step < 2);
            assert_eq!(found.cluster, (step >= 2).then_some(step as usize % 2));
        }
        let seen: std::collections::BTreeSet<_> = (0..60).flat_map(|step| batch(&random, step).windows).collect();
        assert_eq!(seen.len(), 40);
    }
}
