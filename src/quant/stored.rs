//! Numbers of a tensor as they are kept between uses: in f32, or in fewer bits. Arithmetic is always f32.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::iter::Zip;
use std::ops::Range;
use std::slice::ChunksMut;

use crate::dispatch::{Context, StochasticRounding};
use crate::kernels::KernelTable;
use crate::tensor::AlignedBuffer;

/// Elements of a parallel block: fixed, so that sums do not depend on the number of threads.
pub(crate) const BLOCK: usize = 1 << 14;

/// Elements under one maximum in 8 bits.
pub(crate) const CODED_BLOCK: usize = KernelTable::STATE_BLOCK;
const GROUP: usize = KernelTable::STATE_GROUP;
const _: () = assert!(BLOCK.is_multiple_of(CODED_BLOCK) && BLOCK.is_multiple_of(GROUP));

thread_local! {
    /// Blocks of f32 that coded ones are worked on in: kept, so that a step allocates nothing.
    static SCRATCH: RefCell<Vec<AlignedBuffer<f32>>> = const { RefCell::new(Vec::new()) };
}

fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let kept = SCRATCH.with_borrow_mut(Vec::pop);
    // Rows of a table may be longer than a block.
    let fitting = kept.filter(|scratch| scratch.len() >= len);
    let mut scratch = fitting.unwrap_or_else(|| AlignedBuffer::zeroed(BLOCK.max(len)));
    let result = work(&mut scratch[..len]);
    SCRATCH.with_borrow_mut(|kept| kept.push(scratch));
    result
}

/// How numbers are coded anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coding {
    /// Second moments have no sign.
    pub is_signed: bool,
    /// Place of the first number in its random stream, in elements; a multiple of [`KernelTable::STATE_GROUP`].
    pub first: usize,
    pub rounding: StochasticRounding,
}

/// Numbers to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored<'a> {
    F32(&'a [f32]),
    /// The bits of bf16.
    Bf16(&'a [u16]),
    /// Codes, and the maxima of their blocks.
    Int8(&'a [u8], &'a [f32]),
    /// Whole numbers of steps, and the steps of their blocks.
    Steps(&'a [i8], &'a [f32]),
}

impl<'a> Stored<'a> {
    pub fn len(self) -> usize {
        match self {
            Stored::F32(values) => values.len(),
            Stored::Bf16(values) => values.len(),
            Stored::Int8(codes, _) => codes.len(),
            Stored::Steps(values, _) => values.len(),
        }
    }

    /// Some of the numbers; of codes in 8 bits from a whole block on.
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Stored::F32(values) => Stored::F32(&values[range]),
            Stored::Bf16(values) => Stored::Bf16(&values[range]),
            Stored::Int8(codes, maxima) => Stored::Int8(&codes[range.clone()], &maxima[coded_blocks(range)]),
            Stored::Steps(values, steps) => Stored::Steps(&values[range.clone()], &steps[coded_blocks(range)]),
        }
    }

    /// Blocks of [`BLOCK`] numbers.
    pub fn blocks(self) -> impl ExactSizeIterator<Item = Stored<'a>> + DoubleEndedIterator {
        let len = self.len();
        (0..len.div_ceil(BLOCK)).map(move |index| self.part(index * BLOCK..len.min((index + 1) * BLOCK)))
    }

    /// Hands the numbers of a block out.
    pub fn read<R>(self, kernels: &KernelTable, is_signed: bool, work: impl FnOnce(&[f32]) -> R) -> R {
        match self {
            Stored::F32(values) => work(values),
            _ => with_scratch(self.len(), |scratch| {
                self.decode_block(kernels, is_signed, scratch);
                work(scratch)
            }),
        }
    }

    /// As [`Stored::decode`], on the calling thread.
    pub fn decode_row(self, kernels: &KernelTable, out: &mut [f32]) {
        self.decode_block(kernels, true, out);
    }

    fn decode_block(self, kernels: &KernelTable, is_signed: bool, out: &mut [f32]) {
        match self {
            Stored::F32(values) => out.copy_from_slice(values),
            Stored::Bf16(values) => kernels.state_decode_bf16(values, out),
            Stored::Int8(codes, maxima) => kernels.state_decode_int8(codes, maxima, is_signed, out),
            Stored::Steps(values, steps) => decode_steps(values, steps, out),
        }
    }

    /// All numbers (signed ones), of any number of blocks.
    pub fn decode(self, context: &Context, out: &mut [f32]) {
        let kernels = context.kernels();
        context.for_each(out.chunks_mut(BLOCK).zip(self.blocks()), |(out, block)| {
            block.decode_block(kernels, true, out);
        });
    }
}

/// Numbers to change.
#[derive(Debug)]
pub(crate) enum StoredMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
    Int8(&'a mut [u8], &'a mut [f32]),
    Steps(&'a mut [i8], &'a mut [f32]),
}

impl<'a> StoredMut<'a> {
    /// The same, borrowed from this.
    pub fn part(&mut self, range: Range<usize>) -> StoredMut<'_> {
        match self {
            StoredMut::F32(values) => StoredMut::F32(&mut values[range]),
            StoredMut::Bf16(values) => StoredMut::Bf16(&mut values[range]),
            StoredMut::Int8(codes, maxima) => {
                StoredMut::Int8(&mut codes[range.clone()], &mut maxima[coded_blocks(range)])
            }
            StoredMut::Steps(values, steps) => {
                StoredMut::Steps(&mut values[range.clone()], &mut steps[coded_blocks(range)])
            }
        }
    }

    /// Blocks of [`BLOCK`] numbers.
    pub fn blocks(self) -> StoredBlocksMut<'a> {
        self.chunks(BLOCK)
    }

    /// Stretches of `len` numbers; of codes in 8 bits whole blocks.
    pub fn chunks(self, len: usize) -> StoredBlocksMut<'a> {
        match self {
            StoredMut::F32(values) => StoredBlocksMut::F32(values.chunks_mut(len)),
            StoredMut::Bf16(values) => StoredBlocksMut::Bf16(values.chunks_mut(len)),
            StoredMut::Int8(codes, maxima) => {
                StoredBlocksMut::Int8(codes.chunks_mut(len).zip(maxima.chunks_mut(len / CODED_BLOCK)))
            }
            StoredMut::Steps(values, steps) => {
                StoredBlocksMut::Steps(values.chunks_mut(len).zip(steps.chunks_mut(len / CODED_BLOCK)))
            }
        }
    }

    /// Hands the numbers of a block out and keeps what they become.
    pub fn update<R>(self, kernels: &KernelTable, coding: Coding, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let Coding { is_signed, first, rounding } = coding;
        debug_assert!(first.is_multiple_of(GROUP));
        let first_group = first / GROUP;
        match self {
            StoredMut::F32(values) => work(values),
            StoredMut::Bf16(values) => with_scratch(values.len(), |scratch| {
                kernels.state_decode_bf16(values, scratch);
                let result = work(scratch);
                kernels.state_encode_bf16(scratch, first_group, rounding, values);
                result
            }),
            StoredMut::Int8(codes, maxima) => with_scratch(codes.len(), |scratch| {
                kernels.state_decode_int8(codes, maxima, is_signed, scratch);
                let result = work(scratch);
                kernels.state_encode_int8(scratch, first_group, rounding, is_signed, codes, maxima);
                result
            }),
            StoredMut::Steps(values, steps) => with_scratch(values.len(), |scratch| {
                decode_steps(values, steps, scratch);
                let result = work(scratch);
                encode_steps(kernels, scratch, first / CODED_BLOCK, rounding, values, steps);
                result
            }),
        }
    }

    /// Adds `values` to all numbers (signed ones), which begin at `first` in the random stream.
    pub fn add(self, context: &Context, first: usize, rounding: StochasticRounding, values: &[f32]) {
        let kernels = context.kernels();
        context.for_each(self.blocks().zip(values.chunks(BLOCK)).enumerate(), |(index, (block, values))| {
            let coding = Coding { is_signed: true, first: first + index * BLOCK, rounding };
            block.update(kernels, coding, |sums| sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value));
        });
    }
}

/// The blocks of numbers to change, one after the other from either end.
pub(crate) enum StoredBlocksMut<'a> {
    F32(ChunksMut<'a, f32>),
    Bf16(ChunksMut<'a, u16>),
    Int8(Zip<ChunksMut<'a, u8>, ChunksMut<'a, f32>>),
    Steps(Zip<ChunksMut<'a, i8>, ChunksMut<'a, f32>>),
}

impl<'a> Iterator for StoredBlocksMut<'a> {
    type Item = StoredMut<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            StoredBlocksMut::F32(blocks) => blocks.next().map(StoredMut::F32),
            StoredBlocksMut::Bf16(blocks) => blocks.next().map(StoredMut::Bf16),
            StoredBlocksMut::Int8(blocks) => blocks.next().map(|(codes, maxima)| StoredMut::Int8(codes, maxima)),
            StoredBlocksMut::Steps(blocks) => blocks.next().map(|(values, steps)| StoredMut::Steps(values, steps)),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            StoredBlocksMut::F32(blocks) => blocks.size_hint(),
            StoredBlocksMut::Bf16(blocks) => blocks.size_hint(),
            StoredBlocksMut::Int8(blocks) => blocks.size_hint(),
            StoredBlocksMut::Steps(blocks) => blocks.size_hint(),
        }
    }
}

impl DoubleEndedIterator for StoredBlocksMut<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            StoredBlocksMut::F32(blocks) => blocks.next_back().map(StoredMut::F32),
            StoredBlocksMut::Bf16(blocks) => blocks.next_back().map(StoredMut::Bf16),
            StoredBlocksMut::Int8(blocks) => blocks.next_back().map(|(codes, maxima)| StoredMut::Int8(codes, maxima)),
            StoredBlocksMut::Steps(blocks) => blocks.next_back().map(|(values, steps)| StoredMut::Steps(values, steps)),
        }
    }
}

impl ExactSizeIterator for StoredBlocksMut<'_> {}

/// The maxima of codes in 8 bits.
fn coded_blocks(range: Range<usize>) -> Range<usize> {
    range.start / CODED_BLOCK..range.end.div_ceil(CODED_BLOCK)
}

fn decode_steps(values: &[i8], steps: &[f32], out: &mut [f32]) {
    for ((out, values), step) in out.chunks_mut(CODED_BLOCK).zip(values.chunks(CODED_BLOCK)).zip(steps) {
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = step * f32::from(value));
    }
}

/// Rounds up or down at random: the mean is the number itself. `first`: the first block's place in the tensor.
fn encode_steps(
    kernels: &KernelTable,
    x: &[f32],
    first: usize,
    rounding: StochasticRounding,
    values: &mut [i8],
    steps: &mut [f32],
) {
    let whole = x.len() / CODED_BLOCK;
    let (x, rest) = x.split_at(whole * CODED_BLOCK);
    let (values, values_of_rest) = values.split_at_mut(whole * CODED_BLOCK);
    let (steps, step_of_rest) = steps.split_at_mut(whole);
    let mut sums = [0; BLOCK / CODED_BLOCK];
    for (index, steps) in steps.chunks_mut(sums.len()).enumerate() {
        let start = index * sums.len();
        let range = start * CODED_BLOCK..(start + steps.len()) * CODED_BLOCK;
        let (x, values, sums) = (&x[range.clone()], &mut values[range], &mut sums[..steps.len()]);
        kernels.quantize_rows_stochastic(x, CODED_BLOCK, first + start, rounding, values, steps, sums);
    }
    if !rest.is_empty() {
        // The place in groups of draws, as rows of this width count them.
        let row = (first + whole) * (CODED_BLOCK / GROUP) / rest.len().div_ceil(GROUP);
        let (step, sum) = (&mut step_of_rest[..1], &mut sums[..1]);
        kernels.quantize_rows_stochastic(rest, rest.len(), row, rounding, values_of_rest, step, sum);
    }
}
