//! Dense f32 products on the context's threads, in blocks of fixed size: the result does not depend on the threads.
#![forbid(unsafe_code)]

use super::{Context, Operation};
use crate::kernels::{DenseMatrix, dense_matmul, dense_packing_bytes};

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
        // The split into blocks is the same on one thread: it could change the order of additions.
        let product = |(block, c): (usize, &mut [f32])| {
            let first = block * BLOCK_ROWS;
            let start = if a.transposed { first } else { first * a.stride };
            let rows = DenseMatrix { data: &a.data[start..], ..a };
            dense_matmul((c.len() / n, n, k), rows, b, accumulate, c, n);
        };
        let call = self.call(Operation::DenseMatmul, c.len().saturating_mul(k));
        self.for_each_if(call.parallel, c.chunks_mut(BLOCK_ROWS * n).enumerate(), product);
    }

    /// Bytes that a thread takes for its part of [`Context::matmul`] of this shape, about.
    pub fn dense_packing_bytes(&self, (m, n, k): (usize, usize, usize)) -> usize {
        dense_packing_bytes((m.min(BLOCK_ROWS), n, k))
    }

    /// Eight digits that tell how dense f32 products round here: the order of their additions follows the CPU's vector
    /// width and caches (crate `gemm`), not our choices. Machines with the same digits continue a run bit for bit; every
    /// other operation of a context gives the same bits everywhere, so that ternary models with int8 gradients and head train
    /// alike on all machines (spectral steps too, if their products are int8). Elsewhere losses agree to 1e-6 until
    /// a weight crosses a rounding threshold on one machine only; `tests/loss_curve.rs` has bounds.
    pub fn dense_rounding(&self) -> String {
        // Long enough for several blocks of any cache, with values whose sums always round.
        const SHAPE: (usize, usize, usize) = (24, 40, 4099);
        let (m, n, k) = SHAPE;
        let values = |len: usize, step: u32| -> Vec<f32> {
            (0..len as u32).map(|i| 1.0 + (i.wrapping_mul(step) >> 8) as f32 / (1 << 24) as f32).collect()
        };
        let (a, b, mut c) = (values(m * k, 0x9e37_79b9), values(k * n, 0x85eb_ca6b), vec![0.0; m * n]);
        let dense = |data, stride| DenseMatrix { data, stride, transposed: false };
        self.matmul(SHAPE, dense(&a, k), dense(&b, n), false, &mut c);
        let fold = |hash: u32, value: &f32| (hash ^ value.to_bits()).wrapping_mul(0x0100_0193).rotate_left(5);
        format!("{:08x}", c.iter().fold(0x811c_9dc5, fold))
    }
}
