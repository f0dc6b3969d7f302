//! Residual addition.
#![forbid(unsafe_code)]

use crate::Result;
use crate::nn::{BufferId, BufferKind, Operation, Pass, PlanBuilder};

/// Elements of a parallel block.
const BLOCK: usize = 1 << 14;

/// `sum = a + b`, element by element.
#[derive(Debug)]
pub struct Add {
    a: BufferId,
    b: BufferId,
    sum: BufferId,
}

impl PlanBuilder {
    /// `a + b`: float buffers of one width.
    pub fn add(&mut self, a: BufferId, b: BufferId) -> BufferId {
        let sum = self.buffer_beside(a, BufferKind::Float, self.buffer_spec(a).width);
        self.push(Add { a, b, sum });
        sum
    }
}

impl Operation for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.a, self.b]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.sum]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut sum = pass.buffers.take_float(self.sum);
        let (a, b) = (pass.buffers.float(self.a), pass.buffers.float(self.b));
        let blocks = sum[..a.len()].chunks_mut(BLOCK).zip(a.chunks(BLOCK).zip(b.chunks(BLOCK)));
        pass.context.for_each(blocks, |(sum, (a, b))| {
            sum.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum = a + b);
        });
        pass.buffers.put_float(self.sum, sum);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        for input in [self.a, self.b] {
            let mut gradient = pass.buffers.take_gradient(input);
            let of_sum = pass.buffers.gradient(self.sum);
            gradient[..of_sum.len()].copy_from_slice(of_sum);
            pass.buffers.put_gradient(pass.context, input, gradient);
        }
        Ok(())
    }
}
