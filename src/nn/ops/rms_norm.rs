//! RMSNorm, alone or fused with int8 activation quantization.
#![forbid(unsafe_code)]

use super::row_blocks::{ROWS, add_blocks, sums_of_blocks};
use crate::Result;
use crate::nn::{BufferId, BufferKind, Mode, Operation, ParamId, Pass, Plan, PlanBuilder, Scratch};

/// `y = x / sqrt(mean(x^2) + eps) * gain`, row by row (Zhang and Sennrich 2019).
#[derive(Debug)]
pub struct RmsNorm {
    x: BufferId,
    gain: ParamId,
    eps: f32,
    y: BufferId,
    y_kind: BufferKind,
    /// `1 / sqrt(mean(x^2) + eps)` of each row.
    inverses: BufferId,
}

impl PlanBuilder {
    /// RMSNorm of a float buffer with a gain as wide as its rows. With [`BufferKind::Quantized`] the output is
    /// quantized to int8 in the same pass; its gradient goes straight through the rounding.
    ///
    /// # Panics
    /// If the gain is not as wide as a row.
    pub fn rms_norm(&mut self, x: BufferId, gain: ParamId, eps: f32, out: BufferKind) -> BufferId {
        let width = self.buffer_spec(x).width;
        assert_eq!(self.parameter_spec(gain).len(), width, "rms_norm: gain is not as wide as a row");
        let (y, inverses) = (self.buffer_beside(x, out, width), self.buffer_beside(x, BufferKind::Float, 1));
        self.push(RmsNorm { x, gain, eps, y, y_kind: out, inverses });
        y
    }
}

impl Operation for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y, self.inverses]
    }

    fn saved(&self) -> Vec<BufferId> {
        vec![self.x, self.inverses]
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.gain]
    }

    /// Into int8, between two products: a fraction of their time.
    fn is_cheap(&self) -> bool {
        self.y_kind == BufferKind::Quantized
    }

    fn scratch(&self, plan: &Plan, mode: Mode, rows: usize) -> Vec<Scratch> {
        sums_of_blocks(mode, rows, [plan.buffer(self.x).width])
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (kernels, eps) = (pass.context.kernels(), self.eps);
        let (tokens, width) = (pass.buffers.rows(self.x), pass.buffers.width(self.x));
        let mut inverses = pass.buffers.take_float(self.inverses);
        let gain = pass.store.weight(self.gain);
        if self.y_kind == BufferKind::Float {
            let mut y = pass.buffers.take_float(self.y);
            let x = pass.buffers.float(self.x);
            let outputs = y[..x.len()].chunks_mut(ROWS * width).zip(inverses[..tokens].chunks_mut(ROWS));
            pass.context.for_each(x.chunks(ROWS * width).zip(outputs), |(x, (y, inverses))| {
                kernels.rms_norm_rows(x, gain, eps, y, inverses);
            });
            pass.buffers.put_float(self.y, y);
        } else {
            let mut y = pass.buffers.take_quantized(self.y);
            let x = pass.buffers.float(self.x);
            let of_rows = y.scales[..tokens].chunks_mut(ROWS).zip(y.sums[..tokens].chunks_mut(ROWS));
            let of_rows = of_rows.zip(inverses[..tokens].chunks_mut(ROWS));
            let blocks = x.chunks(ROWS * width).zip(y.values[..x.len()].chunks_mut(ROWS * width)).zip(of_rows);
            pass.context.for_each(blocks, |((x, values), ((scales, sums), inverses))| {
                kernels.rms_norm_quantize_rows(x, gain, eps, values, scales, sums, inverses);
            });
            pass.buffers.put_quantized(self.y, y);
        }
        pass.buffers.put_float(self.inverses, inverses);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let kernels = pass.context.kernels();
        let width = pass.buffers.width(self.x);
        let mut dx = pass.buffers.take_gradient(self.x);
        let (x, inverses) = (pass.buffers.float(self.x), pass.buffers.float(self.inverses));
        let dy = pass.buffers.gradient(self.y);
        let (gain, gain_gradient, _) = pass.store.backward_view(self.gain);
        let count = inverses.len().div_ceil(ROWS) * width;
        let mut kept = pass.workspace.take_float(count);
        let partials = &mut kept[..count];
        partials.fill(0.0);
        let inputs = x.chunks(ROWS * width).zip(inverses.chunks(ROWS)).zip(dy.chunks(ROWS * width));
        let outputs = dx[..x.len()].chunks_mut(ROWS * width).zip(partials.chunks_mut(width));
        pass.context.for_each(inputs.zip(outputs), |(((x, inverses), dy), (dx, partial))| {
            kernels.rms_norm_backward_rows(x, gain, inverses, dy, dx, partial);
        });
        add_blocks(partials, gain_gradient);
        pass.workspace.put_float(kept);
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}
