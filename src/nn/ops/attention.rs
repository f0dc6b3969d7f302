//! Causal multi-head attention without a length x length matrix.
//!
//! The kernel takes a few queries at a time, which meet only the keys they may see. The forward pass keeps nothing; the
//! backward pass computes the probabilities again (after Dao et al., "FlashAttention", 2022, but with whole rows in cache
//! instead of an online softmax, so that not even the softmax sums need be kept).
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use crate::dispatch::Context;
use crate::kernels::{HeadRows, HeadShape};
use crate::nn::{BufferId, BufferKind, Mode, Operation, ParamId, Pass, PlanBuilder};
use crate::{Error, Result};

/// Queries of a task of the forward pass.
const TASK_QUERIES: usize = 96;

/// Heads and reach of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: a divisor of `heads`. Query head `h` uses key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Positions a query sees, itself included; `None`: all before it.
    pub window: Option<usize>,
}

/// Columns of a buffer, from `column` on.
#[derive(Clone, Copy, Debug)]
struct Columns {
    buffer: BufferId,
    column: usize,
}

/// `softmax(q * k^T / sqrt(head_dim)) * v` for each head, over the positions up to the query's own.
#[derive(Debug)]
pub struct Attention {
    /// Queries, keys, values.
    operands: [Columns; 3],
    shape: AttentionShape,
    /// Position among the plan's attention layers: the layer of the cache.
    layer: usize,
    y: BufferId,
}

thread_local! {
    /// Scratch memory of the kernel.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl PlanBuilder {
    /// Attention of `q` `[tokens, heads * head_dim]` over `k` and `v` `[tokens, kv_heads * head_dim]`.
    pub fn attention(&mut self, q: BufferId, k: BufferId, v: BufferId, shape: AttentionShape) -> BufferId {
        let widths = [shape.heads, shape.kv_heads, shape.kv_heads].map(|heads| heads * shape.head_dim);
        for (buffer, width) in [q, k, v].into_iter().zip(widths) {
            assert_eq!(self.buffer_spec(buffer).width, width, "attention: width of an operand");
        }
        self.push_attention([q, k, v].map(|buffer| Columns { buffer, column: 0 }), shape)
    }

    /// Attention on one buffer that holds queries, keys and values side by side.
    pub fn attention_fused(&mut self, qkv: BufferId, shape: AttentionShape) -> BufferId {
        let (q_width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        assert_eq!(self.buffer_spec(qkv).width, q_width + 2 * kv_width, "attention: width of the fused operand");
        self.push_attention([0, q_width, q_width + kv_width].map(|column| Columns { buffer: qkv, column }), shape)
    }

    fn push_attention(&mut self, operands: [Columns; 3], shape: AttentionShape) -> BufferId {
        assert_eq!(shape.heads % shape.kv_heads, 0, "attention: kv_heads divides heads");
        let y = self.buffer(BufferKind::Float, shape.heads * shape.head_dim);
        let layer = self.next_cache_layer();
        self.push(Attention { operands, shape, layer, y });
        y
    }
}

impl Operation for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn inputs(&self) -> Vec<BufferId> {
        let mut inputs: Vec<_> = self.operands.iter().map(|columns| columns.buffer).collect();
        inputs.dedup();
        inputs
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn saved(&self) -> Vec<BufferId> {
        self.inputs()
    }

    fn parameters(&self) -> Vec<ParamId> {
        Vec::new()
    }

    fn cache_width(&self) -> Option<usize> {
        Some(self.shape.kv_heads * self.shape.head_dim)
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        self.append_to_cache(pass)?;
        let mut y = pass.buffers.take_float(self.y);
        let (len, length) = (pass.buffers.len(self.y), pass.batch.length);
        let (heads, head_dim) = (self.shape.heads, self.shape.head_dim);
        let width = heads * head_dim;
        let first = pass.first_position();
        let pass_ref = &*pass;
        if length == 1 {
            // One query a sequence: its heads are shared out to the threads.
            pass_ref.context.for_each(y[..len].chunks_mut(head_dim).enumerate(), |(index, y)| {
                let operands = self.head_rows(pass_ref, index / heads, index % heads);
                self.attend(pass_ref.context, first, 0..1, operands, y, head_dim);
            });
        } else {
            pass_ref.context.for_each(y[..len].chunks_mut(length * width).enumerate(), |(sequence, y)| {
                pass_ref.context.for_each(y.chunks_mut(TASK_QUERIES * width).enumerate(), |(block, y)| {
                    let start = block * TASK_QUERIES;
                    let queries = start..start + y.len() / width;
                    for head in 0..heads {
                        let operands = self.head_rows(pass_ref, sequence, head);
                        let y = &mut y[head * head_dim..];
                        self.attend(pass_ref.context, first, queries.clone(), operands, y, width);
                    }
                });
            });
        }
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    /// One task for each sequence and key head. A task's gradients lie together, head after head, in scratch memory
    /// (`[group queries heads, keys, values] x [length, head_dim]`), and are copied to the rows of the buffers at the end.
    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let length = pass.batch.length;
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let head_size = length * head_dim;
        let task_size = (heads / kv_heads + 2) * head_size;
        let used = pass.batch.sequences * kv_heads * task_size;
        let mut scratch = pass.workspace.take_float(used);
        let pass_ref = &*pass;
        pass_ref.context.for_each(scratch[..used].chunks_mut(task_size).enumerate(), |(task, gradients)| {
            self.backward_of_key_head(pass_ref, task / kv_heads, task % kv_heads, gradients);
        });
        let group = heads / kv_heads;
        for buffer in self.inputs() {
            let mut gradient = pass.buffers.take_gradient(buffer);
            let (len, width) = (pass.buffers.len(buffer), pass.buffers.width(buffer));
            pass.context.for_each(gradient[..len].chunks_mut(width).enumerate(), |(token, row)| {
                let (sequence, position) = (token / length, token % length);
                for (role, operand) in self.operands.iter().enumerate().filter(|(_, o)| o.buffer == buffer) {
                    let heads = if role == 0 { heads } else { kv_heads };
                    let row = &mut row[operand.column..][..heads * head_dim];
                    for (head, row) in row.chunks_exact_mut(head_dim).enumerate() {
                        let (kv_head, place) =
                            if role == 0 { (head / group, head % group) } else { (head, group + role - 1) };
                        let task = (sequence * kv_heads + kv_head) * task_size;
                        row.copy_from_slice(&scratch[task + place * head_size + position * head_dim..][..head_dim]);
                    }
                }
            });
            pass.buffers.put_gradient(pass.context, buffer, gradient);
        }
        pass.workspace.put_float(scratch);
        Ok(())
    }
}

impl Attention {
    /// What the kernel does for `queries` query rows, the first at position `first`.
    fn head_shape(&self, queries: usize, first: usize, keys: usize) -> HeadShape {
        let AttentionShape { head_dim, window, .. } = self.shape;
        HeadShape { queries, keys, head_dim, first, causal: true, window, scale: 1.0 / (head_dim as f32).sqrt() }
    }

    /// Queries, keys and values of one sequence, for query head `head`. In generation keys and values come from the cache.
    fn head_rows<'a>(&self, pass: &'a Pass<'_>, sequence: usize, head: usize) -> [HeadRows<'a>; 3] {
        let kv_head = head / (self.shape.heads / self.shape.kv_heads);
        let of_buffer = |columns: Columns, head: usize| {
            let stride = pass.buffers.width(columns.buffer);
            let start = sequence * pass.batch.length * stride + columns.column + head * self.shape.head_dim;
            HeadRows { rows: &pass.buffers.float(columns.buffer)[start..], stride }
        };
        let [q, k, v] = self.operands;
        let Some(cache) = &pass.cache else {
            return [of_buffer(q, head), of_buffer(k, kv_head), of_buffer(v, kv_head)];
        };
        let stride = self.shape.kv_heads * self.shape.head_dim;
        let start = sequence * cache.capacity() * stride + kv_head * self.shape.head_dim;
        let layer = &cache.layers[self.layer];
        let of_cache = |rows| HeadRows { rows, stride };
        [of_buffer(q, head), of_cache(&layer.keys[start..]), of_cache(&layer.values[start..])]
    }

    /// One head's output for the queries `queries` of the batch, whose first is at position `first` of the text.
    fn attend(
        &self,
        context: &Context,
        first: usize,
        queries: Range<usize>,
        [q, k, v]: [HeadRows<'_>; 3],
        y: &mut [f32],
        y_stride: usize,
    ) {
        let shape = self.head_shape(queries.len(), first + queries.start, first + queries.end);
        with_scratch(shape.scratch_len(), |scratch| {
            let operands = [q.from(queries.start), k, v];
            context.kernels().attention_forward(&shape, operands, scratch, y, y_stride);
        });
    }

    /// Gradients of one key head's queries, keys and values: see [`Attention::backward`] for their places.
    fn backward_of_key_head(&self, pass: &Pass<'_>, sequence: usize, kv_head: usize, gradients: &mut [f32]) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (length, group, stride) = (pass.batch.length, heads / kv_heads, heads * head_dim);
        let (dq, dkv) = gradients.split_at_mut(group * length * head_dim);
        let (dk, dv) = dkv.split_at_mut(length * head_dim);
        dk.fill(0.0);
        dv.fill(0.0);
        for (member, dq) in dq.chunks_exact_mut(length * head_dim).enumerate() {
            let head = kv_head * group + member;
            let operands = self.head_rows(pass, sequence, head);
            let dy = &pass.buffers.gradient(self.y)[sequence * length * stride + head * head_dim..];
            let dy = HeadRows { rows: dy, stride };
            let shape = self.head_shape(length, 0, length);
            with_scratch(shape.backward_scratch_len(), |scratch| {
                let kernels = pass.context.kernels();
                kernels.attention_backward(&shape, operands, dy, scratch, [dq, &mut *dk, &mut *dv]);
            });
        }
    }

    /// Copies the batch's keys and values behind those of the cache.
    fn append_to_cache(&self, pass: &mut Pass<'_>) -> Result<()> {
        if pass.mode != Mode::Generate {
            return Ok(());
        }
        let (sequences, length) = (pass.batch.sequences, pass.batch.length);
        let Some(cache) = pass.cache.as_deref_mut() else {
            return Err(Error::invalid("cache", "a key-value cache in generation", "none"));
        };
        let (first, capacity) = (cache.len(), cache.capacity());
        let width = self.shape.kv_heads * self.shape.head_dim;
        if first + length > capacity || cache.sequences() != sequences {
            let expected = format!("{} sequences of at most {capacity} tokens", cache.sequences());
            return Err(Error::invalid("cache", expected, format!("{sequences} of {}", first + length)));
        }
        let layer = &mut cache.layers[self.layer];
        for (operand, kept) in self.operands[1..].iter().zip([&mut layer.keys, &mut layer.values]) {
            let stride = pass.buffers.width(operand.buffer);
            let rows = pass.buffers.float(operand.buffer).chunks_exact(stride);
            for (token, row) in rows.enumerate() {
                let place = (token / length) * capacity + first + token % length;
                kept[place * width..][..width].copy_from_slice(&row[operand.column..][..width]);
            }
        }
        Ok(())
    }
}

/// Lends this thread's scratch of `len` floats with any content.
fn with_scratch(len: usize, work: impl FnOnce(&mut [f32])) {
    SCRATCH.with_borrow_mut(|scores| {
        if scores.len() < len {
            scores.resize(len, 0.0);
        }
        work(&mut scores[..len]);
    });
}
