//! Rotary position embeddings (Su et al., "RoFormer", 2021), in the half-split form of Llama: element `i` of a head is
//! paired with element `i + head_dim / 2`.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rayon::prelude::*;

use crate::nn::{BufferId, BufferKind, Operation, ParamId, Pass, PlanBuilder};
use crate::{Error, Result};

/// Cosines and sines of the angles `position * theta^(-2 i / head_dim)`, for `i < head_dim / 2`.
#[derive(Debug)]
pub struct RotaryTable {
    half: usize,
    positions: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl RotaryTable {
    /// Angles for `positions` positions of heads of `head_dim` elements; computed in f64 with libm.
    ///
    /// # Panics
    /// If `head_dim` is odd or zero.
    pub fn new(positions: usize, head_dim: usize, theta: f32) -> Self {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rotary embeddings need an even head_dim");
        let half = head_dim / 2;
        let frequency = |i: usize| libm::pow(f64::from(theta), -2.0 * i as f64 / head_dim as f64);
        let frequencies: Vec<f64> = (0..half).map(frequency).collect();
        let angles = || (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let cosines = angles().map(|angle| libm::cos(angle) as f32).collect();
        let sines = angles().map(|angle| libm::sin(angle) as f32).collect();
        RotaryTable { half, positions, cosines, sines }
    }

    /// Rotates every head of `x` (one token) by the angles of `position` into `y`; the other way round with `back`.
    fn rotate(&self, position: usize, back: bool, x: &[f32], y: &mut [f32]) {
        let row = position * self.half..(position + 1) * self.half;
        let (cosines, sines) = (&self.cosines[row.clone()], &self.sines[row]);
        let sign = if back { -1.0 } else { 1.0 };
        for (x, y) in x.chunks_exact(2 * self.half).zip(y.chunks_exact_mut(2 * self.half)) {
            let ((x0, x1), (y0, y1)) = (x.split_at(self.half), y.split_at_mut(self.half));
            for i in 0..self.half {
                let (cosine, sine) = (cosines[i], sign * sines[i]);
                y0[i] = x0[i] * cosine - x1[i] * sine;
                y1[i] = x1[i] * cosine + x0[i] * sine;
            }
        }
    }

    fn rotate_all(&self, first: usize, length: usize, width: usize, back: bool, x: &[f32], y: &mut [f32]) {
        y.par_chunks_mut(width).zip(x.par_chunks(width)).enumerate().for_each(|(token, (y, x))| {
            self.rotate(first + token % length, back, x, y);
        });
    }
}

/// Rotates each head by its token's position. The gradient is rotated back.
#[derive(Debug)]
pub struct Rope {
    x: BufferId,
    table: Arc<RotaryTable>,
    y: BufferId,
}

impl PlanBuilder {
    /// Rotates the heads of `x` `[tokens, heads * head_dim]`; `table` fixes `head_dim` and is shared by the layers.
    pub fn rope(&mut self, x: BufferId, table: &Arc<RotaryTable>) -> BufferId {
        let width = self.buffer_spec(x).width;
        assert_eq!(width % (2 * table.half), 0, "rope: width is a multiple of head_dim");
        let y = self.buffer(BufferKind::Float, width);
        self.push(Rope { x, table: table.clone(), y });
        y
    }
}

impl Operation for Rope {
    fn name(&self) -> &'static str {
        "rope"
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
        Vec::new()
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (first, length) = (pass.first_position(), pass.batch.length);
        if first + length > self.table.positions {
            let expected = format!("at most {} tokens, the model's context", self.table.positions);
            return Err(Error::invalid("sequence length", expected, first + length));
        }
        let mut y = pass.buffers.take_float(self.y);
        let (x, width) = (pass.buffers.float(self.x), pass.buffers.width(self.x));
        self.table.rotate_all(first, length, width, false, x, &mut y[..x.len()]);
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut dx = pass.buffers.take_gradient(self.x);
        let (dy, width) = (pass.buffers.gradient(self.y), pass.buffers.width(self.y));
        self.table.rotate_all(0, pass.batch.length, width, true, dy, &mut dx[..dy.len()]);
        pass.buffers.put_gradient(self.x, dx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_pairs_by_position_and_back() {
        let table = RotaryTable::new(3, 4, 100.0);
        let (x, mut y, mut back) = ([1.0, 2.0, 0.0, 0.0], [0.0; 4], [0.0; 4]);
        table.rotate(2, false, &x, &mut y);
        // Angles at position 2: 2 and 2 / 10.
        let expected = [2f64.cos(), 2.0 * 0.2f64.cos(), 2f64.sin(), 2.0 * 0.2f64.sin()];
        for (y, expected) in y.iter().zip(expected) {
            assert!((f64::from(*y) - expected).abs() < 1e-6, "{y} {expected}");
        }
        table.rotate(2, true, &y, &mut back);
        assert!(back.iter().zip(x).all(|(back, x)| (back - x).abs() < 1e-6));
    }
}
