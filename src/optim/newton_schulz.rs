//! The orthogonal factor of a matrix, by a Newton-Schulz iteration on its Gram matrix.
//!
//! For `X = U S V^T` the iteration finds `U V^T` to the accuracy a step needs: singular values end within a known band
//! below 1. Odd polynomials `p(s) = a s + b s^3 + c s^5` are applied in turn; each is the one that lies closest to 1 over
//! the interval the last one left (Amsel et al., "The Polar Express", 2025: such a composition is the best of its
//! degree), found here by the exchange algorithm. Four things keep it cheap:
//!
//! - All products but the first and the last are of the smaller side alone: with `A = X X^T`, `p(X) = P X` for
//!   `P = aI + bA + cA^2`, and the next `A` is `P A P`. The factors are collected in `Q`, and `Q X` is taken once.
//! - They all are polynomials in one symmetric matrix: half of each product is computed, the rest mirrored.
//! - Products may be of factors rounded to 8 bits ([`NewtonSchulzPrecision::Int8`]).
//! - `X` is scaled by `|A^2|^(1/4)`, the 8-norm of the singular values. It bounds the largest one much closer than the
//!   Frobenius norm does (a square Gaussian matrix of 256: 1.4 times too large instead of 8), which saves an iteration.
#![forbid(unsafe_code)]

mod int8;

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::dispatch::Context;
use crate::kernels::{DenseMatrix, KernelTable, dense_matmul, dense_packing_bytes};

/// Rows computed at a time of a product whose other half is mirrored.
const BLOCK_ROWS: usize = 64;

/// Share of the bound that the largest singular value is scaled to: at the very end of its interval a polynomial is so steep
/// that several in turn would lift rounding errors to half a percent.
const BELOW_BOUND: f64 = 0.999;

/// Largest deviation from 1 that the polynomials leave over the interval they are made for: singular values from 0.6 to 1
/// of the largest, the band of the usual five-step iteration (Jordan, "Muon", 2024).
const DEVIATION: f64 = 0.25;

/// Arithmetic of the products.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewtonSchulzPrecision {
    /// Floats.
    #[default]
    F32,
    /// Factors rounded to 8 bits, one scale a row, diagonals in f32; exact sums. Matrices with a side beyond 131,071: floats.
    Int8,
}

/// The iteration for a fixed number of steps.
#[derive(Debug)]
pub struct NewtonSchulz {
    precision: NewtonSchulzPrecision,
    coefficients: Vec<[f64; 3]>,
    /// Largest value of the composition over (0, 1].
    most: f64,
    least_resolved: f64,
    /// Buffers of products in flight: one set a thread at most.
    workspaces: Mutex<Vec<Workspace>>,
    int8_workspaces: Mutex<Vec<int8::Workspace>>,
}

#[derive(Debug, Default)]
struct Workspace {
    gram: Vec<f32>,
    square: Vec<f32>,
    step: Vec<f32>,
    factor: Vec<f32>,
    result: Vec<f32>,
}

impl NewtonSchulz {
    /// With `iterations` polynomials, 1 to 8 (more would resolve singular values below the rounding of f32).
    pub fn new(iterations: usize) -> Self {
        let iterations = iterations.clamp(1, 8);
        // The smallest singular value that still ends within the band, by bisection in its logarithm.
        let (mut low, mut high) = (-30.0f64, -0.01f64);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if compose(libm::exp(middle), iterations).1 > DEVIATION { low = middle } else { high = middle }
        }
        let least_resolved = libm::exp(high);
        let (coefficients, deviation) = compose(least_resolved, iterations);
        NewtonSchulz {
            precision: NewtonSchulzPrecision::F32,
            coefficients,
            most: 1.0 + deviation,
            least_resolved,
            workspaces: Mutex::default(),
            int8_workspaces: Mutex::default(),
        }
    }

    /// The same with other products.
    pub fn with_precision(self, precision: NewtonSchulzPrecision) -> Self {
        NewtonSchulz { precision, ..self }
    }

    /// Singular values down to this share of the (bounded) largest one end in 0.6 to 1; smaller ones are amplified less.
    pub fn least_resolved(&self) -> f64 {
        self.least_resolved
    }

    /// The coefficients `[a, b, c]` of each polynomial.
    pub fn coefficients(&self) -> &[[f64; 3]] {
        &self.coefficients
    }

    /// Bytes that [`NewtonSchulz::orthogonalize`] takes on its thread, what its products pack included.
    pub fn workspace_bytes(&self, rows: usize, cols: usize) -> usize {
        let side = rows.min(cols);
        if self.precision == NewtonSchulzPrecision::Int8 {
            let kernels = KernelTable::available().last().expect("the portable table is always there");
            return int8::workspace_bytes(kernels, rows, cols);
        }
        let products = [(BLOCK_ROWS, side, rows.max(cols)), (rows, cols, side)];
        let packed = products.into_iter().map(dense_packing_bytes).max().unwrap_or(0);
        size_of::<f32>() * (4 * side * side + rows * cols) + packed
    }

    /// Replaces `x` (`rows x cols`, row-major) by `length` times its orthogonal factor: no singular value is above
    /// `length` (in int8 products: by more than 2 %, of matrices with very uneven rows 7 %). Zeros, and matrices with a
    /// value that is not finite, become zeros. All on the calling thread.
    ///
    /// # Panics
    /// If `x` is not `rows x cols`.
    pub fn orthogonalize(&self, context: &Context, rows: usize, cols: usize, length: f32, x: &mut [f32]) {
        assert_eq!(x.len(), rows * cols, "orthogonalize: not rows x cols");
        // In f64: gradients may be of any size.
        let kernels = context.kernels();
        let scale = (1.0 / kernels.sum_squares(x).sqrt()) as f32;
        // Zeros, values that are not finite, and values so small that f32 does not hold the scale.
        if !(scale > 0.0 && scale.is_finite()) {
            x.fill(0.0);
            return;
        }
        // Beyond that length integer sums could overflow.
        if self.precision == NewtonSchulzPrecision::Int8 && rows.max(cols) <= KernelTable::INT8_LONGEST_SUM {
            kernels.scale(x, (f64::from(scale) * (x.len() as f64).sqrt()) as f32);
            let mut workspace = self.int8_workspaces.lock().expect("no holder panics").pop().unwrap_or_default();
            let length = f64::from(length) / self.most;
            int8::apply(kernels, &mut workspace, &self.coefficients, (BELOW_BOUND, length), (rows, cols), x);
            self.int8_workspaces.lock().expect("no holder panics").push(workspace);
            return;
        }
        kernels.scale(x, scale);
        let mut workspace = self.workspaces.lock().expect("no holder panics").pop().unwrap_or_default();
        self.apply(kernels, &mut workspace, rows, cols, length, x);
        self.workspaces.lock().expect("no holder panics").push(workspace);
    }

    /// For `x` of Frobenius norm 1.
    fn apply(
        &self,
        kernels: &KernelTable,
        workspace: &mut Workspace,
        rows: usize,
        cols: usize,
        length: f32,
        x: &mut [f32],
    ) {
        let side = rows.min(cols);
        let Workspace { gram, square, step, factor, result } = workspace;
        for buffer in [&mut *gram, &mut *square, &mut *step, &mut *factor] {
            buffer.resize(side * side, 0.0);
        }
        result.resize(rows * cols, 0.0);
        let (stored, transposed) = (DenseMatrix::new(x, cols), DenseMatrix::transposed(x, cols));
        if rows <= cols {
            symmetric_product(side, cols, stored, transposed, gram);
        } else {
            symmetric_product(side, rows, transposed, stored, gram);
        }
        let mut input_scale = 1.0;
        for (index, &[a, b, c]) in self.coefficients.iter().enumerate() {
            symmetric_product(side, side, DenseMatrix::new(gram, side), DenseMatrix::new(gram, side), square);
            if index == 0 {
                let squares = kernels.sum_squares(square);
                input_scale = BELOW_BOUND / squares.sqrt().sqrt().sqrt();
                let (of_gram, of_square) = (input_scale.powi(2) as f32, input_scale.powi(4) as f32);
                kernels.scale(gram, of_gram);
                kernels.scale(square, of_square);
            }
            for ((p, &first), &second) in step.iter_mut().zip(&*gram).zip(&*square) {
                *p = b as f32 * first + c as f32 * second;
            }
            step.iter_mut().step_by(side + 1).for_each(|diagonal| *diagonal += a as f32);
            if index == 0 {
                factor.copy_from_slice(step);
            } else {
                // P and Q are polynomials in one matrix: they commute, and their product is symmetric.
                symmetric_product(side, side, DenseMatrix::new(step, side), DenseMatrix::new(factor, side), square);
                std::mem::swap(factor, square);
            }
            if index + 1 < self.coefficients.len() {
                symmetric_product(side, side, DenseMatrix::new(step, side), DenseMatrix::new(gram, side), square);
                symmetric_product(side, side, DenseMatrix::new(square, side), DenseMatrix::new(step, side), gram);
            }
        }
        let scale = (f64::from(length) * input_scale / self.most) as f32;
        kernels.scale(factor, scale);
        let factor = DenseMatrix::new(factor, side);
        let x_matrix = DenseMatrix::new(x, cols);
        let (left, right) = if rows <= cols { (factor, x_matrix) } else { (x_matrix, factor) };
        dense_matmul((rows, cols, side), left, right, false, result, cols);
        x.copy_from_slice(result);
    }
}

/// `out = a b` (`side x inner` times `inner x side`), known to be symmetric: the lower half is computed, then mirrored.
fn symmetric_product(side: usize, inner: usize, a: DenseMatrix<'_>, b: DenseMatrix<'_>, out: &mut [f32]) {
    for first in (0..side).step_by(BLOCK_ROWS) {
        let end = (first + BLOCK_ROWS).min(side);
        let start = if a.transposed { first } else { first * a.stride };
        let rows = DenseMatrix { data: &a.data[start..], ..a };
        dense_matmul((end - first, end, inner), rows, b, false, &mut out[first * side..end * side], side);
    }
    // In tiles, so that neither side is walked across cache lines.
    const TILE: usize = 16;
    for first in (0..side).step_by(TILE) {
        for column_first in (0..=first).step_by(TILE) {
            for row in first..(first + TILE).min(side) {
                for column in column_first..(column_first + TILE).min(row) {
                    out[column * side + row] = out[row * side + column];
                }
            }
        }
    }
}

/// The best polynomials one after another from the interval `[least, 1]` on, and the deviation from 1 they leave.
fn compose(least: f64, iterations: usize) -> (Vec<[f64; 3]>, f64) {
    let (mut low, mut high) = (least, 1.0);
    let mut coefficients = Vec::new();
    let mut deviation = 0.0;
    for _ in 0..iterations {
        let (best, left) = best_polynomial(low, high);
        coefficients.push(best);
        deviation = left;
        (low, high) = (1.0 - left, 1.0 + left);
    }
    (coefficients, deviation)
}

/// The odd quintic closest to 1 over `[low, high]` and its deviation, by exchange: it touches `1 -+ deviation` in turn at
/// both ends and at its two extrema between them.
fn best_polynomial(low: f64, high: f64) -> ([f64; 3], f64) {
    let mut inner = [0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high];
    let mut found = ([15.0 / 8.0, -10.0 / 8.0, 3.0 / 8.0], 0.0);
    // Below this width the iteration above has converged and the system is singular: Newton's own quintic remains.
    if high - low < 1e-3 {
        return found;
    }
    for _ in 0..100 {
        let rows = [(low, 1.0), (inner[0], -1.0), (inner[1], 1.0), (high, -1.0)]
            .map(|(x, sign)| [x, x * x * x, x * x * x * x * x, sign, 1.0]);
        let [a, b, c, deviation] = solve(rows);
        let change = (deviation - found.1).abs();
        found = ([a, b, c], deviation);
        // Extrema: a + 3b t + 5c t^2 = 0 with t = x^2.
        let root = (9.0 * b * b - 20.0 * a * c).max(0.0).sqrt();
        inner = [(-3.0 * b - root) / (10.0 * c), (-3.0 * b + root) / (10.0 * c)].map(|t| t.max(0.0).sqrt());
        if change < 1e-14 {
            break;
        }
    }
    found
}

/// Four linear equations, each with its right side last, by elimination with pivots.
fn solve(mut rows: [[f64; 5]; 4]) -> [f64; 4] {
    for column in 0..4 {
        let pivot = (column..4).max_by(|&i, &j| rows[i][column].abs().total_cmp(&rows[j][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let row = rows[column];
        for (index, other) in rows.iter_mut().enumerate() {
            if index != column {
                let share = other[column] / row[column];
                other.iter_mut().zip(row).for_each(|(value, pivot)| *value -= share * pivot);
            }
        }
    }
    std::array::from_fn(|i| rows[i][4] / rows[i][i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value([a, b, c]: [f64; 3], x: f64) -> f64 {
        x * (a + x * x * (b + x * x * c))
    }

    /// A dense scan finds no point farther from 1 than the deviation, and four points that reach it in turn.
    #[test]
    fn polynomials_equioscillate() {
        for (low, high) in [(1e-3, 1.0), (0.05, 1.0), (0.3, 1.7), (0.7, 1.3)] {
            let (best, deviation) = best_polynomial(low, high);
            let errors: Vec<f64> =
                (0..=100_000).map(|i| value(best, low + (high - low) * f64::from(i) / 1e5) - 1.0).collect();
            let largest = errors.iter().fold(0.0f64, |largest, error| largest.max(error.abs()));
            assert!((largest - deviation).abs() < 1e-6, "{low}: {largest} {deviation}");
            let mut turns: Vec<bool> =
                errors.iter().filter(|error| error.abs() > deviation - 1e-5).map(|error| *error > 0.0).collect();
            turns.dedup();
            assert_eq!(turns, [false, true, false, true], "{low}");
        }
    }

    #[test]
    fn more_iterations_resolve_smaller_singular_values() {
        let mut last = 1.0;
        for iterations in 1..=6 {
            let found = NewtonSchulz::new(iterations);
            assert!(found.least_resolved() < last / 2.0);
            last = found.least_resolved();
            for i in 0..=1000 {
                let mut x = last + (1.0 - last) * f64::from(i) / 1000.0;
                for coefficients in found.coefficients() {
                    x = value(*coefficients, x);
                }
                assert!((x - 1.0).abs() < DEVIATION + 1e-6, "{iterations}: {x}");
            }
        }
    }
}
