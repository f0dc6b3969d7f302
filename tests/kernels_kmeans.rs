//! k-means assignment and centroid sums against f64, on every ISA.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::KernelTable;
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

#[test]
fn sums_are_exact_and_the_same_everywhere() {
    let (n, dim, k) = (5000, 19, 7);
    let points = random(n * dim, 5, 0.0);
    let labels: Vec<u32> = (0..n as u32).map(|i| i * i % k as u32).collect();
    let mut expected = (vec![0.0f64; k * dim], vec![0u64; k]);
    for (x, &label) in points.chunks(dim).zip(&labels) {
        expected.1[label as usize] += 1;
        let sum = &mut expected.0[label as usize * dim..][..dim];
        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let mut first: Option<Vec<f64>> = None;
    for context in contexts(1).into_iter().chain(contexts(2)) {
        let (mut sums, mut counts) = (vec![1.0; k * dim], vec![1; k]);
        context.kmeans_sums(&points, dim, &labels, &mut sums, &mut counts);
        assert_eq!(counts, expected.1);
        assert!(sums.iter().zip(&expected.0).all(|(a, b)| (a - b).abs() < 1e-10));
        assert!(*first.get_or_insert(sums.clone()) == sums);
    }
}
