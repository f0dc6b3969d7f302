//! The end of a model without a head.
#![forbid(unsafe_code)]

use crate::nn::{BufferId, Mode, Operation, Pass, PlanBuilder};
use crate::{Error, Result};

/// Gives buffers out as they are, one behind the other; there is no loss.
#[derive(Debug)]
pub struct Output {
    buffers: Vec<BufferId>,
}

impl PlanBuilder {
    /// Gives float buffers out. Ends a plan.
    pub fn output(&mut self, buffers: &[BufferId]) {
        self.push(Output { buffers: buffers.to_vec() });
    }
}

impl Operation for Output {
    fn name(&self) -> &'static str {
        "output"
    }

    fn inputs(&self) -> Vec<BufferId> {
        self.buffers.clone()
    }

    fn outputs(&self) -> Vec<BufferId> {
        Vec::new()
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        if pass.mode != Mode::Generate {
            return Err(Error::invalid("model", "one with a head, which has a loss", "one without"));
        }
        pass.logits = self.buffers.iter().flat_map(|&id| pass.buffers.float(id)).copied().collect();
        Ok(())
    }

    fn backward(&self, _: &mut Pass<'_>) -> Result<()> {
        Ok(())
    }
}
