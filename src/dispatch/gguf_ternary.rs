//! GGUF's ternary blocks on the context's threads.
#![forbid(unsafe_code)]

use super::{Context, Operation};
use crate::kernels::{GGUF_BLOCK, GgufTernary};

/// Blocks of one task.
const TASK_BLOCKS: usize = 256;

impl Context {
    /// Quantizes whole blocks of 256 floats as llama.cpp does; see
    /// [`crate::kernels::KernelTable::gguf_ternary_quantize`].
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn gguf_ternary_quantize(&self, format: GgufTernary, x: &[f32], bytes: &mut [u8]) {
        check_lengths(format, x.len(), bytes.len());
        let call = self.call(Operation::TernaryQuantizePack, x.len());
        let kernels = call.kernels;
        if !call.parallel {
            return kernels.gguf_ternary_quantize(format, x, bytes);
        }
        let tasks = bytes.chunks_mut(TASK_BLOCKS * format.block_bytes()).zip(x.chunks(TASK_BLOCKS * GGUF_BLOCK));
        self.for_each(tasks, |(bytes, x)| kernels.gguf_ternary_quantize(format, x, bytes));
    }

    /// Packs trits under known scales, one for all blocks or one a block; see
    /// [`crate::kernels::KernelTable::gguf_ternary_pack`].
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn gguf_ternary_pack(&self, format: GgufTernary, trits: &[i8], scales: &[f32], bytes: &mut [u8]) {
        let blocks = check_lengths(format, trits.len(), bytes.len());
        assert!(scales.len() == 1 || scales.len() == blocks, "gguf_ternary_pack: 1 or {blocks} scales");
        let call = self.call(Operation::TernaryPack, trits.len());
        let kernels = call.kernels;
        if !call.parallel {
            return kernels.gguf_ternary_pack(format, trits, scales, bytes);
        }
        let tasks = bytes.chunks_mut(TASK_BLOCKS * format.block_bytes()).zip(trits.chunks(TASK_BLOCKS * GGUF_BLOCK));
        self.for_each(tasks.enumerate(), |(task, (bytes, trits))| {
            let (first, count) = (task * TASK_BLOCKS, trits.len() / GGUF_BLOCK);
            let scales = if scales.len() == 1 { scales } else { &scales[first..first + count] };
            kernels.gguf_ternary_pack(format, trits, scales, bytes);
        });
    }

    /// The trits and scales of blocks; see [`crate::kernels::KernelTable::gguf_ternary_unpack`].
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn gguf_ternary_unpack(&self, format: GgufTernary, bytes: &[u8], trits: &mut [i8], scales: &mut [f32]) {
        let blocks = check_lengths(format, trits.len(), bytes.len());
        assert_eq!(scales.len(), blocks, "gguf_ternary_unpack: one scale a block");
        let call = self.call(Operation::TernaryUnpack, trits.len());
        let kernels = call.kernels;
        if !call.parallel {
            return kernels.gguf_ternary_unpack(format, bytes, trits, scales);
        }
        let outputs = trits.chunks_mut(TASK_BLOCKS * GGUF_BLOCK).zip(scales.chunks_mut(TASK_BLOCKS));
        let tasks = outputs.zip(bytes.chunks(TASK_BLOCKS * format.block_bytes()));
        self.for_each(tasks, |((trits, scales), bytes)| kernels.gguf_ternary_unpack(format, bytes, trits, scales));
    }

    /// The values of blocks, bit for bit what llama.cpp gives.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn gguf_ternary_dequantize(&self, format: GgufTernary, bytes: &[u8], y: &mut [f32]) {
        check_lengths(format, y.len(), bytes.len());
        let call = self.call(Operation::TernaryUnpack, y.len());
        let kernels = call.kernels;
        if !call.parallel {
            return kernels.gguf_ternary_dequantize(format, bytes, y);
        }
        let tasks = y.chunks_mut(TASK_BLOCKS * GGUF_BLOCK).zip(bytes.chunks(TASK_BLOCKS * format.block_bytes()));
        self.for_each(tasks, |(y, bytes)| kernels.gguf_ternary_dequantize(format, bytes, y));
    }
}

/// The number of blocks of `values` values.
fn check_lengths(format: GgufTernary, values: usize, bytes: usize) -> usize {
    assert!(values.is_multiple_of(GGUF_BLOCK), "GGUF blocks: {values} values are not whole blocks of {GGUF_BLOCK}");
    let blocks = values / GGUF_BLOCK;
    assert_eq!(bytes, blocks * format.block_bytes(), "GGUF blocks: bytes of {blocks} blocks");
    blocks
}
