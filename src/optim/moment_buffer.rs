//! One moment of all parameters, in f32 or in fewer bits.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::state::{StatePrecision, StateValues};
use crate::quant::{CODED_BLOCK, Stored, StoredMut};
use crate::tensor::AlignedBuffer;

/// Every tensor starts at a multiple of this many elements: a whole block of any precision.
pub(super) const ALIGN: usize = CODED_BLOCK;

#[derive(Clone, Debug)]
pub(super) enum MomentBuffer {
    F32(AlignedBuffer<f32>),
    Bf16(AlignedBuffer<u16>),
    /// Codes, and the maxima of their blocks.
    Int8(AlignedBuffer<u8>, AlignedBuffer<f32>),
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
        match self.stored(range) {
            Stored::F32(values) => (StateValues::F32(values.into()), None),
            Stored::Bf16(values) => (StateValues::Bf16(values.into()), None),
            Stored::Int8(codes, maxima) => (StateValues::U8(codes.into()), Some(maxima)),
            Stored::Steps(..) => unreachable!("no such moments"),
        }
    }

    /// The memory of a tensor's elements, and of its blocks' maxima if there are any: to read a saved state into.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> (&mut [u8], Option<&mut [f32]>) {
        match self.stored_mut(range) {
            StoredMut::F32(values) => (bytemuck::cast_slice_mut(values), None),
            StoredMut::Bf16(values) => (bytemuck::cast_slice_mut(values), None),
            StoredMut::Int8(codes, maxima) => (codes, Some(maxima)),
            StoredMut::Steps(..) => unreachable!("no such moments"),
        }
    }

    /// The elements of a tensor, to read.
    pub fn stored(&self, range: Range<usize>) -> Stored<'_> {
        match self {
            MomentBuffer::F32(values) => Stored::F32(&values[range]),
            MomentBuffer::Bf16(values) => Stored::Bf16(&values[range]),
            MomentBuffer::Int8(codes, maxima) => Stored::Int8(&codes[range.clone()], &maxima[blocks_of(range)]),
        }
    }

    /// The elements of a tensor, to change.
    pub fn stored_mut(&mut self, range: Range<usize>) -> StoredMut<'_> {
        match self {
            MomentBuffer::F32(values) => StoredMut::F32(&mut values[range]),
            MomentBuffer::Bf16(values) => StoredMut::Bf16(&mut values[range]),
            MomentBuffer::Int8(codes, maxima) => {
                StoredMut::Int8(&mut codes[range.clone()], &mut maxima[blocks_of(range)])
            }
        }
    }
}

/// The maxima of a tensor's elements.
fn blocks_of(range: Range<usize>) -> Range<usize> {
    range.start / ALIGN..range.end.div_ceil(ALIGN)
}
