//! Fixed blocks of rows: the unit of parallel work of the row-wise operations, and of their parameters' gradients.
#![forbid(unsafe_code)]

use std::slice::ChunksMut;

use crate::nn::{Mode, Scratch};

/// Rows of a block.
pub(super) const ROWS: usize = 32;

/// Scratch for the partial sums of gradients of these widths.
pub(super) fn sums_of_blocks<const N: usize>(mode: Mode, rows: usize, widths: [usize; N]) -> Vec<Scratch> {
    let floats = widths.iter().map(|width| rows.div_ceil(ROWS) * width).collect();
    let used = (mode == Mode::Train).then(|| Scratch { floats, ..Scratch::default() });
    used.into_iter().collect()
}

/// Adds the blocks' partial sums (`width` elements each) to `gradient`, in block order and in f64: the result does not
/// depend on the threads.
pub(super) fn add_blocks(partials: &[f32], gradient: &mut [f32]) {
    let width = gradient.len();
    for (column, gradient) in gradient.iter_mut().enumerate() {
        let sum: f64 = partials.iter().skip(column).step_by(width).map(|&partial| f64::from(partial)).sum();
        *gradient += sum as f32;
    }
}

/// Chunks of `size` elements of a slice; of an empty one, `count` empty chunks.
pub(super) fn chunks_or_empty(values: &mut [f32], size: usize, count: usize) -> ChunksOrEmpty<'_> {
    ChunksOrEmpty { chunks: values.chunks_mut(size), count }
}

pub(super) struct ChunksOrEmpty<'a> {
    chunks: ChunksMut<'a, f32>,
    count: usize,
}

impl<'a> Iterator for ChunksOrEmpty<'a> {
    type Item = &'a mut [f32];

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        Some(self.chunks.next().unwrap_or_default())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl DoubleEndedIterator for ChunksOrEmpty<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        Some(self.chunks.next_back().unwrap_or_default())
    }
}

impl ExactSizeIterator for ChunksOrEmpty<'_> {}
