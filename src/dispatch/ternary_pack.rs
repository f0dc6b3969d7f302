//! Packing, unpacking and checking ternary matrices on the context's threads, block by block of 64 rows: results do not
//! depend on the number of threads.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ops::AddAssign;

use super::backend::Call;
use super::{Context, Operation};
use crate::kernels::{TERNARY_BLOCK_ROWS, ternary_block_len, ternary_packed_len};
use crate::tensor::AlignedBuffer;

/// Bytes of one task of a check.
const CHECK_BYTES: usize = 1 << 20;

thread_local! {
    /// A freshly packed block. Grows to the largest block seen.
    static FRESH: RefCell<AlignedBuffer<u8>> = RefCell::default();
}

fn with_fresh<R>(len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    FRESH.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            *buffer = AlignedBuffer::zeroed(len);
        }
        work(&mut buffer[..len])
    })
}

/// What [`Context::ternary_repack_sums`] found.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TernaryRepack {
    /// Weights whose value differs from before.
    pub changed: usize,
    /// Weights that are not zero now.
    pub nonzero: usize,
    /// Sum of `|w|` over those, in f64.
    pub nonzero_sum: f64,
}

impl AddAssign for TernaryRepack {
    fn add_assign(&mut self, other: Self) {
        self.changed += other.changed;
        self.nonzero += other.nonzero;
        self.nonzero_sum += other.nonzero_sum;
    }
}

impl Context {
    /// Quantizes and packs `weights` `[rows, cols]`: `sign(w)` where `|w|` exceeds its threshold, else 0.
    /// `thresholds`: one for the matrix or one a row. Whatever `packed` held is lost.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_quantize_pack(
        &self,
        weights: &[f32],
        rows: usize,
        cols: usize,
        thresholds: &[f32],
        packed: &mut [u8],
    ) {
        let call = self.call(Operation::TernaryQuantizePack, weights.len());
        let kernels = call.kernels;
        let _: usize = self.quantize_blocks(
            &call,
            weights,
            rows,
            cols,
            thresholds,
            packed,
            |weights, rows, thresholds, packed| {
                kernels.ternary_quantize_pack(weights, rows, cols, thresholds, packed);
                0 // nothing to add up
            },
        );
    }

    /// As [`Context::ternary_quantize_pack`]; gives the number of weights whose value differs from before.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_repack(
        &self,
        weights: &[f32],
        rows: usize,
        cols: usize,
        thresholds: &[f32],
        packed: &mut [u8],
    ) -> usize {
        let call = self.call(Operation::TernaryQuantizePack, weights.len());
        let kernels = call.kernels;
        let changed = |weights: &[f32], rows, thresholds: &[f32], packed: &mut [u8]| {
            with_fresh(packed.len(), |fresh| {
                kernels.ternary_quantize_pack(weights, rows, cols, thresholds, fresh);
                let changed = kernels.ternary_count_changed(fresh, packed);
                packed.copy_from_slice(fresh);
                changed
            })
        };
        self.quantize_blocks(&call, weights, rows, cols, thresholds, packed, changed)
    }

    /// As [`Context::ternary_repack`], with the sums that tell what the rounding lost; the same bits at every thread
    /// count and ISA.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_repack_sums(
        &self,
        weights: &[f32],
        rows: usize,
        cols: usize,
        thresholds: &[f32],
        packed: &mut [u8],
    ) -> TernaryRepack {
        let call = self.call(Operation::TernaryQuantizePack, weights.len());
        let kernels = call.kernels;
        let repack = |weights: &[f32], rows, thresholds: &[f32], packed: &mut [u8]| {
            with_fresh(packed.len(), |fresh| {
                let nonzero_sum = kernels.ternary_quantize_pack_sum(weights, rows, cols, thresholds, fresh);
                let changed = kernels.ternary_count_changed(fresh, packed);
                packed.copy_from_slice(fresh);
                TernaryRepack { changed, nonzero: kernels.ternary_count_nonzero(fresh), nonzero_sum }
            })
        };
        self.quantize_blocks(&call, weights, rows, cols, thresholds, packed, repack)
    }

    /// Runs `work(weights, rows, thresholds, packed)` on every block of 64 rows, from the last to the first: after a sum
    /// over the weights the end is what the caches still hold. The results are added up in the order of the rows.
    #[allow(clippy::too_many_arguments)]
    fn quantize_blocks<R: Default + AddAssign + Send>(
        &self,
        call: &Call<'_>,
        weights: &[f32],
        rows: usize,
        cols: usize,
        thresholds: &[f32],
        packed: &mut [u8],
        work: impl Fn(&[f32], usize, &[f32], &mut [u8]) -> R + Sync,
    ) -> R {
        check_lengths(weights.len(), rows, cols, packed.len());
        assert!(thresholds.len() == 1 || thresholds.len() == rows, "ternary matrix: 1 or {rows} thresholds");
        if weights.is_empty() {
            return R::default();
        }
        let block = |(block, (packed, weights)): (usize, (&mut [u8], &[f32]))| {
            let (first, rows) = (block * TERNARY_BLOCK_ROWS, weights.len() / cols);
            let thresholds = if thresholds.len() == 1 { thresholds } else { &thresholds[first..first + rows] };
            work(weights, rows, thresholds, packed)
        };
        let (block_len, block_weights) = (ternary_block_len(cols), TERNARY_BLOCK_ROWS * cols);
        let blocks = packed.chunks_mut(block_len).zip(weights.chunks(block_weights)).enumerate();
        if call.parallel {
            return self.sum_beginning_at(true, blocks, block);
        }
        blocks.map(block).fold(R::default(), |mut sum, result| {
            sum += result;
            sum
        })
    }

    /// Packs `trits` `[rows, cols]` (negative, zero, positive count as -1, 0, 1).
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_pack(&self, trits: &[i8], rows: usize, cols: usize, packed: &mut [u8]) {
        check_lengths(trits.len(), rows, cols, packed.len());
        let call = self.call(Operation::TernaryPack, trits.len());
        let kernels = call.kernels;
        if trits.is_empty() || !call.parallel {
            return kernels.ternary_pack(trits, rows, cols, packed);
        }
        let blocks = packed.chunks_mut(ternary_block_len(cols)).zip(trits.chunks(TERNARY_BLOCK_ROWS * cols));
        self.for_each(blocks, |(packed, trits)| kernels.ternary_pack(trits, trits.len() / cols, cols, packed));
    }

    /// Unpacks a matrix `[rows, cols]` to -1, 0, 1.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_unpack(&self, packed: &[u8], rows: usize, cols: usize, trits: &mut [i8]) {
        check_lengths(trits.len(), rows, cols, packed.len());
        let call = self.call(Operation::TernaryUnpack, trits.len());
        let kernels = call.kernels;
        if trits.is_empty() || !call.parallel {
            return kernels.ternary_unpack(packed, rows, cols, trits);
        }
        let blocks = packed.chunks(ternary_block_len(cols)).zip(trits.chunks_mut(TERNARY_BLOCK_ROWS * cols));
        self.for_each(blocks, |(packed, trits)| kernels.ternary_unpack(packed, trits.len() / cols, cols, trits));
    }

    /// Where the first byte lies that holds code 3, which stands for no weight; `None` if all bytes are sound.
    pub fn ternary_find_invalid(&self, packed: &[u8]) -> Option<usize> {
        let kernels = self.kernels();
        if packed.len() <= CHECK_BYTES {
            return kernels.ternary_find_invalid(packed);
        }
        let found = self.map(packed.chunks(CHECK_BYTES), |bytes| kernels.ternary_find_invalid(bytes));
        found.into_iter().enumerate().find_map(|(part, place)| Some(part * CHECK_BYTES + place?))
    }
}

fn check_lengths(weights: usize, rows: usize, cols: usize, packed: usize) {
    assert_eq!(Some(weights), rows.checked_mul(cols), "ternary matrix: weights are not {rows} x {cols}");
    assert_eq!(packed, ternary_packed_len(rows, cols), "ternary matrix: length of the packed form");
}
