//! Products of one token with ternary weights, rows in parallel. Every output is one sum in one order: results do not
//! depend on the number of threads.
#![forbid(unsafe_code)]

use super::backend::Call;
use super::{Context, Operation};
use crate::kernels::{Activations, KernelTable, TERNARY_BLOCK_ROWS, ternary_packed_len};

/// Rows of one task.
const TASK_ROWS: usize = 4 * TERNARY_BLOCK_ROWS;

impl Context {
    /// One token on the 2-bit layout; the caller has checked the sizes.
    pub(super) fn ternary_matvec(
        &self,
        call: &Call<'_>,
        packed: &[u8],
        cols: usize,
        scales: &[f32],
        x: Activations<'_>,
        y: &mut [f32],
    ) {
        let kernels = call.kernels;
        self.by_rows(call, packed, scales, y, ternary_packed_len(TASK_ROWS, cols), &|packed, scales, y| {
            kernels.ternary_matvec(packed, cols, x, scales, y);
        });
    }

    /// `y = W * x` for one token and ternary `W` `[y.len(), cols]` at five trits a byte:
    /// `y[r] = (f32)(sum_c w[r][c] * x[c]) * (x_scale * weight_scale[r])`, bit for bit what
    /// [`Context::ternary_matmul`] gives for the same weights at two bits. `weight_scales`: one for the matrix or one a row.
    ///
    /// # Panics
    /// If `x` is not one token of `cols` values, another length does not fit, or `cols` exceeds
    /// [`crate::kernels::TERNARY_MAX_K`].
    pub fn pack5_matvec(&self, packed: &[u8], cols: usize, weight_scales: &[f32], x: Activations<'_>, y: &mut [f32]) {
        let rows = y.len();
        x.check(1, cols);
        assert_eq!(packed.len(), KernelTable::pack5_bytes(rows, cols), "pack5_matvec: length of the packed matrix");
        assert!(weight_scales.len() == 1 || weight_scales.len() == rows, "pack5_matvec: 1 or {rows} weight scales");
        let call = self.product_call(Operation::TernaryMatvec, rows.saturating_mul(cols), 1);
        let kernels = call.kernels;
        let task_len = KernelTable::pack5_bytes(TASK_ROWS, cols);
        self.by_rows(&call, packed, weight_scales, y, task_len, &|packed, scales, y| {
            kernels.pack5_matvec(packed, cols, x, scales, y);
        });
    }

    /// `product(weights, scales, outputs)` on all rows at once or, where it pays, on [`TASK_ROWS`] a task.
    fn by_rows(
        &self,
        call: &Call<'_>,
        packed: &[u8],
        scales: &[f32],
        y: &mut [f32],
        task_len: usize,
        product: &(impl Fn(&[u8], &[f32], &mut [f32]) + Sync),
    ) {
        if !call.parallel {
            return product(packed, scales, y);
        }
        let tasks = y.chunks_mut(TASK_ROWS).zip(packed.chunks(task_len)).enumerate();
        self.for_each(tasks, |(task, (y, packed))| {
            product(packed, super::ternary::part_of(scales, task * TASK_ROWS, y.len()), y);
        });
    }

    /// Packs `trits` `[rows, cols]` (negative, zero, positive count as -1, 0, 1) at five a byte.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn pack5(&self, trits: &[i8], rows: usize, cols: usize, packed: &mut [u8]) {
        let call = self.call(Operation::TernaryPack, trits.len());
        let kernels = call.kernels;
        if trits.is_empty() || !call.parallel {
            return kernels.pack5(trits, rows, cols, packed);
        }
        assert!(trits.len() == rows * cols && packed.len() == KernelTable::pack5_bytes(rows, cols), "pack5: lengths");
        let block = KernelTable::pack5_bytes(TERNARY_BLOCK_ROWS, cols);
        let blocks = packed.chunks_mut(block).zip(trits.chunks(TERNARY_BLOCK_ROWS * cols));
        self.for_each(blocks, |(packed, trits)| kernels.pack5(trits, trits.len() / cols, cols, packed));
    }

    /// The trits `[rows, cols]` of `packed`.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn unpack5(&self, packed: &[u8], rows: usize, cols: usize, trits: &mut [i8]) {
        let call = self.call(Operation::TernaryUnpack, trits.len());
        let kernels = call.kernels;
        if trits.is_empty() || !call.parallel {
            return kernels.unpack5(packed, rows, cols, trits);
        }
        assert!(trits.len() == rows * cols && packed.len() == KernelTable::pack5_bytes(rows, cols), "unpack5: lengths");
        let block = KernelTable::pack5_bytes(TERNARY_BLOCK_ROWS, cols);
        let blocks = packed.chunks(block).zip(trits.chunks_mut(TERNARY_BLOCK_ROWS * cols));
        self.for_each(blocks, |(packed, trits)| kernels.unpack5(packed, trits.len() / cols, cols, trits));
    }
}
