//! The activation memory of an executor: buffers mapped to slots by their lifetimes.
#![forbid(unsafe_code)]

use super::executor::Mode;
use super::plan::{BufferId, BufferKind, Plan, Rows};
use super::schedule::{Life, Turn, lives};
use crate::dispatch::Context;
use crate::quant::QuantizedRows;
use crate::tensor::AlignedBuffer;

/// Activations and gradients of one executor.
///
/// An operation takes a buffer out, fills it and puts it back, so that several can be held at once without `unsafe`.
#[derive(Debug)]
pub struct Buffers {
    widths: Vec<usize>,
    kinds_of_rows: Vec<Rows>,
    /// Slots of a buffer's values as first computed and as computed once more.
    value_slots: Vec<[usize; 2]>,
    /// Which of the two is current.
    current: Vec<usize>,
    gradient_slots: Vec<Option<usize>>,
    gradient_written: Vec<bool>,
    floats: Vec<AlignedBuffer<f32>>,
    quantized: Vec<QuantizedRows>,
    /// Where a gradient is written that is added to an earlier reader's.
    partial: AlignedBuffer<f32>,
    /// Tokens, sequences and source tokens of the batch.
    counts: [usize; 3],
    bytes: usize,
}

impl Buffers {
    /// Memory for `turns` over batches of up to `capacity` tokens.
    pub(super) fn new(plan: &Plan, mode: Mode, turns: &[Turn], capacity: usize) -> Self {
        let count = plan.buffers.len();
        let mut value_slots = vec![[0; 2]; count];
        let mut gradient_slots = vec![None; count];
        let (mut float_requests, mut quantized_requests) = (Vec::new(), Vec::new());
        for (id, (lives, buffer)) in lives(plan, mode, turns).into_iter().zip(&plan.buffers).enumerate() {
            let width = buffer.width;
            let of_values = |version: usize| {
                let tenant = Tenant::Values(version);
                lives.values[version].map(|life| Request { life, width, id, tenant })
            };
            let values = (0..2).filter_map(of_values);
            if buffer.kind == BufferKind::Float {
                float_requests.extend(values);
            } else {
                quantized_requests.extend(values);
            }
            float_requests.extend(lives.gradient.map(|life| Request { life, width, id, tenant: Tenant::Gradient }));
        }
        let mut assign = |request: &Request, slot| match request.tenant {
            Tenant::Values(version) => value_slots[request.id][version] = slot,
            Tenant::Gradient => gradient_slots[request.id] = Some(slot),
        };
        let float_widths = assign_slots(&mut float_requests, &mut assign);
        let quantized_widths = assign_slots(&mut quantized_requests, &mut assign);

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
            kinds_of_rows: plan.buffers.iter().map(|buffer| buffer.rows).collect(),
            value_slots,
            gradient_slots,
            current: vec![0; count],
            gradient_written: vec![false; count],
            floats,
            quantized,
            partial,
            counts: [0; 3],
            bytes,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What follows is a batch of so many tokens, sequences and source tokens.
    pub(super) fn begin(&mut self, counts: [usize; 3]) {
        self.counts = counts;
        self.gradient_written.fill(false);
        self.current.fill(0);
    }

    /// From here on the buffer's values are those computed once more.
    pub(super) fn recompute(&mut self, id: BufferId) {
        self.current[id.0] = 1;
    }

    fn value_slot(&self, id: BufferId) -> usize {
        self.value_slots[id.0][self.current[id.0]]
    }

    /// Elements of a buffer in use: its rows times its width.
    pub fn len(&self, id: BufferId) -> usize {
        self.rows(id) * self.widths[id.0]
    }

    /// Rows of a buffer in use.
    pub fn rows(&self, id: BufferId) -> usize {
        let [tokens, sequences, source] = self.counts;
        match self.kinds_of_rows[id.0] {
            Rows::Tokens => tokens,
            Rows::Sequences => sequences,
            Rows::Source => source,
        }
    }

    /// Rows of a buffer that belong to one sequence.
    pub fn rows_of_sequence(&self, id: BufferId) -> usize {
        self.rows(id) / self.counts[1]
    }

    /// Elements in a row of the buffer.
    pub fn width(&self, id: BufferId) -> usize {
        self.widths[id.0]
    }

    /// The values of a float buffer.
    pub fn float(&self, id: BufferId) -> &[f32] {
        &self.floats[self.value_slot(id)][..self.len(id)]
    }

    /// The values of a quantized buffer; only the first [`Buffers::rows`] rows are of this batch.
    pub fn quantized(&self, id: BufferId) -> &QuantizedRows {
        &self.quantized[self.value_slot(id)]
    }

    /// Takes a float buffer out to write it; [`Buffers::put_float`] must follow. The slice to use is the first
    /// [`Buffers::len`] elements.
    pub fn take_float(&mut self, id: BufferId) -> AlignedBuffer<f32> {
        let slot = self.value_slot(id);
        std::mem::take(&mut self.floats[slot])
    }

    /// Puts back what [`Buffers::take_float`] took.
    pub fn put_float(&mut self, id: BufferId, values: AlignedBuffer<f32>) {
        let slot = self.value_slot(id);
        self.floats[slot] = values;
    }

    /// Takes a quantized buffer out to write it; [`Buffers::put_quantized`] must follow.
    pub fn take_quantized(&mut self, id: BufferId) -> QuantizedRows {
        let slot = self.value_slot(id);
        std::mem::take(&mut self.quantized[slot])
    }

    /// Puts back what [`Buffers::take_quantized`] took.
    pub fn put_quantized(&mut self, id: BufferId, rows: QuantizedRows) {
        let slot = self.value_slot(id);
        self.quantized[slot] = rows;
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
    pub fn put_gradient(&mut self, context: &Context, id: BufferId, gradient: AlignedBuffer<f32>) {
        const BLOCK: usize = 1 << 14;
        let len = self.len(id);
        let slot = self.gradient_slots[id.0].expect("a buffer with readers has a gradient slot");
        if self.gradient_written[id.0] {
            let sum = &mut self.floats[slot][..len];
            context.for_each(sum.chunks_mut(BLOCK).zip(gradient[..len].chunks(BLOCK)), |(sum, part)| {
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

/// What a slot is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Tenant {
    /// Values as first computed (0) or as computed once more (1).
    Values(usize),
    Gradient,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    life: Life,
    width: usize,
    id: usize,
    tenant: Tenant,
}

/// Gives each request a slot; requests whose lives meet get different ones. The widest first, each into the narrowest slot
/// that is free all its life, else into one of its own (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
/// Inference", 2020: greedy by size). Returns the slots' widths.
fn assign_slots(requests: &mut [Request], mut assign: impl FnMut(&Request, usize)) -> Vec<usize> {
    requests.sort_by_key(|request| (std::cmp::Reverse(request.width), request.life.first, request.id, request.tenant));
    let mut slots: Vec<(usize, Vec<Life>)> = Vec::new();
    for request in requests {
        let meets = |life: &Life| life.first <= request.life.last && request.life.first <= life.last;
        let free = slots.iter().enumerate().filter(|(_, (_, lives))| !lives.iter().any(meets));
        let index = free.min_by_key(|(_, (width, _))| *width).map_or(slots.len(), |(index, _)| index);
        if index == slots.len() {
            slots.push((request.width, Vec::new()));
        }
        slots[index].1.push(request.life);
        assign(request, index);
    }
    slots.into_iter().map(|(width, _)| width).collect()
}
