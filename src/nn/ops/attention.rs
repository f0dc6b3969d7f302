//! Multi-head attention without a length x length matrix: causal, over a whole sequence, or over another one.
//!
//! The kernel takes a few queries at a time, which meet only the keys they may see. The forward pass keeps nothing; the
//! backward pass computes the probabilities again (after Dao et al., "FlashAttention", 2022, but with whole rows in cache
//! instead of an online softmax, so that not even the softmax sums need be kept). Dropped probabilities are drawn again, too.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use super::dropout::threshold_and_factor;
use crate::dispatch::Context;
use crate::kernels::{HeadRows, HeadShape, ProbabilityDropout};
use crate::nn::{AttentionWeights, BufferId, BufferKind, Mode, Operation, Pass, Plan, PlanBuilder, Products, Scratch};
use crate::tensor::RandomStream;
use crate::{Error, Result};

/// Queries of a task of the forward pass.
const TASK_QUERIES: usize = 96;

/// Stream purpose of the probabilities that are dropped.
const DROPOUT_PURPOSE: u32 = 34;

/// Heads and reach of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: a divisor of `heads`. Query head `h` uses key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Positions a query sees, itself included; `None`: all before it. Causal attention only.
    pub window: Option<usize>,
    /// Share of the probabilities that training drops; those that stay are multiplied by `1 / (1 - dropout)`.
    pub dropout: f32,
}

/// Columns of a buffer, from `column` on.
#[derive(Clone, Copy, Debug)]
struct Columns {
    buffer: BufferId,
    column: usize,
}

/// `softmax(q * k^T / sqrt(head_dim)) * v` for each head, over the positions up to the query's own (causal), or over all
/// that count of the sequence's keys.
#[derive(Debug)]
pub struct Attention {
    /// Queries, keys, values.
    operands: [Columns; 3],
    shape: AttentionShape,
    /// Causal: the position among the plan's causal attention layers, the layer of the cache.
    layer: Option<usize>,
    y: BufferId,
}

thread_local! {
    /// Scratch memory of the kernel.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl PlanBuilder {
    /// Causal attention of `q` `[tokens, heads * head_dim]` over `k` and `v` `[tokens, kv_heads * head_dim]`.
    pub fn attention(&mut self, q: BufferId, k: BufferId, v: BufferId, shape: AttentionShape) -> BufferId {
        let layer = self.next_cache_layer();
        self.attention_of_widths(q, k, v, shape, Some(layer))
    }

    /// Attention of each query over all rows of its sequence in `k` and `v` that count ([`crate::nn::Batch::lengths`]),
    /// behind and before it; they may be of other rows than `q`. Nothing is kept in a cache.
    ///
    /// # Panics
    /// If the shape has a window, or a buffer another width.
    pub fn attention_to_all(&mut self, q: BufferId, k: BufferId, v: BufferId, shape: AttentionShape) -> BufferId {
        assert!(shape.window.is_none(), "attention: a window of attention that is not causal");
        self.attention_of_widths(q, k, v, shape, None)
    }

    fn attention_of_widths(
        &mut self,
        q: BufferId,
        k: BufferId,
        v: BufferId,
        shape: AttentionShape,
        layer: Option<usize>,
    ) -> BufferId {
        let widths = [shape.heads, shape.kv_heads, shape.kv_heads].map(|heads| heads * shape.head_dim);
        for (buffer, width) in [q, k, v].into_iter().zip(widths) {
            assert_eq!(self.buffer_spec(buffer).width, width, "attention: width of an operand");
        }
        self.push_attention([q, k, v].map(|buffer| Columns { buffer, column: 0 }), shape, layer)
    }

    /// Causal attention on one buffer that holds queries, keys and values side by side.
    pub fn attention_fused(&mut self, qkv: BufferId, shape: AttentionShape) -> BufferId {
        let (q_width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        assert_eq!(self.buffer_spec(qkv).width, q_width + 2 * kv_width, "attention: width of the fused operand");
        let layer = self.next_cache_layer();
        let operands = [0, q_width, q_width + kv_width].map(|column| Columns { buffer: qkv, column });
        self.push_attention(operands, shape, Some(layer))
    }

    fn push_attention(&mut self, operands: [Columns; 3], shape: AttentionShape, layer: Option<usize>) -> BufferId {
        assert_eq!(shape.heads % shape.kv_heads, 0, "attention: kv_heads divides heads");
        assert!((0.0..1.0).contains(&shape.dropout), "attention: dropout {} is not in [0, 1)", shape.dropout);
        let y = self.buffer_beside(operands[0].buffer, BufferKind::Float, shape.heads * shape.head_dim);
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

    fn cache_width(&self) -> Option<usize> {
        self.layer.map(|_| self.shape.kv_heads * self.shape.head_dim)
    }

    fn scratch(&self, _plan: &Plan, mode: Mode, rows: usize) -> Vec<Scratch> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let gradients = rows * (heads + 2 * kv_heads) * head_dim;
        let used = (mode == Mode::Train).then(|| Scratch { floats: vec![gradients], ..Scratch::default() });
        used.into_iter().collect()
    }

    /// Scores and the weighted sum forward; scores once more and a product for each of four gradients backward.
    fn products(&self, _plan: &Plan, rows: usize, length: usize) -> [Products; 2] {
        let seen = |query: usize| match self.layer {
            Some(_) => (query + 1).min(self.shape.window.unwrap_or(usize::MAX)),
            None => length,
        };
        let pairs: usize = (0..length).map(seen).sum();
        let sequences = rows as f64 / length.max(1) as f64;
        let each = sequences * pairs as f64 * (self.shape.heads * self.shape.head_dim) as f64;
        [2.0, 5.0].map(|products| Products { f32: products * each, ..Products::default() })
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        self.append_to_cache(pass)?;
        let mut y = pass.buffers.take_float(self.y);
        let (len, length) = (pass.buffers.len(self.y), pass.buffers.rows_of_sequence(self.y));
        let (heads, head_dim) = (self.shape.heads, self.shape.head_dim);
        let width = heads * head_dim;
        let first = pass.first_position();
        let pass_ref = &*pass;
        if length == 1 {
            // One query a sequence: its heads are shared out to the threads.
            pass_ref.context.for_each(y[..len].chunks_mut(head_dim).enumerate(), |(index, y)| {
                let sequence = index / heads;
                let operands = self.head_rows(pass_ref, sequence, index % heads);
                let shape = self.dropping(pass_ref, sequence, index % heads, first, 0..1);
                attend(pass_ref.context, &shape, operands, y, head_dim);
            });
        } else {
            pass_ref.context.for_each(y[..len].chunks_mut(length * width).enumerate(), |(sequence, y)| {
                pass_ref.context.for_each(y.chunks_mut(TASK_QUERIES * width).enumerate(), |(block, y)| {
                    let start = block * TASK_QUERIES;
                    let queries = start..start + y.len() / width;
                    for head in 0..heads {
                        let shape = self.dropping(pass_ref, sequence, head, first, queries.clone());
                        let [q, k, v] = self.head_rows(pass_ref, sequence, head);
                        attend(pass_ref.context, &shape, [q.from(start), k, v], &mut y[head * head_dim..], width);
                    }
                });
            });
        }
        pass.buffers.put_float(self.y, y);
        if pass.attention.is_some() {
            let weights = self.weights(pass, first);
            pass.attention.get_or_insert_default().push(weights);
        }
        Ok(())
    }

    /// One task for each sequence and key head. A task's gradients lie together, head after head, in scratch memory
    /// (the query heads of the group, keys, values, each `[length, head_dim]`), and are copied to the rows of the buffers
    /// at the end.
    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let [q_size, k_size] = self.lengths(pass).map(|length| length * head_dim);
        let task_size = heads / kv_heads * q_size + 2 * k_size;
        let used = pass.batch.sequences * kv_heads * task_size;
        let mut scratch = pass.workspace.take_float(used);
        let pass_ref = &*pass;
        pass_ref.context.for_each(scratch[..used].chunks_mut(task_size).enumerate(), |(task, gradients)| {
            self.backward_of_key_head(pass_ref, task / kv_heads, task % kv_heads, gradients);
        });
        let group = heads / kv_heads;
        for (role, &Columns { buffer, .. }) in self.operands.iter().enumerate() {
            if role > 0 && self.operands[role - 1].buffer == buffer {
                continue;
            }
            let mut gradient = pass.buffers.take_gradient(buffer);
            let (len, width) = (pass.buffers.len(buffer), pass.buffers.width(buffer));
            let length = pass.buffers.rows_of_sequence(buffer);
            pass.context.for_each(gradient[..len].chunks_mut(width).enumerate(), |(token, row)| {
                let (sequence, position) = (token / length, token % length);
                for (role, operand) in self.operands.iter().enumerate().filter(|(_, o)| o.buffer == buffer) {
                    let heads = if role == 0 { heads } else { kv_heads };
                    let row = &mut row[operand.column..][..heads * head_dim];
                    for (head, row) in row.chunks_exact_mut(head_dim).enumerate() {
                        let (kv_head, place) = match role {
                            0 => (head / group, head % group * q_size),
                            _ => (head, group * q_size + (role - 1) * k_size),
                        };
                        let task = (sequence * kv_heads + kv_head) * task_size;
                        row.copy_from_slice(&scratch[task + place + position * head_dim..][..head_dim]);
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
    /// Rows of a sequence's queries, and of its keys.
    fn lengths(&self, pass: &Pass<'_>) -> [usize; 2] {
        [0, 1].map(|role| pass.buffers.rows_of_sequence(self.operands[role].buffer))
    }

    /// What the kernel does for the queries `queries` of a sequence, whose first is at position `first` of the text.
    fn head_shape(&self, pass: &Pass<'_>, sequence: usize, first: usize, queries: Range<usize>) -> HeadShape {
        let AttentionShape { head_dim, window, .. } = self.shape;
        let causal = self.layer.is_some();
        let keys = match (causal, pass.batch.lengths.get(sequence)) {
            (true, _) => first + queries.end,
            (false, Some(&length)) => length as usize,
            (false, None) => self.lengths(pass)[1],
        };
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (first, queries) = (first + queries.start, queries.len());
        HeadShape { queries, keys, head_dim, first, causal, window, scale, dropout: None }
    }

    /// [`Attention::head_shape`] with what training drops of head `head`.
    fn dropping(
        &self,
        pass: &Pass<'_>,
        sequence: usize,
        head: usize,
        first: usize,
        queries: Range<usize>,
    ) -> HeadShape {
        let row = (sequence * self.shape.heads + head) * self.lengths(pass)[0] + queries.start;
        let shape = self.head_shape(pass, sequence, first, queries);
        let (threshold, factor) = threshold_and_factor(self.shape.dropout);
        let dropout = (pass.mode == Mode::Train && threshold > 0).then(|| ProbabilityDropout {
            threshold,
            factor,
            key: RandomStream::key(pass.randomness.seed, DROPOUT_PURPOSE),
            tensor: pass.operation,
            step: pass.randomness.step,
            row: row as u32,
        });
        HeadShape { dropout, ..shape }
    }

    /// The layer's weights: attention whose values are the rows of the identity, `head_dim` columns at a time.
    fn weights(&self, pass: &Pass<'_>, first: usize) -> AttentionWeights {
        let AttentionShape { heads, head_dim, .. } = self.shape;
        let [queries, own_keys] = self.lengths(pass);
        let keys = if self.layer.is_some() { first + queries } else { own_keys };
        let mut values = vec![0.0; pass.batch.sequences * heads * queries * keys];
        pass.context.for_each(values.chunks_mut(queries * keys).enumerate(), |(index, values)| {
            let [q, k, _] = self.head_rows(pass, index / heads, index % heads);
            let shape = self.head_shape(pass, index / heads, first, 0..queries);
            let mut part = vec![0.0; queries * head_dim];
            for column in (0..shape.keys).step_by(head_dim) {
                let columns = head_dim.min(shape.keys - column);
                let mut identity = vec![0.0; shape.keys * head_dim];
                (0..columns).for_each(|c| identity[(column + c) * head_dim + c] = 1.0);
                let identity = HeadRows { rows: &identity, stride: head_dim };
                attend(pass.context, &shape, [q, k, identity], &mut part, head_dim);
                for (values, part) in values.chunks_exact_mut(keys).zip(part.chunks_exact(head_dim)) {
                    values[column..column + columns].copy_from_slice(&part[..columns]);
                }
            }
        });
        AttentionWeights { values, heads, queries, keys }
    }

    /// Queries, keys and values of one sequence, for query head `head`. In generation keys and values come from the cache.
    fn head_rows<'a>(&self, pass: &'a Pass<'_>, sequence: usize, head: usize) -> [HeadRows<'a>; 3] {
        let kv_head = head / (self.shape.heads / self.shape.kv_heads);
        let of_buffer = |columns: Columns, head: usize| {
            let stride = pass.buffers.width(columns.buffer);
            let first = sequence * pass.buffers.rows_of_sequence(columns.buffer);
            let start = first * stride + columns.column + head * self.shape.head_dim;
            HeadRows { rows: &pass.buffers.float(columns.buffer)[start..], stride }
        };
        let [q, k, v] = self.operands;
        let (Some(cache), Some(layer)) = (&pass.cache, self.layer) else {
            return [of_buffer(q, head), of_buffer(k, kv_head), of_buffer(v, kv_head)];
        };
        let stride = self.shape.kv_heads * self.shape.head_dim;
        let start = sequence * cache.capacity() * stride + kv_head * self.shape.head_dim;
        let layer = &cache.layers[layer];
        let of_cache = |rows| HeadRows { rows, stride };
        [of_buffer(q, head), of_cache(&layer.keys[start..]), of_cache(&layer.values[start..])]
    }

    /// Gradients of one key head's queries, keys and values: see [`Attention::backward`] for their places.
    fn backward_of_key_head(&self, pass: &Pass<'_>, sequence: usize, kv_head: usize, gradients: &mut [f32]) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let [length, keys] = self.lengths(pass);
        let (group, stride) = (heads / kv_heads, heads * head_dim);
        let (dq, dkv) = gradients.split_at_mut(group * length * head_dim);
        let (dk, dv) = dkv.split_at_mut(keys * head_dim);
        dk.fill(0.0);
        dv.fill(0.0);
        let shape_of = |head| self.dropping(pass, sequence, head, 0, 0..length);
        let shape = shape_of(0);
        let [dk, dv] = [dk, dv].map(|gradient| &mut gradient[..shape.keys * head_dim]);
        for (member, dq) in dq.chunks_exact_mut(length * head_dim).enumerate() {
            let head = kv_head * group + member;
            let shape = shape_of(head);
            let operands = self.head_rows(pass, sequence, head);
            let dy = &pass.buffers.gradient(self.y)[sequence * length * stride + head * head_dim..];
            let dy = HeadRows { rows: dy, stride };
            with_scratch(shape.backward_scratch_len(), |scratch| {
                let kernels = pass.context.kernels();
                kernels.attention_backward(&shape, operands, dy, scratch, [dq, &mut *dk, &mut *dv]);
            });
        }
    }

    /// Copies the batch's keys and values behind those of the cache.
    fn append_to_cache(&self, pass: &mut Pass<'_>) -> Result<()> {
        let Some(layer) = self.layer.filter(|_| pass.mode == Mode::Generate) else { return Ok(()) };
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
        let layer = &mut cache.layers[layer];
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

/// One head's output.
fn attend(context: &Context, shape: &HeadShape, operands: [HeadRows<'_>; 3], y: &mut [f32], y_stride: usize) {
    with_scratch(shape.scratch_len(), |scratch| {
        context.kernels().attention_forward(shape, operands, scratch, y, y_stride);
    });
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
