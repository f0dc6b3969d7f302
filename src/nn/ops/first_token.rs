//! The first token of each sequence, which stands for the whole.
#![forbid(unsafe_code)]

use crate::Result;
use crate::nn::{BufferId, BufferKind, Operation, Pass, PlanBuilder, Rows};

/// `y[s] = x[s, 0]`.
#[derive(Debug)]
pub struct FirstToken {
    x: BufferId,
    y: BufferId,
}

impl PlanBuilder {
    /// The row of each sequence's first token.
    pub fn first_token(&mut self, x: BufferId) -> BufferId {
        let y = self.buffer_of(Rows::Sequences, BufferKind::Float, self.buffer_spec(x).width);
        self.push(FirstToken { x, y });
        y
    }
}

impl Operation for FirstToken {
    fn name(&self) -> &'static str {
        "first_token"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut y = pass.buffers.take_float(self.y);
        let width = pass.buffers.width(self.x);
        let sequences = pass.buffers.float(self.x).chunks(pass.buffers.rows_of_sequence(self.x) * width);
        y.chunks_exact_mut(width).zip(sequences).for_each(|(y, x)| y.copy_from_slice(&x[..width]));
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut dx = pass.buffers.take_gradient(self.x);
        let (len, width) = (pass.buffers.len(self.x), pass.buffers.width(self.x));
        let sequence = pass.buffers.rows_of_sequence(self.x) * width;
        dx[..len].fill(0.0);
        let dy = pass.buffers.gradient(self.y).chunks_exact(width);
        dx[..len].chunks_mut(sequence).zip(dy).for_each(|(dx, dy)| dx[..width].copy_from_slice(dy));
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}
