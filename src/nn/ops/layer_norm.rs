//! LayerNorm.
#![forbid(unsafe_code)]

use super::row_blocks::{ROWS, add_blocks, sums_of_blocks};
use crate::Result;
use crate::nn::{BufferId, BufferKind, Mode, Operation, ParamId, Pass, Plan, PlanBuilder, Scratch};

/// `y = (x - mean) / sqrt(variance + eps) * gain + bias`, row by row, biased variance (Ba et al. 2016).
#[derive(Debug)]
pub struct LayerNorm {
    x: BufferId,
    gain: ParamId,
    bias: ParamId,
    eps: f32,
    y: BufferId,
    /// Mean and `1 / sqrt(variance + eps)` of each row.
    statistics: BufferId,
}

impl PlanBuilder {
    /// LayerNorm of a float buffer with a gain and a bias as wide as its rows.
    ///
    /// # Panics
    /// If gain or bias is not as wide as a row.
    pub fn layer_norm(&mut self, x: BufferId, gain: ParamId, bias: ParamId, eps: f32) -> BufferId {
        let width = self.buffer_spec(x).width;
        assert_eq!(self.parameter_spec(gain).len(), width, "layer_norm: gain is not as wide as a row");
        assert_eq!(self.parameter_spec(bias).len(), width, "layer_norm: bias is not as wide as a row");
        let (y, statistics) =
            (self.buffer_beside(x, BufferKind::Float, width), self.buffer_beside(x, BufferKind::Float, 2));
        self.push(LayerNorm { x, gain, bias, eps, y, statistics });
        y
    }
}

impl Operation for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y, self.statistics]
    }

    fn saved(&self) -> Vec<BufferId> {
        vec![self.x, self.statistics]
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.gain, self.bias]
    }

    fn scratch(&self, plan: &Plan, mode: Mode, rows: usize) -> Vec<Scratch> {
        sums_of_blocks(mode, rows, [plan.buffer(self.x).width; 2])
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (kernels, eps) = (pass.context.kernels(), self.eps);
        let width = pass.buffers.width(self.x);
        let mut y = pass.buffers.take_float(self.y);
        let mut statistics = pass.buffers.take_float(self.statistics);
        let used = pass.buffers.len(self.statistics);
        let x = pass.buffers.float(self.x);
        let (gain, bias) = (pass.store.weight(self.gain), pass.store.weight(self.bias));
        let outputs = y[..x.len()].chunks_mut(ROWS * width).zip(statistics[..used].chunks_mut(2 * ROWS));
        pass.context.for_each(x.chunks(ROWS * width).zip(outputs), |(x, (y, statistics))| {
            kernels.layer_norm_rows(x, gain, bias, eps, y, statistics);
        });
        pass.buffers.put_float(self.y, y);
        pass.buffers.put_float(self.statistics, statistics);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let kernels = pass.context.kernels();
        let width = pass.buffers.width(self.x);
        let mut dx = pass.buffers.take_gradient(self.x);
        let (x, statistics) = (pass.buffers.float(self.x), pass.buffers.float(self.statistics));
        let dy = pass.buffers.gradient(self.y);
        let gain = pass.store.weight(self.gain);
        let blocks = pass.buffers.rows(self.x).div_ceil(ROWS);
        let [mut gain_kept, mut bias_kept] = [(); 2].map(|()| pass.workspace.take_float(blocks * width));
        let [of_gain, of_bias] = [&mut gain_kept, &mut bias_kept].map(|kept| &mut kept[..blocks * width]);
        of_gain.fill(0.0);
        of_bias.fill(0.0);
        let inputs = x.chunks(ROWS * width).zip(statistics.chunks(2 * ROWS)).zip(dy.chunks(ROWS * width));
        let sums = of_gain.chunks_mut(width).zip(of_bias.chunks_mut(width));
        let blocks = inputs.zip(dx[..x.len()].chunks_mut(ROWS * width)).zip(sums);
        pass.context.for_each(blocks, |((((x, statistics), dy), dx), (of_gain, of_bias))| {
            kernels.layer_norm_backward_rows(x, gain, statistics, dy, dx, of_gain, of_bias);
        });
        add_blocks(of_gain, pass.store.gradient_mut(self.gain));
        add_blocks(of_bias, pass.store.gradient_mut(self.bias));
        pass.workspace.put_float(gain_kept);
        pass.workspace.put_float(bias_kept);
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}
