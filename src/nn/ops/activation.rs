//! Nonlinearities and gates as operations of their own.
#![forbid(unsafe_code)]

use super::elementwise::Elementwise;
use super::row_blocks::chunks_or_empty;
use crate::Result;
use crate::nn::{BufferId, BufferKind, Operation, Pass, PlanBuilder};

/// Elements of a parallel block.
const BLOCK: usize = 1 << 13;

/// `y = f(x)`, or of a gate `y = f(x, up)`, element by element.
#[derive(Debug)]
pub struct Activation {
    function: Elementwise,
    x: BufferId,
    up: Option<BufferId>,
    y: BufferId,
}

impl PlanBuilder {
    /// A nonlinearity of a float buffer; `up`: a gate's second input.
    ///
    /// # Panics
    /// If `up` is missing, is not wanted, is `x`, or has another width.
    pub fn activation(&mut self, function: Elementwise, x: BufferId, up: Option<BufferId>) -> BufferId {
        self.check_gate(function, x, up);
        let y = self.buffer_beside(x, BufferKind::Float, self.buffer_spec(x).width);
        self.push(Activation { function, x, up, y });
        y
    }

    pub(super) fn check_gate(&self, function: Elementwise, x: BufferId, up: Option<BufferId>) {
        assert_eq!(up.is_some(), function.is_gate(), "{}: inputs", function.name());
        if let Some(up) = up {
            assert!(x != up, "{}: both inputs are one buffer", function.name());
            let [width, width_of_up] = [x, up].map(|id| self.buffer_spec(id).width);
            assert_eq!(width, width_of_up, "{}: the inputs differ in width", function.name());
        }
    }
}

impl Operation for Activation {
    fn name(&self) -> &'static str {
        self.function.name()
    }

    fn inputs(&self) -> Vec<BufferId> {
        [Some(self.x), self.up].into_iter().flatten().collect()
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn saved(&self) -> Vec<BufferId> {
        [Some(self.saved_buffer()), self.up].into_iter().flatten().collect()
    }

    fn is_cheap(&self) -> bool {
        self.function != Elementwise::Tanh
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (kernels, function) = (pass.context.kernels(), self.function);
        let mut y = pass.buffers.take_float(self.y);
        let x = pass.buffers.float(self.x);
        let up = self.up.map_or(&[][..], |up| pass.buffers.float(up));
        let blocks = x.chunks(BLOCK).zip(y[..x.len()].chunks_mut(BLOCK)).enumerate();
        pass.context.for_each(blocks, |(block, (x, y))| function.values(kernels, x, part(up, block, x.len()), y));
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (kernels, function) = (pass.context.kernels(), self.function);
        let mut dx = pass.buffers.take_gradient(self.x);
        let mut dup = self.up.map(|up| pass.buffers.take_gradient(up));
        let (x, dy) = (pass.buffers.float(self.saved_buffer()), pass.buffers.gradient(self.y));
        let up = self.up.map_or(&[][..], |up| pass.buffers.float(up));
        let of_up = dup.as_mut().map_or(&mut [][..], |dup| &mut dup[..x.len()]);
        let of_up = chunks_or_empty(of_up, BLOCK, x.len().div_ceil(BLOCK));
        let outputs = dx[..x.len()].chunks_mut(BLOCK).zip(of_up);
        let blocks = x.chunks(BLOCK).zip(dy.chunks(BLOCK)).zip(outputs).enumerate();
        pass.context.for_each(blocks, |(block, ((x, dy), (dx, dup)))| {
            function.gradients(kernels, x, part(up, block, x.len()), dy, dx, dup);
        });
        pass.buffers.put_gradient(pass.context, self.x, dx);
        if let (Some(up), Some(dup)) = (self.up, dup) {
            pass.buffers.put_gradient(pass.context, up, dup);
        }
        Ok(())
    }
}

impl Activation {
    /// What the slope is computed from.
    fn saved_buffer(&self) -> BufferId {
        if self.function == Elementwise::Tanh { self.y } else { self.x }
    }
}

/// Block `block` of `values`, which are none or as many as the other input's.
fn part(values: &[f32], block: usize, len: usize) -> &[f32] {
    if values.is_empty() { values } else { &values[block * BLOCK..][..len] }
}
