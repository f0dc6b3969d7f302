//! The weights, or the gradients, of all parameters.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ops::Range;

use half::bf16;
use serde::{Deserialize, Serialize};

use crate::dispatch::{Context, StochasticRounding};
use crate::quant::{BLOCK, CODED_BLOCK, Coding, Stored, StoredMut};
use crate::tensor::AlignedBuffer;

/// Every tensor starts at a multiple of this many elements: 64 bytes of bf16, 128 of f32.
const ALIGN_ELEMENTS: usize = 32;
/// The same of f32 alone. What is summed over the flat buffer depends on it.
const ALIGN_FLOATS: usize = 16;

/// Elements that a thread sets to zero at a time.
const ZEROED_BLOCK: usize = 1 << 16;

/// Random streams of the rounding of gradients that are scaled (see [`crate::tensor::RandomStream::new`]).
const SCALE_PURPOSE: u32 = 58;

/// How the weights, or the gradient, of a parameter are kept between uses. Arithmetic is f32 either way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptPrecision {
    /// 4 bytes an element.
    #[default]
    F32,
    /// 2 bytes an element, rounded stochastically whenever it changes.
    Bf16,
    /// A byte an element and a scale for each 256 of them, their largest magnitude over 127; rounded as bf16 is. Weights of
    /// quantized layers only.
    Int8,
}

/// Tensors in declaration order: in one flat buffer those kept in f32, in others those kept in bf16 and int8.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    places: Vec<(KeptPrecision, Range<usize>)>,
    floats: AlignedBuffer<f32>,
    halves: AlignedBuffer<u16>,
    bytes: AlignedBuffer<i8>,
    /// Of each block of `bytes`.
    steps: AlignedBuffer<f32>,
}

impl Numbers {
    /// Zeros, for tensors of these forms and lengths.
    pub fn zeroed(tensors: &[(KeptPrecision, usize)]) -> Self {
        let mut ends = [0; 3];
        let mut place = |&(form, len): &(KeptPrecision, usize)| {
            let (end, align) = match form {
                KeptPrecision::F32 => (&mut ends[0], ALIGN_FLOATS),
                KeptPrecision::Bf16 => (&mut ends[1], ALIGN_ELEMENTS),
                KeptPrecision::Int8 => (&mut ends[2], CODED_BLOCK),
            };
            let start = *end;
            *end += len.next_multiple_of(align);
            (form, start..start + len)
        };
        let places = tensors.iter().map(&mut place).collect();
        Numbers {
            places,
            floats: AlignedBuffer::zeroed(ends[0]),
            halves: AlignedBuffer::zeroed(ends[1]),
            bytes: AlignedBuffer::zeroed(ends[2]),
            steps: AlignedBuffer::zeroed(ends[2] / CODED_BLOCK),
        }
    }

    /// These numbers in other forms; rounded to nearest, half to even.
    pub fn in_forms(&self, tensors: &[(KeptPrecision, usize)]) -> Self {
        let mut new = Numbers::zeroed(tensors);
        for index in 0..tensors.len() {
            let values = self.values(index);
            match new.stored_mut(index) {
                StoredMut::F32(to) => to.copy_from_slice(&values),
                StoredMut::Bf16(to) => {
                    to.iter_mut().zip(&*values).for_each(|(to, &value)| *to = bf16::from_f32(value).to_bits());
                }
                StoredMut::Steps(to, steps) => {
                    let blocks = to.chunks_mut(CODED_BLOCK).zip(values.chunks(CODED_BLOCK));
                    for ((to, values), step) in blocks.zip(steps) {
                        *step = values.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 127.0;
                        let inverse = if *step > 0.0 { 1.0 / *step } else { 0.0 };
                        to.iter_mut().zip(values).for_each(|(to, v)| *to = (v * inverse).round_ties_even() as i8);
                    }
                }
                StoredMut::Int8(..) => unreachable!("no such form"),
            }
        }
        new
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.floats[..]) + size_of_val(&self.halves[..]) + self.bytes.len() + size_of_val(&self.steps[..])
    }

    /// Whether any tensor is kept in fewer bits than f32.
    pub fn has_fewer_bits(&self) -> bool {
        !self.halves.is_empty() || !self.bytes.is_empty()
    }

    /// A tensor kept in f32; of another nothing.
    pub fn floats(&self, tensor: usize) -> &[f32] {
        match &self.places[tensor] {
            (KeptPrecision::F32, range) => &self.floats[range.clone()],
            _ => &[],
        }
    }

    pub fn floats_mut(&mut self, tensor: usize) -> &mut [f32] {
        match &self.places[tensor] {
            (KeptPrecision::F32, range) => &mut self.floats[range.clone()],
            _ => &mut [],
        }
    }

    pub fn stored(&self, tensor: usize) -> Stored<'_> {
        match &self.places[tensor] {
            (KeptPrecision::F32, range) => Stored::F32(&self.floats[range.clone()]),
            (KeptPrecision::Bf16, range) => Stored::Bf16(&self.halves[range.clone()]),
            (KeptPrecision::Int8, range) => Stored::Steps(&self.bytes, &self.steps).part(range.clone()),
        }
    }

    pub fn stored_mut(&mut self, tensor: usize) -> StoredMut<'_> {
        match &self.places[tensor] {
            (KeptPrecision::F32, range) => StoredMut::F32(&mut self.floats[range.clone()]),
            (KeptPrecision::Bf16, range) => StoredMut::Bf16(&mut self.halves[range.clone()]),
            (KeptPrecision::Int8, range) => {
                let blocks = range.start / CODED_BLOCK..range.end.div_ceil(CODED_BLOCK);
                StoredMut::Steps(&mut self.bytes[range.clone()], &mut self.steps[blocks])
            }
        }
    }

    /// A tensor to change, and the longer of what lies in f32 before and behind it: none if the tensor is not kept in f32.
    pub fn stored_mut_and_rest(&mut self, tensor: usize) -> (StoredMut<'_>, &mut [f32]) {
        let (KeptPrecision::F32, range) = &self.places[tensor] else { return (self.stored_mut(tensor), &mut []) };
        let (before, rest) = self.floats.split_at_mut(range.start);
        let (tensor, behind) = rest.split_at_mut(range.len());
        let behind = behind.get_mut(range.len().next_multiple_of(ALIGN_FLOATS) - range.len()..).unwrap_or_default();
        (StoredMut::F32(tensor), if before.len() > behind.len() { before } else { behind })
    }

    /// A tensor's numbers in f32.
    pub fn values(&self, tensor: usize) -> Cow<'_, [f32]> {
        match self.stored(tensor) {
            Stored::F32(values) => Cow::Borrowed(values),
            Stored::Bf16(bits) => Cow::Owned(bits.iter().map(|&bits| bf16::from_bits(bits).to_f32()).collect()),
            Stored::Steps(values, steps) => {
                let blocks = values.chunks(CODED_BLOCK).zip(steps);
                Cow::Owned(blocks.flat_map(|(values, step)| values.iter().map(move |&v| step * f32::from(v))).collect())
            }
            Stored::Int8(..) => unreachable!("no such form"),
        }
    }

    /// All that is kept in f32, with zeros between tensors.
    pub fn all_floats(&self) -> &[f32] {
        &self.floats
    }

    pub fn all_floats_mut(&mut self) -> &mut [f32] {
        &mut self.floats
    }

    /// Zeros, of numbers in f32 and bf16.
    pub fn clear(&mut self) {
        self.floats.fill(0.0);
        self.halves.fill(0);
    }

    pub fn clear_on(&mut self, context: &Context) {
        context.for_each(self.floats.chunks_mut(ZEROED_BLOCK), |block| block.fill(0.0));
        context.for_each(self.halves.chunks_mut(ZEROED_BLOCK), |block| block.fill(0));
    }

    /// The Euclidean norm of numbers in f32 and bf16, the same at every thread count.
    pub fn norm(&self, context: &Context) -> f64 {
        let kernels = context.kernels();
        let squares = |block: Stored<'_>| block.read(kernels, true, |block| kernels.sum_squares(block));
        let of_halves: f64 = context.sum(Stored::Bf16(&self.halves).blocks(), squares);
        (context.sum_squares(&self.floats) + of_halves).sqrt()
    }

    pub fn scale(&mut self, context: &Context, factor: f32, seed: u64, step: u64) {
        context.scale(&mut self.floats, factor);
        let kernels = context.kernels();
        let rounding = StochasticRounding::new(seed, SCALE_PURPOSE, step as u32, 0);
        context.for_each(StoredMut::Bf16(&mut self.halves).blocks().enumerate(), |(index, block)| {
            let coding = Coding { is_signed: true, first: index * BLOCK, rounding };
            block.update(kernels, coding, |values| kernels.scale(values, factor));
        });
    }
}
