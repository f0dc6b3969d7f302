//! Norms on the context's threads: fixed blocks, added in order, so the result does not depend on the threads.
#![forbid(unsafe_code)]

use std::ops::AddAssign;

use super::{Context, Operation};
use crate::kernels::KernelTable;

/// Elements of one block: the unit whose 16-lane sum the kernel gives.
const BLOCK: usize = 1 << 16;

/// Sums that are taken together.
#[derive(Default)]
struct Pair([f64; 2]);

impl AddAssign for Pair {
    fn add_assign(&mut self, Pair([first, second]): Self) {
        self.0 = [self.0[0] + first, self.0[1] + second];
    }
}

impl Context {
    /// `sum |x[i]|` in f64, the same bits at every thread count and ISA.
    pub fn abs_sum(&self, x: &[f32]) -> f64 {
        self.sum_blocks(x, KernelTable::abs_sum)
    }

    /// `sum x[i]^2` in f64, the same bits at every thread count and ISA.
    pub fn sum_squares(&self, x: &[f32]) -> f64 {
        self.sum_blocks(x, KernelTable::sum_squares)
    }

    /// `sum |x[i]|` and `sum x[i]^2` in one read, bit for bit what [`Context::abs_sum`] and [`Context::sum_squares`]
    /// give.
    pub fn abs_and_square_sums(&self, x: &[f32]) -> [f64; 2] {
        let call = self.call(Operation::Norm, x.len());
        let add = |total: [f64; 2], sum: [f64; 2]| [total[0] + sum[0], total[1] + sum[1]];
        let sums = |block: &[f32]| call.kernels.abs_and_square_sums(block);
        if !call.parallel {
            return x.chunks(BLOCK).map(sums).fold([0.0; 2], add);
        }
        self.sum(x.chunks(BLOCK), |block| Pair(sums(block))).0
    }

    /// The Euclidean norm. NaN if an element is NaN, else infinite if one is.
    pub fn norm(&self, x: &[f32]) -> f64 {
        self.sum_squares(x).sqrt()
    }

    /// `sum x[i] * y[i]` in f64, the same bits at every thread count and ISA.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len(), "dot: lengths differ");
        let call = self.call(Operation::Norm, x.len());
        if !call.parallel {
            return x.chunks(BLOCK).zip(y.chunks(BLOCK)).fold(0.0, |sum, (x, y)| sum + call.kernels.dot(x, y));
        }
        let pairs = x.chunks(BLOCK).zip(y.chunks(BLOCK));
        self.sum(pairs, |(x, y)| call.kernels.dot(x, y))
    }

    /// `x[i] *= factor`. From the end backwards: after a sum over `x` the end is what the caches still hold.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        let call = self.call(Operation::Scale, x.len());
        if !call.parallel {
            return call.kernels.scale(x, factor);
        }
        self.for_each(x.chunks_mut(BLOCK).rev(), |block| call.kernels.scale(block, factor));
    }

    /// Scales `x` down to the norm `max` if its norm is larger; gives the norm before. One read of `x` when nothing is
    /// to be clipped. A norm that is NaN or infinite is returned as it is and `x` is left alone: the caller decides.
    pub fn clip_norm(&self, x: &mut [f32], max: f64) -> f64 {
        let norm = self.norm(x);
        if norm > max && norm.is_finite() {
            self.scale(x, (max / norm) as f32);
        }
        norm
    }

    fn sum_blocks(&self, x: &[f32], sum: impl Fn(&KernelTable, &[f32]) -> f64 + Sync) -> f64 {
        let call = self.call(Operation::Norm, x.len());
        if !call.parallel {
            return x.chunks(BLOCK).fold(0.0, |total, block| total + sum(call.kernels, block));
        }
        self.sum(x.chunks(BLOCK), |block| sum(call.kernels, block))
    }
}
