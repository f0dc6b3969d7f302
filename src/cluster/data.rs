//! Clusters of training windows, and the batches drawn from them.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::balance::balanced_labels;
use super::permutation::Permutation;
use super::{KMeans, KMeansOptions};
use crate::dispatch::Context;
use crate::tensor::RandomStream;
use crate::{Error, Result};

/// Random streams of batches (see [`RandomStream::new`]).
const BATCH_PURPOSE: u32 = 32;

/// Third counter word of the strategies' permutations: clusters count from 0, the whole set has this number.
const WHOLE_SET: u32 = u32::MAX;
/// Of the control's labels.
const RANDOM_LABELS: u32 = u32::MAX - 1;

/// Which windows make a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchStrategy {
    /// Each batch spans the clusters, as evenly as its size allows. The default: diverse batches train better.
    #[default]
    Stratified,
    /// Each batch from one cluster, `step mod K` (the prototypes' behaviour).
    RoundRobin,
    /// Clusters are ignored: the control.
    Random,
}

/// The windows of one step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WindowBatch {
    /// Indices of windows.
    pub windows: Vec<usize>,
    /// The cluster they come from, if it is one.
    pub cluster: Option<usize>,
}

/// Windows in balanced clusters (sizes differ by at most one).
#[derive(Clone, PartialEq, Debug)]
pub struct DataClustering {
    labels: Vec<u32>,
    members: Vec<Vec<usize>>,
    seed: u64,
}

/// `clusters`, or as many as there are windows.
fn at_most(clusters: usize, windows: usize) -> usize {
    if clusters > windows {
        tracing::warn!("data_clusters: {clusters} clusters for {windows} windows: using {windows}");
    }
    clusters.min(windows)
}

impl DataClustering {
    /// Clusters `embeddings` `[windows, dim]` (see [`super::WindowEmbedding`], or the caller's own). More clusters than
    /// windows are cut to the number of windows, with a warning.
    ///
    /// Errors: no window, zero clusters, those of [`KMeans::fit`].
    pub fn fit(context: &Context, embeddings: &[f32], dim: usize, clusters: usize, seed: u64) -> Result<Self> {
        let windows = embeddings.len().checked_div(dim).unwrap_or(0);
        if windows == 0 {
            return Err(Error::invalid("windows to cluster", "at least 1", 0));
        }
        let clusters = at_most(clusters, windows);
        let options = KMeansOptions { clusters, seed, max_iterations: 50, ..KMeansOptions::default() };
        let kmeans = KMeans::fit(context, embeddings, dim, &options)?;
        let labels = balanced_labels(embeddings, dim, kmeans.centroids());
        Ok(Self::from_labels(labels, options.clusters, seed))
    }

    /// Windows in clusters of equal size by chance, without looking at them: the control. More clusters than windows are cut, as
    /// by [`DataClustering::fit`]. Errors: no window, zero clusters.
    pub fn random(windows: usize, clusters: usize, seed: u64) -> Result<Self> {
        if windows == 0 || clusters == 0 {
            return Err(Error::invalid("windows and clusters", "at least 1 each", format!("{windows} and {clusters}")));
        }
        let clusters = at_most(clusters, windows);
        let order = Permutation::new(RandomStream::key(seed, BATCH_PURPOSE), [RANDOM_LABELS, 0], windows);
        let labels = (0..windows).map(|window| (order.apply(window) % clusters) as u32).collect();
        Ok(Self::from_labels(labels, clusters, seed))
    }

    fn from_labels(labels: Vec<u32>, clusters: usize, seed: u64) -> Self {
        let mut members = vec![Vec::new(); clusters];
        labels.iter().enumerate().for_each(|(window, &label)| members[label as usize].push(window));
        DataClustering { labels, members, seed }
    }

    /// Number of clusters.
    pub fn clusters(&self) -> usize {
        self.members.len()
    }

    /// Number of windows.
    pub fn windows(&self) -> usize {
        self.labels.len()
    }

    /// Cluster of each window.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Windows of a cluster, ascending.
    ///
    /// # Panics
    /// If there is no such cluster.
    pub fn members(&self, cluster: usize) -> &[usize] {
        &self.members[cluster]
    }

    /// The batch of `step`: a pure function of clusters, seed, step, size and strategy, so a resumed run continues
    /// exactly. At a constant batch size no window of a cluster (of the set, for random) comes twice before all its
    /// fellows came once.
    pub fn batch(&self, strategy: BatchStrategy, step: u64, size: usize) -> WindowBatch {
        let mut batch = WindowBatch::default();
        self.batch_into(strategy, step, size, &mut batch);
        batch
    }

    /// [`DataClustering::batch`], into a batch that is there.
    pub fn batch_into(&self, strategy: BatchStrategy, step: u64, size: usize, batch: &mut WindowBatch) {
        let clusters = self.clusters() as u64;
        let first = step * size as u64;
        let turns = |first: u64| first..first + size as u64;
        batch.windows.clear();
        batch.cluster = None;
        match strategy {
            BatchStrategy::Stratified => {
                let draw = |turn: u64| self.draw((turn % clusters) as usize, turn / clusters);
                batch.windows.extend(turns(first).map(draw));
            }
            BatchStrategy::RoundRobin => {
                let cluster = (step % clusters) as usize;
                let first = step / clusters * size as u64;
                batch.windows.extend(turns(first).map(|turn| self.draw(cluster, turn)));
                batch.cluster = Some(cluster);
            }
            BatchStrategy::Random => {
                let draw = |turn| self.place(WHOLE_SET, turn, self.windows());
                batch.windows.extend(turns(first).map(draw));
            }
        }
    }

    /// The window at `turn` in the endless shuffled sequence of a cluster.
    fn draw(&self, cluster: usize, turn: u64) -> usize {
        let members = &self.members[cluster];
        members[self.place(cluster as u32, turn, members.len())]
    }

    /// The place at `turn` in the endless sequence of shuffles of `0..len` that belongs to `set`.
    fn place(&self, set: u32, turn: u64, len: usize) -> usize {
        let (epoch, place) = (turn / len as u64, turn % len as u64);
        let key = RandomStream::key(self.seed, BATCH_PURPOSE);
        Permutation::new(key, [set, epoch as u32], len).apply(place as usize)
    }
}
