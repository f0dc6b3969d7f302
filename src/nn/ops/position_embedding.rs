//! Learned position embeddings.
#![forbid(unsafe_code)]

use crate::nn::{BufferId, BufferKind, Operation, ParamId, Pass, PlanBuilder, Rows};
use crate::{Error, Result};

/// `y[s, t] = x[s, t] + table[skipped + t]` for token `t` of sequence `s`; in generation `t` counts from the start of the text.
#[derive(Debug)]
pub struct PositionEmbedding {
    x: BufferId,
    table: ParamId,
    /// Rows of the table that come before that of position 0.
    skipped: usize,
    positions: usize,
    of_source: bool,
    y: BufferId,
}

impl PlanBuilder {
    /// Adds row `t` of `table` `[positions, width]` to token `t` of each sequence.
    pub fn position_embedding(&mut self, x: BufferId, table: ParamId) -> BufferId {
        self.position_embedding_behind(x, table, 0)
    }

    /// Adds row `skipped + t` of `table` `[skipped + positions, width]` to token `t` of each sequence.
    pub fn position_embedding_behind(&mut self, x: BufferId, table: ParamId, skipped: usize) -> BufferId {
        let width = self.buffer_spec(x).width;
        let shape = &self.parameter_spec(table).shape;
        assert_eq!(shape[1], width, "position_embedding: width of the table");
        let positions = shape[0] - skipped;
        let of_source = self.buffer_spec(x).rows == Rows::Source;
        let y = self.buffer_beside(x, BufferKind::Float, width);
        self.push(PositionEmbedding { x, table, skipped, positions, of_source, y });
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

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.table]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let length = pass.buffers.rows_of_sequence(self.x);
        // A source is read whole.
        let first = if self.of_source { 0 } else { pass.first_position() };
        if first + length > self.positions {
            let expected = format!("at most {} tokens, the model's context", self.positions);
            return Err(Error::invalid("sequence length", expected, first + length));
        }
        let mut y = pass.buffers.take_float(self.y);
        let (x, width) = (pass.buffers.float(self.x), pass.buffers.width(self.y));
        let table = &pass.store.weight(self.table)[(self.skipped + first) * width..];
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
        let length = pass.buffers.rows_of_sequence(self.x);
        let gradient = &mut pass.store.gradient_mut(self.table)[self.skipped * width..][..length * width];
        pass.context.for_each(gradient.chunks_mut(width).enumerate(), |(position, sum)| {
            for dy in dy.chunks_exact(width).skip(position).step_by(length) {
                sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            }
        });
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}
