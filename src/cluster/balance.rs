//! Clusters of equal size.
#![forbid(unsafe_code)]

use super::distance::squared_distance;

/// Moves points so that cluster sizes differ by at most one: points are served in the order of what they lose if their
/// first choice is full (distance to the second-nearest centroid less distance to the nearest; ties by index), each
/// getting the nearest cluster with room. `points` `[n, dim]`, `centroids` `[k, dim]`, `1 <= k <= n`.
pub(super) fn balanced_labels(points: &[f32], dim: usize, centroids: &[f32]) -> Vec<u32> {
    let (n, k) = (points.len() / dim, centroids.len() / dim);
    // Nearest first; equal distances in the order of cluster numbers.
    let choices: Vec<Vec<(f64, u32)>> = points
        .chunks_exact(dim)
        .map(|point| {
            let centroids = centroids.chunks_exact(dim).enumerate();
            let mut ranked: Vec<_> =
                centroids.map(|(c, centroid)| (squared_distance(point, centroid), c as u32)).collect();
            ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            ranked
        })
        .collect();
    let regret = |point: usize| choices[point].get(1).map_or(0.0, |second| second.0 - choices[point][0].0);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| regret(b).total_cmp(&regret(a)).then(a.cmp(&b)));
    let (base, mut extra) = (n / k, n % k);
    let mut sizes = vec![0usize; k];
    let mut labels = vec![0u32; n];
    for point in order {
        // `n % k` clusters may hold one more than the rest.
        let has_room = |&&(_, c): &&(f64, u32)| sizes[c as usize] < base + usize::from(extra > 0);
        let &(_, label) = choices[point].iter().find(has_room).unwrap_or(&choices[point][0]);
        sizes[label as usize] += 1;
        extra -= usize::from(sizes[label as usize] == base + 1);
        labels[point] = label;
    }
    labels
}
