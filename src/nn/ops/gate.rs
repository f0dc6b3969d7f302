//! Gated nonlinearities of the feed-forward layer: SiLU and squared ReLU gates.
#![forbid(unsafe_code)]

use crate::Result;
use crate::nn::{BufferId, BufferKind, Operation, Pass, PlanBuilder};

/// Elements of a parallel block.
const BLOCK: usize = 1 << 13;

#[derive(Clone, Copy, Debug)]
enum Function {
    Silu,
    Relu2,
}

/// `y = f(gate) * up`, element by element (Shazeer 2020).
#[derive(Debug)]
pub struct Gate {
    function: Function,
    gate: BufferId,
    up: BufferId,
    y: BufferId,
}

impl PlanBuilder {
    /// `silu(gate) * up`: two float buffers of one width.
    ///
    /// # Panics
    /// If the widths differ, or both are one buffer.
    pub fn silu_gate(&mut self, gate: BufferId, up: BufferId) -> BufferId {
        self.gate(Function::Silu, gate, up)
    }

    /// `max(gate, 0)^2 * up`: two float buffers of one width.
    ///
    /// # Panics
    /// If the widths differ, or both are one buffer.
    pub fn relu2_gate(&mut self, gate: BufferId, up: BufferId) -> BufferId {
        self.gate(Function::Relu2, gate, up)
    }

    fn gate(&mut self, function: Function, gate: BufferId, up: BufferId) -> BufferId {
        let width = self.buffer_spec(gate).width;
        assert!(gate != up, "gate: gate and up are one buffer");
        assert_eq!(self.buffer_spec(up).width, width, "gate: gate and up differ in width");
        let y = self.buffer_beside(gate, BufferKind::Float, width);
        self.push(Gate { function, gate, up, y });
        y
    }
}

impl Operation for Gate {
    fn name(&self) -> &'static str {
        match self.function {
            Function::Silu => "silu_gate",
            Function::Relu2 => "relu2_gate",
        }
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.gate, self.up]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn saved(&self) -> Vec<BufferId> {
        vec![self.gate, self.up]
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let kernels = pass.context.kernels();
        let mut y = pass.buffers.take_float(self.y);
        let (gate, up) = (pass.buffers.float(self.gate), pass.buffers.float(self.up));
        let blocks = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(y[..gate.len()].chunks_mut(BLOCK));
        pass.context.for_each(blocks, |((gate, up), y)| match self.function {
            Function::Silu => kernels.silu_gate(gate, up, y),
            Function::Relu2 => kernels.relu2_gate(gate, up, y),
        });
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let kernels = pass.context.kernels();
        let mut dgate = pass.buffers.take_gradient(self.gate);
        let mut dup = pass.buffers.take_gradient(self.up);
        let (gate, up) = (pass.buffers.float(self.gate), pass.buffers.float(self.up));
        let dy = pass.buffers.gradient(self.y);
        let inputs = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(dy.chunks(BLOCK));
        let outputs = dgate[..gate.len()].chunks_mut(BLOCK).zip(dup[..gate.len()].chunks_mut(BLOCK));
        pass.context.for_each(inputs.zip(outputs), |(((gate, up), dy), (dgate, dup))| match self.function {
            Function::Silu => kernels.silu_gate_backward(gate, up, dy, dgate, dup),
            Function::Relu2 => kernels.relu2_gate_backward(gate, up, dy, dgate, dup),
        });
        pass.buffers.put_gradient(pass.context, self.gate, dgate);
        pass.buffers.put_gradient(pass.context, self.up, dup);
        Ok(())
    }
}
