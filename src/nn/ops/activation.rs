//! Nonlinearities of one input: GELU and squared ReLU.
#![forbid(unsafe_code)]

use crate::Result;
use crate::nn::{BufferId, BufferKind, Operation, ParamId, Pass, PlanBuilder};

/// Elements of a parallel block.
const BLOCK: usize = 1 << 13;

#[derive(Clone, Copy, Debug)]
enum Function {
    Gelu,
    Relu2,
}

/// `y = f(x)`, element by element.
#[derive(Debug)]
pub struct Activation {
    function: Function,
    x: BufferId,
    y: BufferId,
}

impl PlanBuilder {
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: PyTorch's GELU with `approximate='tanh'`.
    pub fn gelu(&mut self, x: BufferId) -> BufferId {
        self.activation(Function::Gelu, x)
    }

    /// `max(x, 0)^2`.
    pub fn relu2(&mut self, x: BufferId) -> BufferId {
        self.activation(Function::Relu2, x)
    }

    fn activation(&mut self, function: Function, x: BufferId) -> BufferId {
        let y = self.buffer(BufferKind::Float, self.buffer_spec(x).width);
        self.push(Activation { function, x, y });
        y
    }
}

impl Operation for Activation {
    fn name(&self) -> &'static str {
        match self.function {
            Function::Gelu => "gelu",
            Function::Relu2 => "relu2",
        }
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn saved(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn parameters(&self) -> Vec<ParamId> {
        Vec::new()
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let kernels = pass.context.kernels();
        let mut y = pass.buffers.take_float(self.y);
        let x = pass.buffers.float(self.x);
        let blocks = x.chunks(BLOCK).zip(y[..x.len()].chunks_mut(BLOCK));
        pass.context.for_each(blocks, |(x, y)| match self.function {
            Function::Gelu => kernels.gelu(x, y),
            Function::Relu2 => kernels.relu2(x, y),
        });
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let kernels = pass.context.kernels();
        let mut dx = pass.buffers.take_gradient(self.x);
        let (x, dy) = (pass.buffers.float(self.x), pass.buffers.gradient(self.y));
        let blocks = x.chunks(BLOCK).zip(dy.chunks(BLOCK)).zip(dx[..x.len()].chunks_mut(BLOCK));
        pass.context.for_each(blocks, |((x, dy), dx)| match self.function {
            Function::Gelu => kernels.gelu_backward(x, dy, dx),
            Function::Relu2 => kernels.relu2_backward(x, dy, dx),
        });
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}
