//! k-means assignment and centroid sums against f64, on every ISA.

use hybridq::dispatch::{Context, ContextOptions, Lloyd};
use hybridq::kernels::{DistanceBounds, KernelTable, NO_LABEL};
use hybridq::tensor::RandomStream;

fn contexts(threads: usize) -> Vec<Context> {
    let of = |table: &KernelTable| ContextOptions { threads: Some(threads), isa: Some(table.isa()) };
    KernelTable::available().iter().map(|table| Context::new(of(table)).unwrap()).collect()
}

fn random(n: usize, seed: u64, shift: f64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 93, 0, 0);
    (0..n).map(|_| (stream.normal() + shift) as f32).collect()
}

fn distance(x: &[f32], c: &[f32]) -> f64 {
    x.iter().zip(c).map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2)).sum()
}

fn assign(
    context: &Context,
    points: &[f32],
    n: usize,
    dim: usize,
    centroids: &[f32],
    k: usize,
) -> (Vec<u32>, Vec<f32>) {
    let (mut labels, mut distances) = (vec![9; n], vec![0.0; n]);
    context.kmeans_assign(points, n, dim, centroids, k, &mut labels, &mut distances);
    (labels, distances)
}

#[test]
fn chosen_distance_is_the_least() {
    for context in contexts(2) {
        // The shift makes |x|^2 - 2 x.c + |c|^2 lose its digits in f32: the f64 check must save the label.
        for shift in [0.0, 100.0] {
            for dim in [1, 7, 8, 9, 16, 17, 64] {
                for k in [1, 2, 15, 16, 17, 33] {
                    for n in [0, 1, 5, 6, 7, 401] {
                        let points = random(n * dim, 1, shift);
                        let centroids = random(k * dim, 2, shift);
                        let (labels, distances) = assign(&context, &points, n, dim, &centroids, k);
                        for (i, x) in points.chunks(dim).enumerate() {
                            let of = |j: usize| distance(x, &centroids[j * dim..(j + 1) * dim]);
                            let least = (0..k).map(of).fold(f64::INFINITY, f64::min);
                            let chosen = of(labels[i] as usize);
                            assert!(
                                chosen <= least * (1.0 + 1e-12),
                                "{:?} {dim} {k} {chosen} {least}",
                                context.kernels().isa()
                            );
                            assert!((f64::from(distances[i]) - chosen).abs() <= chosen * 1e-6);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn lowest_index_on_ties_and_odd_numbers() {
    for context in contexts(1) {
        let (labels, distances) = assign(&context, &[0.0, 0.0, 3.0, 0.0], 2, 2, &[5., 0., 1., 0., -1., 0., 1., 0.], 4);
        assert_eq!((labels, distances), (vec![1, 0], vec![1.0, 4.0]));
        let (labels, distances) = assign(&context, &[f32::NAN, 1e30, -1e30], 3, 1, &[1.0, 2e30, f32::NAN], 3);
        assert_eq!(labels, [0, 0, 0]);
        assert!(distances[0].is_nan());
        let (labels, _) = assign(&context, &[2.0, -3e38], 2, 1, &[f32::NAN, 3e38, -3e38], 3);
        assert_eq!(labels, [1, 2]);
    }
}

/// Sums `[k, dim]` and counts of labelled points, one after the other.
fn sums_of(points: &[f32], dim: usize, labels: &[u32], k: usize) -> (Vec<f64>, Vec<i64>) {
    let mut expected = (vec![0.0f64; k * dim], vec![0i64; k]);
    for (x, &label) in points.chunks(dim).zip(labels) {
        expected.1[label as usize] += 1;
        let sum = &mut expected.0[label as usize * dim..][..dim];
        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    expected
}

#[test]
fn points_move_from_sum_to_sum() {
    for table in KernelTable::available() {
        for (n, dim, k) in [(0, 3, 2), (1, 1, 1), (500, 19, 7), (33, 64, 5)] {
            let points = random(n * dim, 5, 0.0);
            let labels: Vec<u32> = (0..n as u32).map(|i| i * i % k as u32).collect();
            let later: Vec<u32> = (0..n as u32).map(|i| i * i / 3 % k as u32).collect();
            let (mut sums, mut counts, mut touched) = (vec![0.0; k * dim], vec![0; k], vec![0; k]);
            let mut before = vec![NO_LABEL; n];
            for after in [&labels, &later] {
                touched.fill(0);
                table.kmeans_move(&points, dim, &before, after, &mut sums, &mut counts, &mut touched);
                let expected = sums_of(&points, dim, after, k);
                assert_eq!(counts, expected.1);
                assert!(sums.iter().zip(&expected.0).all(|(a, b)| (a - b).abs() < 1e-10));
                for cluster in 0..k as u32 {
                    let moved = |i: usize| before[i] != after[i] && (before[i] == cluster || after[i] == cluster);
                    assert_eq!(touched[cluster as usize] != 0, (0..n).any(moved));
                }
                before.copy_from_slice(after);
            }
        }
    }
}

/// Bounds of one table, as [`DistanceBounds`] borrows them.
struct Bounds {
    upper: Vec<f32>,
    lower: Vec<f32>,
    group_lower: Vec<f32>,
    moved: Vec<f32>,
    group_moved: Vec<f32>,
    most_moved: f32,
}

impl Bounds {
    fn borrow(&mut self) -> DistanceBounds<'_> {
        DistanceBounds {
            upper: &mut self.upper,
            lower: &mut self.lower,
            group_lower: &mut self.group_lower,
            moved: &self.moved,
            group_moved: &self.group_moved,
            most_moved: self.most_moved,
        }
    }
}

/// What the filter passes over is right, though the centroids moved; what it does not is searched again; and bounds
/// hold after each search.
#[test]
fn bounds_hold_and_spare_only_what_is_right() {
    for table in KernelTable::available() {
        let mut spared = 0;
        for (dim, k, groups, shift) in [
            (3, 1, 1, 0.0),
            (8, 5, 1, 0.0),
            (17, 30, 3, 0.0),
            (64, 70, 6, 0.0),
            (8, 100, 3, 0.0),
            (3, 130, 64, 0.0),
            (5, 40, 4, 30.0),
        ] {
            let n = 333;
            let points = random(n * dim, 11, shift);
            let mut centroids = random(k * dim, 12, shift);
            let mut norms = vec![0.0; n];
            table.kmeans_norms(&points, dim, &mut norms);
            let mut bounds = Bounds {
                upper: vec![f32::INFINITY; n],
                lower: vec![0.0; n],
                group_lower: vec![0.0; if groups > 1 { n * groups } else { 0 }],
                moved: vec![0.0; k],
                group_moved: vec![0.0; groups],
                most_moved: 0.0,
            };
            let (mut labels, mut scratch) = (vec![NO_LABEL; n], Vec::new());
            for round in 0..6 {
                let packed = table.pack_centroids(&centroids, k, dim, groups);
                let mut rows: Vec<u32> = (0..n as u32).collect();
                if round > 0 {
                    table.kmeans_filter(&points, &packed, &mut bounds.borrow(), &labels, round % 2 == 0, &mut rows);
                    rows.sort_by_key(|&row| (labels[row as usize], row));
                }
                spared += n - rows.len();
                table.kmeans_assign(
                    &points,
                    &norms,
                    Some(&rows),
                    &packed,
                    Some(&mut bounds.borrow()),
                    &mut scratch,
                    &mut labels,
                );
                for (i, x) in points.chunks(dim).enumerate() {
                    let own = labels[i] as usize;
                    let away = |j: usize| distance(x, &centroids[j * dim..][..dim]).sqrt();
                    let others = (0..k).filter(|&j| j != own);
                    let second = others.clone().map(away).fold(f64::INFINITY, f64::min);
                    assert!(away(own) <= second * (1.0 + 1e-12), "{:?} {dim} {k} {round}", table.isa());
                    let upper = f64::from(bounds.upper[i]) + f64::from(bounds.moved[own]);
                    let lower = f64::from(bounds.lower[i]) - f64::from(bounds.most_moved);
                    let slack = 1e-5 * (1.0 + f64::from(bounds.most_moved));
                    assert!(upper >= away(own) - slack && lower <= second + slack, "{upper} {lower} {second}");
                    for j in others.filter(|_| groups > 1) {
                        let group = (0..groups).find(|&g| packed.group(g).contains(&j)).unwrap();
                        let lower = bounds.group_lower[i * groups + group] - bounds.group_moved[group];
                        assert!(f64::from(lower) <= away(j) + slack, "{:?} group {group}: {lower}", table.isa());
                    }
                }
                // The next centroids: small moves, and a large one.
                let step = random(k * dim, 20 + round, 0.0);
                let mut ways = vec![0.0f64; k];
                for (i, (c, s)) in centroids.iter_mut().zip(step).enumerate() {
                    let old = *c;
                    *c += s * if i / dim == round as usize { 0.3 } else { 0.003 };
                    ways[i / dim] += f64::from(*c - old).powi(2);
                }
                let ways: Vec<f32> = ways.iter().map(|way| way.sqrt() as f32 * 1.000001).collect();
                let packed = table.pack_centroids(&centroids, k, dim, groups);
                let farthest = |range: std::ops::Range<usize>| ways[range].iter().copied().fold(0.0, f32::max);
                bounds.moved.iter_mut().zip(&ways).for_each(|(moved, way)| *moved += way);
                bounds.group_moved.iter_mut().enumerate().for_each(|(g, moved)| *moved += farthest(packed.group(g)));
                bounds.most_moved += farthest(0..k);
            }
        }
        assert!(spared > 500, "{:?}: {spared} spared", table.isa());
    }
}

#[test]
fn nearer_takes_only_what_is_nearer() {
    for table in KernelTable::available() {
        let points = [0.0f32, 1.0, 2.0, 3.0, 4.0];
        let (mut labels, mut distances) = (vec![0; 5], vec![f32::INFINITY; 5]);
        table.kmeans_nearer(&points, &[0.0], 0, &[0.0], &mut labels, &mut distances);
        assert_eq!((labels.as_slice(), distances.as_slice()), ([0; 5].as_slice(), [0., 1., 4., 9., 16.].as_slice()));
        // A quarter of 4^2 is the reach: points at a distance below 2 are passed over, the one at 2 stays on the tie.
        table.kmeans_nearer(&points, &[4.0], 1, &[4.0], &mut labels, &mut distances);
        assert_eq!((labels, distances), (vec![0, 0, 0, 1, 1], vec![0., 1., 4., 1., 0.]));
    }
}

/// Labels, counts and sums of an iteration are the same bits on every ISA, at every number of threads, with pruning
/// and without.
#[test]
fn iterations_are_the_same_everywhere() {
    for (n, dim, k) in [(1, 1, 1), (700, 5, 3), (5000, 19, 40), (1000, 64, 10)] {
        let points = random(n * dim, 5, 0.0);
        let mut first: Option<(Vec<u32>, Vec<f32>, Vec<usize>)> = None;
        for context in contexts(1).into_iter().chain(contexts(2)).chain(contexts(3)) {
            for pruning in [false, true] {
                let mut centroids = points[..k * dim].to_vec();
                let mut lloyd = Lloyd::new(&context, &points, dim, k, pruning);
                let mut changes = Vec::new();
                for _ in 0..12 {
                    changes.push(lloyd.assign(&centroids));
                    let labels = assign(&context, &points, n, dim, &centroids, k).0;
                    assert!(labels == lloyd.labels(), "{:?} {n} {dim} {k} {pruning}", context.kernels().isa());
                    let expected = sums_of(&points, dim, &labels, k);
                    assert_eq!(lloyd.counts(), expected.1);
                    lloyd.means(&mut centroids);
                    for (i, mean) in centroids.iter().enumerate().filter(|(i, _)| expected.1[i / dim] > 0) {
                        let expected = expected.0[i] / expected.1[i / dim] as f64;
                        assert!((f64::from(*mean) - expected).abs() <= 1e-7 * (1.0 + expected.abs()));
                    }
                }
                let found = (lloyd.labels().to_vec(), centroids, changes);
                assert!(*first.get_or_insert(found.clone()) == found, "{:?} {pruning}", context.kernels().isa());
            }
        }
    }
}

/// Bounds that did not pay were given up, points changed their label meanwhile, and bounds are taken up again: what was kept
/// of the first time says nothing about the new label. One far centroid's jumps make the bounds fail; 24 others, two beside
/// every point, take turns as the nearest.
#[test]
fn bounds_given_up_are_forgotten_before_they_are_taken_up_again() {
    let (n, dim, k) = (18 * 640, 12, 36);
    let noise = random(n * dim, 5, 0.0);
    let at = |pair: usize, aside: f32, axis: usize| {
        let aside = if axis == (pair + 1) % dim { aside } else { 0.0 };
        aside + if axis == pair { 10.0 } else { 0.0 }
    };
    let place = |i: usize| at(i / dim % dim, 0.5, i % dim) + 0.01 * noise[i];
    let points: Vec<f32> = (0..n * dim).map(place).collect();
    let centroids = |first: f32, second: f32, jumper: f32| -> Vec<f32> {
        let value = |i: usize| match (i / dim / 12, i / dim % 12, i % dim) {
            (0, pair, axis) => at(pair, first, axis),
            (1, pair, axis) => at(pair, second, axis),
            (_, 0, _) => jumper,
            (_, far, _) => 1000.0 + far as f32,
        };
        (0..k * dim).map(value).collect()
    };
    let still = centroids(0.0, 2.0, 1000.0);
    let steps = [
        vec![still; 4],
        vec![centroids(0.0, 2.0, 1500.0), centroids(0.0, 0.7, 2000.0), centroids(0.0, 0.7, 2000.0)],
        vec![centroids(0.5, 0.7, 2000.0), centroids(0.5, 0.7, 2000.0), centroids(0.0, 0.7, 2000.0)],
    ];
    for context in contexts(2) {
        let lloyd = |pruning| Lloyd::new(&context, &points, dim, k, pruning);
        let (mut pruned, mut plain) = (lloyd(true), lloyd(false));
        let mut changes = Vec::new();
        for (step, centroids) in steps.iter().flatten().enumerate() {
            let isa = context.kernels().isa();
            changes.push(plain.assign(centroids));
            assert_eq!(pruned.assign(centroids), changes[step], "{isa:?}, step {step}");
            assert_eq!(pruned.labels(), plain.labels(), "{isa:?}, step {step}");
        }
        assert_eq!(changes, [n, 0, 0, 0, 0, n, 0, n, 0, n]);
    }
}
