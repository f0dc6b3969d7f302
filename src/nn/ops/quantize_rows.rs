//! int8 activations where no norm comes before a quantized linear layer.
#![forbid(unsafe_code)]

use crate::Result;
use crate::nn::{BufferId, BufferKind, Operation, Pass, PlanBuilder};

/// `y[t] = rint(x[t] * 127 / max|x[t]|)` with a scale for each token ([`crate::quant::QuantizedRows`]). The gradient goes
/// straight through the rounding (Bengio et al. 2013).
#[derive(Debug)]
pub struct QuantizeRows {
    x: BufferId,
    y: BufferId,
}

impl PlanBuilder {
    /// Rounds a float buffer to int8 rows: the input of a quantized linear layer.
    pub fn quantize_rows(&mut self, x: BufferId) -> BufferId {
        let y = self.buffer_beside(x, BufferKind::Quantized, self.buffer_spec(x).width);
        self.push(QuantizeRows { x, y });
        y
    }
}

impl Operation for QuantizeRows {
    fn name(&self) -> &'static str {
        "quantize_rows"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut y = pass.buffers.take_quantized(self.y);
        let (tokens, width) = (pass.buffers.rows(self.x), pass.buffers.width(self.x));
        y.quantize(pass.context, pass.buffers.float(self.x), tokens, width);
        pass.buffers.put_quantized(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut dx = pass.buffers.take_gradient(self.x);
        let dy = pass.buffers.gradient(self.y);
        dx[..dy.len()].copy_from_slice(dy);
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}
