//! k-means: assignment alone, and iterations of Lloyd's.
#![forbid(unsafe_code)]

use hybridq::Result;
use hybridq::dispatch::Lloyd;
use hybridq::kernels::KernelFamily;

use super::oracle::{places, squared_distance};
use super::{Job, Row, Suite};
use crate::bench::ceilings::Registers;
use crate::bench::measure::random_floats;

/// Iterations of Lloyd's in a run.
const ITERATIONS: usize = 10;
/// Operations a second of the portable assignment on one core, about.
const PORTABLE_RATE: f64 = 1e10;

pub fn jobs(full: bool) -> Vec<Job> {
    let mut cases = vec![[10_000, 64, 10], [100_000, 64, 64], [100_000, 768, 64]];
    if full {
        cases.push([1_000_000, 64, 256]);
    }
    let name = |[n, dim, k]: [usize; 3]| format!("k-means {n} x {dim}, {k} clusters");
    cases.into_iter().map(|case| -> Job { (name(case), Box::new(move |suite| kmeans(suite, case))) }).collect()
}

struct Found {
    labels: Vec<u32>,
    distances: Vec<f32>,
    /// Centroids of the last assignment.
    centroids: Vec<f32>,
}

fn kmeans(suite: &Suite<'_>, [n, dim, k]: [usize; 3]) -> Result<()> {
    let points = random_floats(6, n * dim);
    // Evenly spaced points, as good a start as any.
    let start: Vec<f32> = (0..k).flat_map(|c| points[c * (n / k) * dim..][..dim].to_vec()).collect();
    let mut state = Found { labels: vec![0; n], distances: vec![0.0; n], centroids: start.clone() };
    let operations = 2.0 * (n * dim) as f64 * k as f64;
    for context in suite.contexts_for(KernelFamily::KMeans, ITERATIONS as f64 * operations / PORTABLE_RATE) {
        let ceiling = || suite.ceilings.registers(Registers::F32, context);
        let row = |what: &str, work: f64| {
            let shape = format!("{n} x {dim}, k {k}, {what}");
            Row { context, family: "kmeans", shape, work, unit: "GFLOP/s", ceiling: &ceiling }
        };
        state.labels.fill(u32::MAX);
        let assign = |found: &mut Found| {
            context.kmeans_assign(&points, n, dim, &start, k, &mut found.labels, &mut found.distances);
        };
        suite.measure(row("assign", operations), &mut state, assign, |found| error(&points, dim, found))?;
        // Every distance counts, those too that bounds spare.
        let lloyd = |found: &mut Found| {
            let mut lloyd = Lloyd::new(context, &points, dim, k, true);
            let mut next = start.clone();
            for _ in 0..ITERATIONS {
                found.centroids.copy_from_slice(&next);
                lloyd.assign(&next);
                lloyd.means(&mut next);
            }
            found.labels = lloyd.into_labels();
        };
        let what = format!("{ITERATIONS} iterations");
        let work = operations * ITERATIONS as f64;
        suite.measure(row(&what, work), &mut state, lloyd, |found| error(&points, dim, found))?;
        state.centroids.copy_from_slice(&start);
    }
    Ok(())
}

/// How much farther than the nearest centroid the chosen one is, relative to the nearest, at most.
fn error(points: &[f32], dim: usize, found: &Found) -> f64 {
    let mut worst = 0.0f64;
    for point in places(found.labels.len()) {
        let distance = |centroid: &[f32]| squared_distance(&points[point * dim..][..dim], centroid);
        let least = found.centroids.chunks_exact(dim).map(distance).fold(f64::INFINITY, f64::min);
        let Some(chosen) = found.centroids.chunks_exact(dim).nth(found.labels[point] as usize) else {
            return f64::INFINITY;
        };
        worst = worst.max((distance(chosen) - least) / least.max(f64::MIN_POSITIVE));
    }
    worst
}
