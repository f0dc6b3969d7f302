//! Random matrices, and singular values in f64.
#![allow(dead_code)] // a test takes what it needs

use hybridq::tensor::RandomStream;

pub fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 940, 0, 0);
    (0..count).map(|_| stream.normal() as f32).collect()
}

/// `a b^T` in f64: `a` is `[n, k]`, `b` is `[m, k]`.
pub fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let row =
        |row: &[f64]| b.chunks(k).map(|other| row.iter().zip(other).map(|(x, y)| x * y).sum()).collect::<Vec<f64>>();
    a.chunks(k).flat_map(row).collect()
}

pub fn transposed(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| a[i * cols + j])).collect()
}

/// Eigenvalues of a symmetric matrix by cyclic Jacobi rotations.
fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    for _ in 0..60 {
        let off: f64 = (0..n * n).filter(|i| i / n != i % n).map(|i| a[i] * a[i]).sum();
        let all: f64 = a.iter().map(|x| x * x).sum();
        if off <= 1e-24 * all {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q] == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    (0..n).map(|i| a[i * n + i]).collect()
}

/// Falling.
pub fn singular_values(a: &[f32], rows: usize, cols: usize) -> Vec<f64> {
    let a: Vec<f64> = a.iter().map(|&x| f64::from(x)).collect();
    let (a, side, k) = if rows <= cols { (a, rows, cols) } else { (transposed(&a, rows, cols), cols, rows) };
    let mut values: Vec<f64> = eigenvalues(product(&a, &a, k), side).iter().map(|e| e.max(0.0).sqrt()).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}
