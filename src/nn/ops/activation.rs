//! Nonlinearities of one input: GELU, ReLU, squared ReLU and tanh.
#![forbid(unsafe_code)]

use crate::Result;
use crate::nn::{BufferId, BufferKind, Operation, Pass, PlanBuilder};

/// Elements of a parallel block.
const BLOCK: usize = 1 << 13;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Function {
    Gelu,
    GeluExact,
    Relu,
    Relu2,
    Tanh,
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

    /// `x Phi(x)` with the normal distribution `Phi`: PyTorch's GELU.
    pub fn gelu_exact(&mut self, x: BufferId) -> BufferId {
        self.activation(Function::GeluExact, x)
    }

    /// `max(x, 0)`.
    pub fn relu(&mut self, x: BufferId) -> BufferId {
        self.activation(Function::Relu, x)
    }

    /// `tanh(x)`.
    pub fn tanh(&mut self, x: BufferId) -> BufferId {
        self.activation(Function::Tanh, x)
    }

    /// `max(x, 0)^2`.
    pub fn relu2(&mut self, x: BufferId) -> BufferId {
        self.activation(Function::Relu2, x)
    }

    fn activation(&mut self, function: Function, x: BufferId) -> BufferId {
        let y = self.buffer_beside(x, BufferKind::Float, self.buffer_spec(x).width);
        self.push(Activation { function, x, y });
        y
    }
}

impl Operation for Activation {
    fn name(&self) -> &'static str {
        match self.function {
            Function::Gelu => "gelu",
            Function::GeluExact => "gelu_exact",
            Function::Relu => "relu",
            Function::Relu2 => "relu2",
            Function::Tanh => "tanh",
        }
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    /// The slope of tanh is had from its value.
    fn saved(&self) -> Vec<BufferId> {
        vec![self.saved_buffer()]
    }

    fn is_cheap(&self) -> bool {
        self.function != Function::Tanh
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let kernels = pass.context.kernels();
        let mut y = pass.buffers.take_float(self.y);
        let x = pass.buffers.float(self.x);
        let blocks = x.chunks(BLOCK).zip(y[..x.len()].chunks_mut(BLOCK));
        pass.context.for_each(blocks, |(x, y)| match self.function {
            Function::Gelu => kernels.gelu(x, y),
            Function::GeluExact => kernels.gelu_exact(x, y),
            Function::Relu => y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x < 0.0 { 0.0 } else { *x }),
            Function::Relu2 => kernels.relu2(x, y),
            Function::Tanh => kernels.tanh_values(x, y),
        });
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let kernels = pass.context.kernels();
        let mut dx = pass.buffers.take_gradient(self.x);
        let (x, dy) = (pass.buffers.float(self.saved_buffer()), pass.buffers.gradient(self.y));
        let blocks = x.chunks(BLOCK).zip(dy.chunks(BLOCK)).zip(dx[..x.len()].chunks_mut(BLOCK));
        pass.context.for_each(blocks, |((x, dy), dx)| match self.function {
            Function::Gelu => kernels.gelu_backward(x, dy, dx),
            Function::GeluExact => kernels.gelu_exact_backward(x, dy, dx),
            Function::Relu => each(x, dy, dx, |x, dy| if x > 0.0 { dy } else { 0.0 }),
            Function::Relu2 => kernels.relu2_backward(x, dy, dx),
            Function::Tanh => each(x, dy, dx, |y, dy| dy * (1.0 - y * y)),
        });
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}

impl Activation {
    /// What the slope is computed from.
    fn saved_buffer(&self) -> BufferId {
        if self.function == Function::Tanh { self.y } else { self.x }
    }
}

/// `dx = slope(saved, dy)`, element by element.
fn each(saved: &[f32], dy: &[f32], dx: &mut [f32], slope: impl Fn(f32, f32) -> f32) {
    dx.iter_mut().zip(saved.iter().zip(dy)).for_each(|(dx, (&saved, &dy))| *dx = slope(saved, dy));
}
