//! The recurrent part of LSTM (Hochreiter and Schmidhuber 1997; with forget gates, Gers et al. 2000) and GRU (Cho et al.
//! 2014), in PyTorch's order of gates and with its two biases.
//!
//! A linear layer before it has multiplied all inputs at once; what is left is one product with the state a step. Backward
//! goes through the steps of the batch and no further (truncated): the state that came in is a constant.
#![forbid(unsafe_code)]

mod cells;

use self::cells::{gru_step, gru_step_backward, lstm_step, lstm_step_backward};
use super::linear::{add_column_sums, dense_weight, dequantize_rows, quantized_product};
use crate::Result;
use crate::kernels::DenseMatrix;
use crate::nn::{BufferId, BufferKind, Operation, ParamId, Pass, PlanBuilder, Precision};
use crate::quant::QuantizedRows;

/// The kind of a recurrent layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell {
    /// Gates i, f, g, o: `c' = f c + i g`, `h' = o tanh(c')`. The state is h, then c.
    Lstm,
    /// Gates r, z, n: `n = tanh(x_n + r (W_n h + b_n))`, `h' = (1 - z) n + z h`. The state is h.
    Gru,
}

impl Cell {
    /// Rows of its matrices for each element of the state h.
    pub fn gates(self) -> usize {
        if self == Cell::Lstm { 4 } else { 3 }
    }

    /// Elements of the state for each of h.
    fn states(self) -> usize {
        if self == Cell::Lstm { 2 } else { 1 }
    }

    /// What the backward pass reads: the gates, then c and tanh(c) (LSTM) or `W_n h + b_n` (GRU).
    fn kept(self) -> usize {
        self.gates() + self.states()
    }
}

/// `h[t] = cell(x[t] + W h[t - 1] + b, h[t - 1])` for each sequence. A quantized `W` multiplies h rounded to int8; its
/// gradients are straight-through and f32.
#[derive(Debug)]
pub struct Recurrent {
    cell: Cell,
    x: BufferId,
    weight: ParamId,
    bias: ParamId,
    quantized: bool,
    /// Elements of h.
    width: usize,
    /// Position among the plan's recurrent layers: the place of its state.
    layer: usize,
    y: BufferId,
    kept: BufferId,
}

impl PlanBuilder {
    /// A recurrent layer on `x` `[tokens, gates * width]`, with `weight` `[gates * width, width]` and a `bias`: gives h,
    /// `[tokens, width]`. The state is taken from and left in the [`crate::nn::KeyValueCache`] if there is one, else it
    /// starts from zeros.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn recurrent(&mut self, cell: Cell, x: BufferId, weight: ParamId, bias: ParamId) -> BufferId {
        let spec = self.parameter_spec(weight);
        let (rows, width, quantized) = (spec.shape[0], spec.shape[1], spec.precision != Precision::F32);
        assert_eq!(rows, cell.gates() * width, "recurrent: rows of the weight");
        assert_eq!(self.buffer_spec(x).width, rows, "recurrent: width of the input");
        assert_eq!(self.parameter_spec(bias).len(), rows, "recurrent: length of the bias");
        let y = self.buffer_beside(x, BufferKind::Float, width);
        let kept = self.buffer_beside(x, BufferKind::Float, cell.kept() * width);
        let layer = self.next_state();
        self.push(Recurrent { cell, x, weight, bias, quantized, width, layer, y, kept });
        y
    }
}

impl Operation for Recurrent {
    fn name(&self) -> &'static str {
        if self.cell == Cell::Lstm { "lstm" } else { "gru" }
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y, self.kept]
    }

    fn saved(&self) -> Vec<BufferId> {
        vec![self.y, self.kept]
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.weight, self.bias]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let shape = self.shape(pass);
        let Shape { sequences, length, width, gates } = shape;
        let (mut y, mut kept) = (pass.buffers.take_float(self.y), pass.buffers.take_float(self.kept));
        let mut products = pass.workspace.take_float(sequences * gates);
        let mut sums = pass.workspace.take_float(sequences * gates);
        let mut state = self.initial_state(pass, shape);
        let mut rounded = QuantizedRows::default();
        let kernels = pass.context.kernels();
        let used = sequences * length;
        for step in 0..length {
            let product = &mut products[..sequences * gates];
            let hidden = &state[..sequences * width];
            let by_gate = if self.quantized {
                rounded.quantize(pass.context, hidden, sequences, width);
                let form = pass.store.quantized_or_error(self.weight)?;
                let shape = (sequences, gates, width);
                quantized_product(pass.context, pass.workspace, form, &rounded, shape, product)?;
                false
            } else {
                // Gates as rows: many rows share the work, where sequences are few.
                let weight = DenseMatrix::new(pass.store.weight(self.weight), width);
                let shape = (gates, sequences, width);
                pass.context.matmul(shape, weight, DenseMatrix::transposed(hidden, width), false, product);
                true
            };
            let (x, bias) = (pass.buffers.float(self.x), pass.store.weight(self.bias));
            let (hidden, memory) = state.split_at_mut(sequences * width);
            let memory = memory.chunks_mut(width).map(Some).chain(std::iter::repeat_with(|| None));
            let mut tasks: Vec<_> = y[..used * width]
                .chunks_mut(length * width)
                .zip(kept[..used * self.cell.kept() * width].chunks_mut(length * self.cell.kept() * width))
                .zip(hidden.chunks_mut(width).zip(memory))
                .zip(sums[..sequences * gates].chunks_mut(gates))
                .collect();
            pass.context.for_each(tasks.iter_mut().enumerate(), |(sequence, (((y, kept), (hidden, memory)), sums))| {
                let kept = &mut kept[step * self.cell.kept() * width..][..self.cell.kept() * width];
                let x = &x[(sequence * length + step) * gates..][..gates];
                let product = |gate: usize| match by_gate {
                    true => product[gate * sequences + sequence],
                    false => product[sequence * gates + gate],
                };
                let from_state = |gate: usize| product(gate) + bias[gate];
                match memory {
                    Some(memory) => lstm_step(kernels, x, from_state, sums, kept, hidden, memory),
                    None => gru_step(kernels, x, from_state, sums, kept, hidden),
                }
                y[step * width..][..width].copy_from_slice(hidden);
            });
        }
        if let Some(cache) = &mut pass.cache {
            cache.state_after(self.layer).copy_from_slice(&state);
        }
        pass.workspace.put_float(products);
        pass.workspace.put_float(sums);
        pass.buffers.put_float(self.y, y);
        pass.buffers.put_float(self.kept, kept);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let shape = self.shape(pass);
        let Shape { sequences, length, width, gates } = shape;
        let tokens = sequences * length;
        let first = self.initial_state(pass, shape);
        let (mut dx, mut of_state) = (pass.buffers.take_gradient(self.x), pass.workspace.take_float(tokens * gates));
        let mut dense = pass.workspace.take_float(if self.quantized { gates * width } else { 0 });
        let mut carried = vec![0f32; self.cell.states() * sequences * width];
        let mut d_hidden = pass.workspace.take_float(sequences * width);
        let (dy, y, kept) = (pass.buffers.gradient(self.y), pass.buffers.float(self.y), pass.buffers.float(self.kept));
        let weight = match pass.store.quantized(self.weight).filter(|_| self.quantized) {
            Some(form) => dense_weight(pass.context, form, &mut dense[..gates * width])?,
            None => pass.store.weight(self.weight),
        };
        for step in (0..length).rev() {
            let (carried_h, carried_c) = carried.split_at_mut(sequences * width);
            let carried_c = carried_c.chunks_mut(width).map(Some).chain(std::iter::repeat_with(|| None));
            let mut tasks: Vec<_> = dx[..tokens * gates]
                .chunks_mut(length * gates)
                .zip(of_state[..tokens * gates].chunks_mut(length * gates))
                .zip(carried_h.chunks_mut(width).zip(carried_c))
                .collect();
            pass.context.for_each(
                tasks.iter_mut().enumerate(),
                |(sequence, ((dx, of_state), (carried, carried_c)))| {
                    let token = sequence * length + step;
                    let kept_width = self.cell.kept() * width;
                    let (dx, of_state) = (&mut dx[step * gates..][..gates], &mut of_state[step * gates..][..gates]);
                    carried.iter_mut().zip(&dy[token * width..]).for_each(|(sum, dy)| *sum += dy);
                    let kept_before = |at: usize| &kept[(token - 1) * kept_width + at..][..width];
                    let state = |part: usize| &first[(part * sequences + sequence) * width..][..width];
                    let kept = &kept[token * kept_width..][..kept_width];
                    match carried_c {
                        Some(carried_c) => {
                            let memory = if step == 0 { state(1) } else { kept_before(gates) };
                            lstm_step_backward(kept, memory, carried, carried_c, dx);
                            of_state.copy_from_slice(dx);
                        }
                        None => {
                            let hidden = if step == 0 { state(0) } else { &y[(token - 1) * width..][..width] };
                            gru_step_backward(kept, hidden, carried, dx, of_state);
                        }
                    }
                },
            );
            // What reaches the state before through the product, `[width, sequences]`.
            let rows = DenseMatrix::transposed(&of_state[step * gates..], length * gates);
            let back = &mut d_hidden[..sequences * width];
            pass.context.matmul((width, sequences, gates), DenseMatrix::transposed(weight, width), rows, false, back);
            for (sequence, carried) in carried[..sequences * width].chunks_mut(width).enumerate() {
                // Of an LSTM nothing of h is left but this; a GRU has added to what it kept.
                let kept_part = if self.cell == Cell::Lstm { 0.0 } else { 1.0 };
                let back = back[sequence..].iter().step_by(sequences);
                carried.iter_mut().zip(back).for_each(|(carried, back)| *carried = *carried * kept_part + back);
            }
        }
        // The states that the products read: those of the steps before, rounded as they were.
        let mut before = pass.workspace.take_float(tokens * width);
        for (token, row) in before[..tokens * width].chunks_exact_mut(width).enumerate() {
            let (sequence, step) = (token / length, token % length);
            let state = if step == 0 { &first[sequence * width..] } else { &y[(token - 1) * width..] };
            row.copy_from_slice(&state[..width]);
        }
        if self.quantized {
            let mut rounded = QuantizedRows::default();
            rounded.quantize(pass.context, &before[..tokens * width], tokens, width);
            dequantize_rows(pass.context, &rounded, width, &mut before[..tokens * width]);
        }
        let (of_state_used, before_used) = (&of_state[..tokens * gates], &before[..tokens * width]);
        let columns = DenseMatrix::transposed(of_state_used, gates);
        let gradient = pass.store.gradient_mut(self.weight);
        pass.context.matmul((gates, width, tokens), columns, DenseMatrix::new(before_used, width), true, gradient);
        add_column_sums(pass.context, of_state_used, gates, pass.store.gradient_mut(self.bias));
        for scratch in [of_state, dense, d_hidden, before] {
            pass.workspace.put_float(scratch);
        }
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }

    fn state_width(&self) -> Option<usize> {
        Some(self.cell.states() * self.width)
    }
}

/// Sizes of a batch: `gates` is the width of the input.
#[derive(Clone, Copy)]
struct Shape {
    sequences: usize,
    length: usize,
    width: usize,
    gates: usize,
}

impl Recurrent {
    fn shape(&self, pass: &Pass<'_>) -> Shape {
        Shape {
            sequences: pass.batch.sequences,
            length: pass.buffers.rows_of_sequence(self.x),
            width: self.width,
            gates: pass.buffers.width(self.x),
        }
    }

    /// The state before the batch: h of all sequences, then c of all.
    fn initial_state(&self, pass: &Pass<'_>, shape: Shape) -> Vec<f32> {
        match &pass.cache {
            Some(cache) => cache.state_before(self.layer).to_vec(),
            None => vec![0.0; self.cell.states() * shape.sequences * shape.width],
        }
    }
}
