//! What each cluster of the data has left to learn: running means of losses, and what follows from them.
#![forbid(unsafe_code)]

/// Share of the mean that a new batch leaves.
const DECAY: f64 = 0.9;

/// Bounds on the factor of a cluster's learning rate.
const RATES: (f64, f64) = (0.5, 2.0);

/// Share of the draws that go by the clusters' sizes alone: no cluster gets less than half of what it has of the data, so that
/// no example's weight is above 2.
const BY_SIZE: f64 = 0.5;

/// Running means of the losses of clusters, in nats; NaN where none was seen.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct ClusterLosses {
    pub means: Vec<f64>,
}

impl ClusterLosses {
    pub fn new(clusters: usize) -> Self {
        ClusterLosses { means: vec![f64::NAN; clusters] }
    }

    /// Takes in the losses of a batch's examples, each with its cluster.
    pub fn observe(&mut self, examples: impl Iterator<Item = (usize, f64)> + Clone) {
        for (cluster, mean) in self.means.iter_mut().enumerate() {
            let of_it = examples.clone().filter(|&(of, loss)| of == cluster && loss.is_finite());
            let (sum, count) = of_it.fold((0.0, 0u32), |(sum, count), (_, loss)| (sum + loss, count + 1));
            if count > 0 {
                let new = sum / f64::from(count);
                *mean = if mean.is_nan() { new } else { DECAY * *mean + (1.0 - DECAY) * new };
            }
        }
    }

    /// The means, with that of all where none was seen; `None` before any was.
    fn known(&self) -> Option<Vec<f64>> {
        let seen = || self.means.iter().filter(|mean| !mean.is_nan());
        let mean = seen().sum::<f64>() / seen().count() as f64;
        (mean > 0.0).then(|| self.means.iter().map(|&own| if own.is_nan() { mean } else { own }).collect())
    }

    /// Factor on the learning rate of a batch from one cluster: its loss over the mean of all, within [`RATES`].
    pub fn rate_factor(&self, cluster: usize) -> f64 {
        let Some(means) = self.known() else { return 1.0 };
        let whole = means.iter().sum::<f64>() / means.len() as f64;
        (means[cluster] / whole).clamp(RATES.0, RATES.1)
    }

    /// How likely an example comes from each cluster, of `sizes`: half by size, half by size times loss (the losses stand for
    /// the norms of the gradients, by which the variance of an estimate from weighted draws is least: Katharopoulos and
    /// Fleuret, "Not All Samples Are Created Equal", 2018).
    pub fn probabilities(&self, sizes: &[usize]) -> Vec<f64> {
        let total = sizes.iter().sum::<usize>().max(1) as f64;
        let by_size: Vec<f64> = sizes.iter().map(|&size| size as f64 / total).collect();
        let Some(means) = self.known() else { return by_size };
        let expected: f64 = by_size.iter().zip(&means).map(|(share, mean)| share * mean).sum();
        let mix = |(share, mean): (&f64, &f64)| share * (BY_SIZE + (1.0 - BY_SIZE) * mean / expected);
        by_size.iter().zip(&means).map(mix).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_rates_and_probabilities_by_hand() {
        let mut losses = ClusterLosses::new(3);
        assert_eq!(losses.probabilities(&[2, 1, 1]), [0.5, 0.25, 0.25]);
        assert_eq!(losses.rate_factor(1), 1.0);
        losses.observe([(0, 1.0), (0, 3.0), (1, 4.0), (1, f64::NAN)].into_iter());
        assert_eq!(losses.means[..2], [2.0, 4.0]);
        assert!(losses.means[2].is_nan());
        losses.observe([(1, 14.0)].into_iter());
        assert_eq!(losses.means[1], 5.0);
        // The third cluster counts as the mean of the others, 3.5: shares 2/4, 1/4, 1/4, expected loss 3.125.
        let found = losses.probabilities(&[2, 1, 1]);
        let expected = [0.5 * (0.5 + 1.0 / 3.125), 0.25 * (0.5 + 2.5 / 3.125), 0.25 * (0.5 + 1.75 / 3.125)];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((losses.rate_factor(1) - 5.0 / 3.5).abs() < 1e-12);
        losses.observe(std::iter::repeat_n((1, 1e6), 50));
        assert_eq!(losses.rate_factor(0), 0.5);
    }
}
