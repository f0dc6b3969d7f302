//! The memory of a run, known before its first step.
#![forbid(unsafe_code)]

use super::text_run::LanguageModelTrainer;
use crate::eval::language_model_bytes;

/// Bytes that a run holds while it trains, part by part. What the process has beside them (its program, the allocator's
/// rests) is not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryPlan {
    /// Latent weights.
    pub weights: usize,
    /// Their gradients.
    pub gradients: usize,
    /// The optimizer's state.
    pub optimizer: usize,
    /// Quantized copies of the weights.
    pub quantized: usize,
    /// Activations, their gradients, scratch memory of operations.
    pub activations: usize,
    /// What threads keep for products (panels, packed operands) and for the optimizer's updates.
    pub workspaces: usize,
    /// The text's tokens.
    pub data: usize,
    /// What an evaluation needs on top of all others, while it runs.
    pub evaluation: usize,
}

impl MemoryPlan {
    /// The parts of a step's peak with their names.
    pub fn parts(&self) -> [(&'static str, usize); 7] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("quantized weights", self.quantized),
            ("activations", self.activations),
            ("workspaces", self.workspaces),
            ("data", self.data),
        ]
    }

    /// Bytes at the peak of a step.
    pub fn step(&self) -> usize {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Of [`MemoryPlan::step`], what is in memory before the first step: the others are zeros that nothing has written.
    pub fn begun(&self) -> usize {
        self.weights + self.quantized + self.data
    }
}

impl LanguageModelTrainer {
    /// Plans the memory of the run's steps, and reserves that of their activations.
    pub fn memory_plan(&mut self) -> MemoryPlan {
        let (examples, context) = (self.config.batch_size, &self.context);
        let executor = self.objective.prepare(examples);
        let (activations, panels) = (executor.planned_bytes(), executor.panel_bytes(context));
        let workspaces = (panels + self.optimizer.workspace_bytes()) * context.threads();
        let [weights, gradients, quantized] = self.objective.model().store.memory_bytes();
        let (windows, length) = (self.config.eval_windows, self.config.seq_length);
        MemoryPlan {
            weights,
            gradients,
            optimizer: self.optimizer.state_bytes(),
            quantized,
            activations,
            workspaces,
            data: self.objective.dataset().memory_bytes(),
            evaluation: language_model_bytes(self.objective.model(), windows, length),
        }
    }
}
