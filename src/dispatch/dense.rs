//! Dense f32 products on the context's threads, in blocks of fixed size: the result does not depend on the threads.
#![forbid(unsafe_code)]

use rayon::prelude::*;

use super::Context;
use crate::kernels::{DenseMatrix, dense_matmul};

/// Output rows of one block.
const BLOCK_ROWS: usize = 128;

impl Context {
    /// `c = a * b`, or `c += a * b` with `accumulate`. `a`: `m x k`, `b`: `k x n`, `c`: `m x n`, dense rows.
    ///
    /// # Panics
    /// If an operand is too short for its shape.
    pub fn matmul(
        &self,
        (m, n, k): (usize, usize, usize),
        a: DenseMatrix<'_>,
        b: DenseMatrix<'_>,
        accumulate: bool,
        c: &mut [f32],
    ) {
        if m == 0 || n == 0 {
            return;
        }
        assert_eq!(c.len(), m * n, "matmul: output is not m x n");
        self.install(|| {
            c.par_chunks_mut(BLOCK_ROWS * n).enumerate().for_each(|(block, c)| {
                let first = block * BLOCK_ROWS;
                let start = if a.transposed { first } else { first * a.stride };
                let rows = DenseMatrix { data: &a.data[start..], ..a };
                dense_matmul((c.len() / n, n, k), rows, b, accumulate, c, n);
            });
        });
    }
}
