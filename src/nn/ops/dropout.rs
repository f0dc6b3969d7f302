//! Dropout.
#![forbid(unsafe_code)]

use crate::Result;
use crate::nn::{BufferId, BufferKind, Mode, Operation, Pass, PlanBuilder};
use crate::tensor::RandomStream;

/// Elements of a parallel block; a multiple of the four draws of a Philox block.
const BLOCK: usize = 1 << 13;

/// Stream purpose of dropout masks.
const DROPOUT_PURPOSE: u32 = 30;

/// In training, zeroes each element with probability `rate` and scales the others by `1 / (1 - rate)`; elsewhere the
/// identity (Srivastava et al. 2014). The mask is drawn again in backward, not stored.
#[derive(Debug)]
pub struct Dropout {
    x: BufferId,
    rate: f32,
    y: BufferId,
}

impl PlanBuilder {
    /// Dropout of a float buffer; rate 0 adds no operation.
    ///
    /// # Panics
    /// If the rate is not in [0, 1).
    pub fn dropout(&mut self, x: BufferId, rate: f32) -> BufferId {
        assert!((0.0..1.0).contains(&rate), "dropout: rate {rate} is not in [0, 1)");
        if rate == 0.0 {
            return x;
        }
        let y = self.buffer_beside(x, BufferKind::Float, self.buffer_spec(x).width);
        self.push(Dropout { x, rate, y });
        y
    }
}

/// Draws below the threshold drop, what stays is multiplied by the factor.
pub(super) fn threshold_and_factor(rate: f32) -> (u32, f32) {
    ((f64::from(rate) * (1u64 << 32) as f64) as u32, 1.0 / (1.0 - rate))
}

impl Dropout {
    fn apply(&self, pass: &Pass<'_>, from: &[f32], to: &mut [f32]) {
        let kernels = pass.context.kernels();
        let key = RandomStream::key(pass.randomness.seed, DROPOUT_PURPOSE);
        let (tensor, step) = (pass.operation, pass.randomness.step);
        let (threshold, factor) = threshold_and_factor(self.rate);
        let blocks = from.chunks(BLOCK).zip(to.chunks_mut(BLOCK)).enumerate();
        pass.context.for_each(blocks, |(block, (from, to))| {
            let first = (block * BLOCK) as u64;
            kernels.dropout(from, key, tensor, step, first, threshold, factor, to);
        });
    }
}

impl Operation for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut y = pass.buffers.take_float(self.y);
        let x = pass.buffers.float(self.x);
        if pass.mode == Mode::Train {
            self.apply(pass, x, &mut y[..x.len()]);
        } else {
            y[..x.len()].copy_from_slice(x);
        }
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut dx = pass.buffers.take_gradient(self.x);
        let dy = pass.buffers.gradient(self.y);
        self.apply(pass, dy, &mut dx[..dy.len()]);
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}
