//! The activation memory of an executor: buffers mapped to slots by their lifetimes.
#![forbid(unsafe_code)]

use super::executor::Mode;
use super::plan::{BufferId, BufferKind, Plan};
use crate::quant::QuantizedRows;
use crate::tensor::AlignedBuffer;

/// An interval of the walk during which a value occupies its slot (both ends inclusive).
#[derive(Clone, Copy, Debug)]
struct Life {
    first: usize,
    last: usize,
}

/// Activations and gradients of one executor.
///
/// An operation takes a buffer out, fills it and puts it back, so that several can be held at once without `unsafe`.
#[derive(Debug)]
pub struct Buffers {
    widths: Vec<usize>,
    value_slots: Vec<usize>,
    gradient_slots: Vec<Option<usize>>,
    gradient_written: Vec<bool>,
    floats: Vec<AlignedBuffer<f32>>,
    quantized: Vec<QuantizedRows>,
    /// Where a gradient is written that is added to an earlier reader's.
    partial: AlignedBuffer<f32>,
    tokens: usize,
    bytes: usize,
}

impl Buffers {
    pub(super) fn new(plan: &Plan, mode: Mode, capacity: usize) -> Self {
        let count = plan.buffers.len();
        let (values, gradients) = lives(plan, mode);
        let mut value_slots = vec![0; count];
        let mut gradient_slots = vec![None; count];

        let is_float = |id: &usize| plan.buffers[*id].kind == BufferKind::Float;
        let mut float_requests = Vec::new();
        float_requests.extend((0..count).filter(is_float).map(|id| (values[id], plan.buffers[id].width, id, false)));
        for (id, life) in gradients.iter().enumerate() {
            float_requests.extend(life.map(|life| (life, plan.buffers[id].width, id, true)));
        }
        let float_widths = assign_slots(&mut float_requests, |id, is_gradient, slot| {
            if is_gradient { gradient_slots[id] = Some(slot) } else { value_slots[id] = slot }
        });
        let mut quantized_requests: Vec<_> =
            (0..count).filter(|id| !is_float(id)).map(|id| (values[id], plan.buffers[id].width, id, false)).collect();
        let quantized_widths = assign_slots(&mut quantized_requests, |id, _, slot| value_slots[id] = slot);

        let partial_width = match mode {
            Mode::Train => (0..count).filter(|&id| readers(plan, id) > 1).map(|id| plan.buffers[id].width).max(),
            _ => None,
        };
        let partial = AlignedBuffer::zeroed(partial_width.unwrap_or(0) * capacity);
        let floats: Vec<_> = float_widths.iter().map(|width| AlignedBuffer::zeroed(width * capacity)).collect();
        let quantized: Vec<_> = quantized_widths.iter().map(|&width| QuantizedRows::zeroed(capacity, width)).collect();
        let bytes = 4 * (partial.len() + floats.iter().map(|slot| slot.len()).sum::<usize>())
            + quantized.iter().map(|rows| rows.values.len() + 8 * capacity).sum::<usize>();
        Buffers {
            widths: plan.buffers.iter().map(|buffer| buffer.width).collect(),
            value_slots,
            gradient_slots,
            gradient_written: vec![false; count],
            floats,
            quantized,
            partial,
            tokens: 0,
            bytes,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn begin(&mut self, tokens: usize) {
        self.tokens = tokens;
        self.gradient_written.fill(false);
    }

    /// Elements of a buffer in use: tokens of the batch times its width.
    pub fn len(&self, id: BufferId) -> usize {
        self.tokens * self.widths[id.0]
    }

    /// Tokens of the batch.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Elements in a row of the buffer.
    pub fn width(&self, id: BufferId) -> usize {
        self.widths[id.0]
    }

    /// The values of a float buffer.
    pub fn float(&self, id: BufferId) -> &[f32] {
        &self.floats[self.value_slots[id.0]][..self.len(id)]
    }

    /// The values of a quantized buffer; only the first [`Buffers::tokens`] rows are of this batch.
    pub fn quantized(&self, id: BufferId) -> &QuantizedRows {
        &self.quantized[self.value_slots[id.0]]
    }

    /// Takes a float buffer out to write it; [`Buffers::put_float`] must follow. The slice to use is the first
    /// [`Buffers::len`] elements.
    pub fn take_float(&mut self, id: BufferId) -> AlignedBuffer<f32> {
        std::mem::take(&mut self.floats[self.value_slots[id.0]])
    }

    /// Puts back what [`Buffers::take_float`] took.
    pub fn put_float(&mut self, id: BufferId, values: AlignedBuffer<f32>) {
        self.floats[self.value_slots[id.0]] = values;
    }

    /// Takes a quantized buffer out to write it; [`Buffers::put_quantized`] must follow.
    pub fn take_quantized(&mut self, id: BufferId) -> QuantizedRows {
        std::mem::take(&mut self.quantized[self.value_slots[id.0]])
    }

    /// Puts back what [`Buffers::take_quantized`] took.
    pub fn put_quantized(&mut self, id: BufferId, rows: QuantizedRows) {
        self.quantized[self.value_slots[id.0]] = rows;
    }

    /// The gradient of a buffer an operation wrote.
    ///
    /// # Panics
    /// If no reader of the buffer has written its gradient.
    pub fn gradient(&self, id: BufferId) -> &[f32] {
        assert!(self.gradient_written[id.0], "gradient of buffer {} was never written", id.0);
        let slot = self.gradient_slots[id.0].expect("a written gradient has a slot");
        &self.floats[slot][..self.len(id)]
    }

    /// Takes a buffer for the gradient of an input, to be overwritten; [`Buffers::put_gradient`] must follow.
    pub fn take_gradient(&mut self, id: BufferId) -> AlignedBuffer<f32> {
        if self.gradient_written[id.0] {
            return std::mem::take(&mut self.partial);
        }
        let slot = self.gradient_slots[id.0].expect("a buffer with readers has a gradient slot");
        std::mem::take(&mut self.floats[slot])
    }

    /// Puts back what [`Buffers::take_gradient`] gave: the first reader's is kept, later ones are added to it.
    pub fn put_gradient(&mut self, id: BufferId, gradient: AlignedBuffer<f32>) {
        use rayon::prelude::*;
        const BLOCK: usize = 1 << 14;
        let len = self.len(id);
        let slot = self.gradient_slots[id.0].expect("a buffer with readers has a gradient slot");
        if self.gradient_written[id.0] {
            let sum = &mut self.floats[slot][..len];
            sum.par_chunks_mut(BLOCK).zip(gradient[..len].par_chunks(BLOCK)).for_each(|(sum, part)| {
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            });
            self.partial = gradient;
        } else {
            self.floats[slot] = gradient;
            self.gradient_written[id.0] = true;
        }
    }
}

fn readers(plan: &Plan, id: usize) -> usize {
    plan.operations.iter().map(|op| op.inputs().iter().filter(|input| input.0 == id).count()).sum()
}

/// Lives of values and of gradients. Step `i < n` is operation `i` forward, step `2n - 1 - i` is its backward.
fn lives(plan: &Plan, mode: Mode) -> (Vec<Life>, Vec<Option<Life>>) {
    let (count, n) = (plan.buffers.len(), plan.operations.len());
    let mut values = vec![Life { first: usize::MAX, last: 0 }; count];
    let mut gradients: Vec<Option<Life>> = vec![None; count];
    for (step, operation) in plan.operations.iter().enumerate() {
        let backward = 2 * n - 1 - step;
        for id in operation.outputs() {
            assert!(values[id.0].first == usize::MAX, "buffer {} has two writers", id.0);
            values[id.0] = Life { first: step, last: step };
            if let Some(gradient) = &mut gradients[id.0] {
                gradient.last = backward;
            }
        }
        for id in operation.inputs() {
            assert!(values[id.0].first <= step, "{} reads buffer {} before it is written", operation.name(), id.0);
            values[id.0].last = values[id.0].last.max(step);
            if mode == Mode::Train {
                // Readers come in forward order, so the last one seen is the first to write the gradient.
                let life = gradients[id.0].get_or_insert(Life { first: backward, last: 0 });
                life.first = life.first.min(backward);
            }
        }
        if mode == Mode::Train {
            for id in operation.saved() {
                values[id.0].last = values[id.0].last.max(backward);
            }
        }
    }
    for (step, operation) in plan.operations.iter().enumerate() {
        for id in operation.outputs() {
            if let Some(gradient) = &mut gradients[id.0] {
                gradient.last = 2 * n - 1 - step;
            }
        }
    }
    (values, gradients)
}

/// Gives each request `(life, width, buffer, is_gradient)` a slot; requests whose lives meet get different ones. Best fit:
/// the narrowest free slot that is wide enough, else the widest free one, widened. Returns the slots' widths.
fn assign_slots(requests: &mut [(Life, usize, usize, bool)], mut assign: impl FnMut(usize, bool, usize)) -> Vec<usize> {
    requests.sort_by_key(|&(life, width, id, _)| (life.first, std::cmp::Reverse(width), id));
    let mut slots: Vec<(usize, usize)> = Vec::new(); // (width, last step of the current tenant)
    for &mut (life, width, id, is_gradient) in requests {
        let free = || slots.iter().enumerate().filter(|(_, slot)| slot.1 < life.first);
        let fitting = free().filter(|(_, slot)| slot.0 >= width).min_by_key(|(_, slot)| slot.0);
        let chosen = fitting.or_else(|| free().max_by_key(|(_, slot)| slot.0)).map(|(index, _)| index);
        let index = chosen.unwrap_or_else(|| {
            slots.push((0, 0));
            slots.len() - 1
        });
        slots[index] = (slots[index].0.max(width), life.last);
        assign(id, is_gradient, index);
    }
    slots.into_iter().map(|(width, _)| width).collect()
}
