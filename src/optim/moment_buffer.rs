//! One moment of all parameters, in f32 or in fewer bits.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::iter::Zip;
use std::ops::Range;
use std::slice::ChunksMut;

use super::direction::BLOCK;
use super::state::{StatePrecision, StateValues};
use crate::dispatch::StochasticRounding;
use crate::kernels::KernelTable;
use crate::tensor::AlignedBuffer;

/// Every tensor starts at a multiple of this many elements: a whole block of any precision.
pub(super) const ALIGN: usize = KernelTable::STATE_BLOCK;
const _: () = assert!(BLOCK.is_multiple_of(KernelTable::STATE_BLOCK) && BLOCK.is_multiple_of(KernelTable::STATE_GROUP));

thread_local! {
    /// Blocks of f32 that coded ones are worked on in: kept, so that a step allocates nothing.
    static SCRATCH: RefCell<Vec<AlignedBuffer<f32>>> = const { RefCell::new(Vec::new()) };
}

fn with_scratch<R>(work: impl FnOnce(&mut [f32]) -> R) -> R {
    let kept = SCRATCH.with_borrow_mut(Vec::pop);
    let mut scratch = kept.unwrap_or_else(|| AlignedBuffer::zeroed(BLOCK));
    let result = work(&mut scratch);
    SCRATCH.with_borrow_mut(|kept| kept.push(scratch));
    result
}

#[derive(Clone, Debug)]
pub(super) enum MomentBuffer {
    F32(AlignedBuffer<f32>),
    Bf16(AlignedBuffer<u16>),
    /// Codes, and the maxima of their blocks.
    Int8(AlignedBuffer<u8>, AlignedBuffer<f32>),
}

/// How a block of a moment is coded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coding {
    /// The second moment has no sign.
    pub is_signed: bool,
    /// Place of the block in its tensor.
    pub block: usize,
    pub rounding: StochasticRounding,
}

impl MomentBuffer {
    pub fn zeroed(precision: StatePrecision, len: usize) -> Self {
        match precision {
            StatePrecision::F32 => MomentBuffer::F32(AlignedBuffer::zeroed(len)),
            StatePrecision::Bf16 => MomentBuffer::Bf16(AlignedBuffer::zeroed(len)),
            StatePrecision::Int8Blocks => {
                MomentBuffer::Int8(AlignedBuffer::zeroed(len), AlignedBuffer::zeroed(len.div_ceil(ALIGN)))
            }
        }
    }

    /// All values. Only for moments in f32: those of other optimizers than AdamW.
    pub fn floats(&self) -> &[f32] {
        let MomentBuffer::F32(values) = self else { unreachable!("moments in f32") };
        values
    }

    /// As [`MomentBuffer::floats`], to change.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        let MomentBuffer::F32(values) = self else { unreachable!("moments in f32") };
        values
    }

    /// The elements of a tensor, as its state is saved: the second part, if there is one, are the blocks' maxima.
    pub fn values(&self, range: Range<usize>) -> (StateValues<'_>, Option<&[f32]>) {
        match self {
            MomentBuffer::F32(values) => (StateValues::F32(values[range].into()), None),
            MomentBuffer::Bf16(values) => (StateValues::Bf16(values[range].into()), None),
            MomentBuffer::Int8(codes, maxima) => {
                (StateValues::U8(codes[range.clone()].into()), Some(&maxima[blocks_of(range)]))
            }
        }
    }

    /// The memory of a tensor's elements, and of its blocks' maxima if there are any: to read a saved state into.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> (&mut [u8], Option<&mut [f32]>) {
        match self {
            MomentBuffer::F32(values) => (bytemuck::cast_slice_mut(&mut values[range]), None),
            MomentBuffer::Bf16(values) => (bytemuck::cast_slice_mut(&mut values[range]), None),
            MomentBuffer::Int8(codes, maxima) => (&mut codes[range.clone()], Some(&mut maxima[blocks_of(range)])),
        }
    }

    /// The blocks of a tensor, to read.
    pub fn blocks(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = MomentBlock<'_>> + DoubleEndedIterator {
        let end = range.end;
        let block = move |index: usize| {
            let start = range.start + index * BLOCK;
            let part = start..end.min(start + BLOCK);
            match self {
                MomentBuffer::F32(values) => MomentBlock::F32(&values[part]),
                MomentBuffer::Bf16(values) => MomentBlock::Bf16(&values[part]),
                MomentBuffer::Int8(codes, maxima) => MomentBlock::Int8(&codes[part.clone()], &maxima[blocks_of(part)]),
            }
        };
        (0..(end - range.start).div_ceil(BLOCK)).map(block)
    }

    /// The blocks of a tensor, to change.
    pub fn blocks_mut(&mut self, range: Range<usize>) -> BlocksMut<'_> {
        match self {
            MomentBuffer::F32(values) => BlocksMut::F32(values[range].chunks_mut(BLOCK)),
            MomentBuffer::Bf16(values) => BlocksMut::Bf16(values[range].chunks_mut(BLOCK)),
            MomentBuffer::Int8(codes, maxima) => {
                let maxima = maxima[blocks_of(range.clone())].chunks_mut(BLOCK / ALIGN);
                BlocksMut::Int8(codes[range].chunks_mut(BLOCK).zip(maxima))
            }
        }
    }
}

/// The blocks of a tensor's moment, to change, one after the other from either end.
pub(super) enum BlocksMut<'a> {
    F32(ChunksMut<'a, f32>),
    Bf16(ChunksMut<'a, u16>),
    Int8(Zip<ChunksMut<'a, u8>, ChunksMut<'a, f32>>),
}

impl<'a> Iterator for BlocksMut<'a> {
    type Item = MomentBlockMut<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            BlocksMut::F32(blocks) => blocks.next().map(MomentBlockMut::F32),
            BlocksMut::Bf16(blocks) => blocks.next().map(MomentBlockMut::Bf16),
            BlocksMut::Int8(blocks) => blocks.next().map(|(codes, maxima)| MomentBlockMut::Int8(codes, maxima)),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            BlocksMut::F32(blocks) => blocks.size_hint(),
            BlocksMut::Bf16(blocks) => blocks.size_hint(),
            BlocksMut::Int8(blocks) => blocks.size_hint(),
        }
    }
}

impl DoubleEndedIterator for BlocksMut<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            BlocksMut::F32(blocks) => blocks.next_back().map(MomentBlockMut::F32),
            BlocksMut::Bf16(blocks) => blocks.next_back().map(MomentBlockMut::Bf16),
            BlocksMut::Int8(blocks) => blocks.next_back().map(|(codes, maxima)| MomentBlockMut::Int8(codes, maxima)),
        }
    }
}

impl ExactSizeIterator for BlocksMut<'_> {}

/// The maxima of a tensor's elements.
fn blocks_of(range: Range<usize>) -> Range<usize> {
    range.start / ALIGN..range.end.div_ceil(ALIGN)
}

/// A block of a tensor's moment.
pub(super) enum MomentBlock<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
    Int8(&'a [u8], &'a [f32]),
}

impl MomentBlock<'_> {
    /// Hands the values out.
    pub fn read<R>(&self, kernels: &KernelTable, is_signed: bool, work: impl FnOnce(&[f32]) -> R) -> R {
        match *self {
            MomentBlock::F32(values) => work(values),
            MomentBlock::Bf16(values) => with_scratch(|scratch| {
                let scratch = &mut scratch[..values.len()];
                kernels.state_decode_bf16(values, scratch);
                work(scratch)
            }),
            MomentBlock::Int8(codes, maxima) => with_scratch(|scratch| {
                let scratch = &mut scratch[..codes.len()];
                kernels.state_decode_int8(codes, maxima, is_signed, scratch);
                work(scratch)
            }),
        }
    }
}

/// A block of a tensor's moment, to change.
pub(super) enum MomentBlockMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
    Int8(&'a mut [u8], &'a mut [f32]),
}

impl MomentBlockMut<'_> {
    /// Hands the values out and keeps what they become.
    pub fn update<R>(self, kernels: &KernelTable, coding: Coding, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let Coding { is_signed, block, rounding } = coding;
        let first_group = block * (BLOCK / KernelTable::STATE_GROUP);
        match self {
            MomentBlockMut::F32(values) => work(values),
            MomentBlockMut::Bf16(values) => with_scratch(|scratch| {
                let scratch = &mut scratch[..values.len()];
                kernels.state_decode_bf16(values, scratch);
                let result = work(scratch);
                kernels.state_encode_bf16(scratch, first_group, rounding, values);
                result
            }),
            MomentBlockMut::Int8(codes, maxima) => with_scratch(|scratch| {
                let scratch = &mut scratch[..codes.len()];
                kernels.state_decode_int8(codes, maxima, is_signed, scratch);
                let result = work(scratch);
                kernels.state_encode_int8(scratch, first_group, rounding, is_signed, codes, maxima);
                result
            }),
        }
    }
}
