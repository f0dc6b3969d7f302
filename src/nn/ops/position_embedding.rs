//! Learned position embeddings.
#![forbid(unsafe_code)]

use crate::nn::{BufferId, BufferKind, Operation, ParamId, Pass, PlanBuilder};
use crate::{Error, Result};

/// `y[s, t] = x[s, t] + table[t]` for token `t` of sequence `s`; in generation `t` counts from the start of the text.
#[derive(Debug)]
pub struct PositionEmbedding {
    x: BufferId,
    table: ParamId,
    positions: usize,
    y: BufferId,
}

impl PlanBuilder {
    /// Adds row `t` of `table` `[positions, width]` to token `t` of each sequence.
    pub fn position_embedding(&mut self, x: BufferId, table: ParamId) -> BufferId {
        let width = self.buffer_spec(x).width;
        let shape = &self.parameter_spec(table).shape;
        assert_eq!(shape[1], width, "position_embedding: width of the table");
        let positions = shape[0];
        let y = self.buffer_beside(x, BufferKind::Float, width);
        self.push(PositionEmbedding { x, table, positions, y });
        y
    }
}

impl Operation for PositionEmbedding {
    fn name(&self) -> &'static str {
        "position_embedding"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn saved(&self) -> Vec<BufferId> {
        Vec::new()
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.table]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (first, length) = (pass.first_position(), pass.batch.length);
        if first + length > self.positions {
            let expected = format!("at most {} tokens, the model's context", self.positions);
            return Err(Error::invalid("sequence length", expected, first + length));
        }
        let mut y = pass.buffers.take_float(self.y);
        let (x, width) = (pass.buffers.float(self.x), pass.buffers.width(self.y));
        let table = &pass.store.weight(self.table)[first * width..];
        let rows = y[..x.len()].chunks_mut(width).zip(x.chunks(width)).enumerate();
        pass.context.for_each(rows, |(token, (y, x))| {
            let position = &table[token % length * width..][..width];
            y.iter_mut().zip(x.iter().zip(position)).for_each(|(y, (x, position))| *y = x + position);
        });
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut dx = pass.buffers.take_gradient(self.x);
        let (dy, width) = (pass.buffers.gradient(self.y), pass.buffers.width(self.y));
        dx[..dy.len()].copy_from_slice(dy);
        let length = pass.batch.length;
        let gradient = &mut pass.store.gradient_mut(self.table)[..length * width];
        pass.context.for_each(gradient.chunks_mut(width).enumerate(), |(position, sum)| {
            for dy in dy.chunks_exact(width).skip(position).step_by(length) {
                sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            }
        });
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}
