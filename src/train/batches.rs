//! Which examples a step sees: a function of the seed and the step alone.
#![forbid(unsafe_code)]

use crate::tensor::RandomStream;

use super::config::BatchStrategy;

/// Random streams of batches (see [`RandomStream::new`]).
const BATCH_PURPOSE: u32 = 62;

/// Draws batches of examples, by clusters or at random.
#[derive(Clone, PartialEq, Debug)]
pub struct BatchSampler {
    seed: u64,
    examples: usize,
    /// Members of each cluster that has any; empty without clusters.
    clusters: Vec<Vec<u32>>,
    strategy: BatchStrategy,
    /// Steps at the start that do not look at clusters.
    warmup_steps: u64,
}

/// The examples of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchChoice {
    /// Example numbers; one may occur twice.
    pub examples: Vec<usize>,
    /// The cluster they come from, where it is one.
    pub cluster: Option<usize>,
}

impl BatchSampler {
    /// Uniform draws from `examples` examples.
    pub fn random(seed: u64, examples: usize) -> Self {
        BatchSampler { seed, examples, clusters: Vec::new(), strategy: BatchStrategy::Random, warmup_steps: 0 }
    }

    /// Draws by cluster: `labels` holds the cluster of each example.
    pub fn clustered(seed: u64, labels: &[u32], strategy: BatchStrategy, warmup_steps: u64) -> Self {
        let count = labels.iter().max().map_or(0, |&label| label as usize + 1);
        let mut clusters = vec![Vec::new(); count];
        for (example, &label) in labels.iter().enumerate() {
            clusters[label as usize].push(example as u32);
        }
        clusters.retain(|members| !members.is_empty());
        BatchSampler { seed, examples: labels.len(), clusters, strategy, warmup_steps }
    }

    /// The `count` examples of `step`.
    pub fn batch(&self, step: u64, count: usize) -> BatchChoice {
        let mut stream = RandomStream::new(self.seed, BATCH_PURPOSE, step as u32, (step >> 32) as u32);
        let clustered = !self.clusters.is_empty() && step >= self.warmup_steps;
        let member = |stream: &mut RandomStream, cluster: &[u32]| cluster[stream.below(cluster.len() as u64) as usize];
        match self.strategy {
            BatchStrategy::Stratified if clustered => {
                // Systematic sampling: slot i takes the cluster at (i + shift) / count of the examples in cluster order,
                // so each cluster gets its share of the batch up to rounding, and exactly its share on average.
                let shift = stream.uniform();
                let (mut cluster, mut end) = (0, self.clusters[0].len());
                let mut examples = Vec::with_capacity(count);
                for slot in 0..count {
                    let place = (slot as f64 + shift) / count as f64 * self.examples as f64;
                    while place >= end as f64 && cluster + 1 < self.clusters.len() {
                        cluster += 1;
                        end += self.clusters[cluster].len();
                    }
                    examples.push(member(&mut stream, &self.clusters[cluster]) as usize);
                }
                // Parts of an accumulated batch shall span the clusters, too.
                stream.shuffle(&mut examples);
                BatchChoice { examples, cluster: None }
            }
            BatchStrategy::RoundRobin if clustered => {
                let cluster = (step % self.clusters.len() as u64) as usize;
                let draw = |_| member(&mut stream, &self.clusters[cluster]) as usize;
                BatchChoice { examples: (0..count).map(draw).collect(), cluster: Some(cluster) }
            }
            _ => {
                let draw = |_| stream.below(self.examples as u64) as usize;
                BatchChoice { examples: (0..count).map(draw).collect(), cluster: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stratified_batches_hold_each_cluster_by_its_share() {
        let labels: Vec<u32> = (0..1000).map(|i| if i < 500 { 0 } else { 1 + (i % 2) as u32 }).collect();
        let sampler = BatchSampler::clustered(3, &labels, BatchStrategy::Stratified, 2);
        for step in 2..50 {
            let batch = sampler.batch(step, 8);
            assert_eq!(batch, sampler.batch(step, 8));
            let mut counts = [0; 3];
            batch.examples.iter().for_each(|&example| counts[labels[example] as usize] += 1);
            assert_eq!(counts, [4, 2, 2]);
        }
        assert_eq!(sampler.batch(1, 8), BatchSampler::random(3, 1000).batch(1, 8), "warm-up steps are random");
        assert_ne!(sampler.batch(2, 8).examples, sampler.batch(3, 8).examples);
    }

    #[test]
    fn round_robin_takes_one_cluster_after_the_other() {
        let sampler = BatchSampler::clustered(3, &[0, 0, 1, 3, 3], BatchStrategy::RoundRobin, 0);
        for step in 0..9 {
            let batch = sampler.batch(step, 4);
            assert_eq!(batch.cluster, Some((step % 3) as usize));
            let members: &[usize] = [&[0, 1][..], &[2], &[3, 4]][(step % 3) as usize];
            assert!(batch.examples.iter().all(|example| members.contains(example)));
        }
    }

    #[test]
    fn random_batches_reach_every_example() {
        let sampler = BatchSampler::random(1, 7);
        let seen: std::collections::BTreeSet<usize> =
            (0..40).flat_map(|step| sampler.batch(step, 3).examples).collect();
        assert_eq!(seen.len(), 7);
    }
}
