//! Packing and unpacking five-level matrices on the context's threads, block by block of 64 rows.
#![forbid(unsafe_code)]

use super::{Context, Operation};
use crate::kernels::{FiveLevelLimits, TERNARY_BLOCK_ROWS, five_level_packed_len};

impl Context {
    /// Quantizes and packs `weights` `[rows, cols]` to the levels -2, .., 2: `sign(w)` times the number of limits that
    /// `|w|` exceeds. `limits`: one pair for the matrix or one a row.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn five_level_quantize_pack(
        &self,
        weights: &[f32],
        rows: usize,
        cols: usize,
        limits: &[FiveLevelLimits],
        packed: &mut [u8],
    ) {
        check_lengths(weights.len(), rows, cols, packed.len());
        assert!(limits.len() == 1 || limits.len() == rows, "five_level_quantize_pack: 1 or {rows} pairs of limits");
        let call = self.call(Operation::TernaryQuantizePack, weights.len());
        let kernels = call.kernels;
        if weights.is_empty() || !call.parallel {
            return kernels.five_level_quantize_pack(weights, rows, cols, limits, packed);
        }
        let blocks = packed.chunks_mut(five_level_packed_len(TERNARY_BLOCK_ROWS, cols));
        let blocks = blocks.zip(weights.chunks(TERNARY_BLOCK_ROWS * cols)).enumerate();
        // From the end backwards: after a sum over the weights the end is what the caches still hold.
        self.for_each(blocks.rev(), |(block, (packed, weights))| {
            let (first, rows) = (block * TERNARY_BLOCK_ROWS, weights.len() / cols);
            let limits = if limits.len() == 1 { limits } else { &limits[first..first + rows] };
            kernels.five_level_quantize_pack(weights, rows, cols, limits, packed);
        });
    }

    /// Packs `levels` `[rows, cols]`; values beyond -2 and 2 count as -2 and 2.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn five_level_pack(&self, levels: &[i8], rows: usize, cols: usize, packed: &mut [u8]) {
        check_lengths(levels.len(), rows, cols, packed.len());
        let call = self.call(Operation::TernaryPack, levels.len());
        let kernels = call.kernels;
        if levels.is_empty() || !call.parallel {
            return kernels.five_level_pack(levels, rows, cols, packed);
        }
        let blocks = packed.chunks_mut(five_level_packed_len(TERNARY_BLOCK_ROWS, cols));
        let blocks = blocks.zip(levels.chunks(TERNARY_BLOCK_ROWS * cols));
        self.for_each(blocks, |(packed, levels)| kernels.five_level_pack(levels, levels.len() / cols, cols, packed));
    }

    /// Unpacks a matrix `[rows, cols]` to -2, .., 2.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn five_level_unpack(&self, packed: &[u8], rows: usize, cols: usize, levels: &mut [i8]) {
        check_lengths(levels.len(), rows, cols, packed.len());
        let call = self.call(Operation::TernaryUnpack, levels.len());
        let kernels = call.kernels;
        if levels.is_empty() || !call.parallel {
            return kernels.five_level_unpack(packed, rows, cols, levels);
        }
        let blocks = packed.chunks(five_level_packed_len(TERNARY_BLOCK_ROWS, cols));
        let blocks = blocks.zip(levels.chunks_mut(TERNARY_BLOCK_ROWS * cols));
        self.for_each(blocks, |(packed, levels)| kernels.five_level_unpack(packed, levels.len() / cols, cols, levels));
    }
}

fn check_lengths(weights: usize, rows: usize, cols: usize, packed: usize) {
    assert_eq!(Some(weights), rows.checked_mul(cols), "five-level matrix: weights are not {rows} x {cols}");
    assert_eq!(packed, five_level_packed_len(rows, cols), "five-level matrix: length of the packed form");
}
