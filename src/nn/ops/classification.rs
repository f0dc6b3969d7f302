//! Heads of tasks: classes of sequences or tokens, spans, numbers.
#![forbid(unsafe_code)]

use super::cross_entropy::{counted_targets, cross_entropy};
use crate::nn::{BufferId, BufferKind, Mode, Operation, Pass, PlanBuilder, Rows};
use crate::{Error, Result};

/// What is predicted, and how the loss measures it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    /// A class for each row: mean cross entropy, in nats.
    Classes,
    /// First and last token of a span of each sequence, by two scores of each token: mean cross entropy over the tokens.
    Spans,
    /// A number for each column of each row: mean squared error.
    Numbers,
}

/// The loss of a task on the scores that a linear layer gives. In [`Mode::Generate`] the scores are the output.
#[derive(Debug)]
pub struct Classification {
    task: Task,
    scores: BufferId,
    gradient: BufferId,
}

impl PlanBuilder {
    /// A class below the buffer's width for each of its rows (tokens or sequences): as many targets. Ends a plan.
    pub fn classes_head(&mut self, scores: BufferId) {
        self.classification(Task::Classes, scores);
    }

    /// A span of each sequence; `scores` `[tokens, 2]`, targets `[sequences, 2]`: positions of the first and the last token
    /// of the span, or [`crate::nn::IGNORED`]. Ends a plan.
    pub fn spans_head(&mut self, scores: BufferId) {
        let spec = self.buffer_spec(scores);
        assert_eq!((spec.rows, spec.width), (Rows::Tokens, 2), "spans_head: two scores of each token");
        self.classification(Task::Spans, scores);
    }

    /// Numbers for each row; [`crate::nn::Batch::values`] are the true ones. Ends a plan.
    pub fn numbers_head(&mut self, scores: BufferId) {
        self.classification(Task::Numbers, scores);
    }

    fn classification(&mut self, task: Task, scores: BufferId) {
        let gradient = self.buffer_beside(scores, BufferKind::Float, self.buffer_spec(scores).width);
        self.push(Classification { task, scores, gradient });
    }
}

impl Operation for Classification {
    fn name(&self) -> &'static str {
        "classification"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.scores]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.gradient]
    }

    fn saved(&self) -> Vec<BufferId> {
        vec![self.gradient]
    }
    /// Loss and gradient at once; the scores are few.
    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        if pass.mode == Mode::Generate {
            pass.logits = pass.buffers.float(self.scores).to_vec();
            return Ok(());
        }
        let mut gradient = pass.buffers.take_float(self.gradient);
        let scores = pass.buffers.float(self.scores);
        let found = match self.task {
            Task::Classes => self.classes(pass, scores, &mut gradient[..scores.len()]),
            Task::Spans => self.spans(pass, scores, &mut gradient[..scores.len()]),
            Task::Numbers => self.numbers(pass, scores, &mut gradient[..scores.len()]),
        };
        pass.buffers.put_float(self.gradient, gradient);
        pass.loss = found?;
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut gradient = pass.buffers.take_gradient(self.scores);
        let computed = pass.buffers.float(self.gradient);
        gradient[..computed.len()].copy_from_slice(computed);
        pass.buffers.put_gradient(pass.context, self.scores, gradient);
        Ok(())
    }
}

impl Classification {
    fn classes(&self, pass: &Pass<'_>, scores: &[f32], gradient: &mut [f32]) -> Result<f64> {
        let (rows, width) = (pass.buffers.rows(self.scores), pass.buffers.width(self.scores));
        let counted = counted_targets(pass.batch.targets, rows, width, "the number of classes")?;
        gradient.copy_from_slice(scores);
        Ok(mean_loss(pass, gradient, width, counted))
    }

    fn spans(&self, pass: &Pass<'_>, scores: &[f32], gradient: &mut [f32]) -> Result<f64> {
        let (sequences, length) = (pass.batch.sequences, pass.batch.length);
        let counted = counted_targets(pass.batch.targets, 2 * sequences, length, "the sequence length")?;
        // First and last are two rows of `length` scores each.
        let places = || (0..2 * sequences * length).map(|i| (i / (2 * length), i / length % 2, i % length));
        let token = |(sequence, role, position)| (sequence * length + position) * 2 + role;
        let mut rows: Vec<f32> = places().map(|place| scores[token(place)]).collect();
        let loss = mean_loss(pass, &mut rows, length, counted);
        places().zip(rows).for_each(|(place, value)| gradient[token(place)] = value);
        Ok(loss)
    }

    fn numbers(&self, pass: &Pass<'_>, scores: &[f32], gradient: &mut [f32]) -> Result<f64> {
        let values = pass.batch.values;
        if values.len() != scores.len() {
            return Err(Error::shape("step", "values", scores.len(), values.len()));
        }
        let factor = 2.0 * pass.gradient_scale / scores.len() as f32;
        let mut sum = 0f64;
        for (gradient, (score, value)) in gradient.iter_mut().zip(scores.iter().zip(values)) {
            let off = score - value;
            sum += f64::from(off) * f64::from(off);
            *gradient = factor * off;
        }
        Ok(sum / scores.len() as f64)
    }
}

/// The mean loss of rows of scores, whose place the gradient takes.
fn mean_loss(pass: &Pass<'_>, scores: &mut [f32], width: usize, counted: usize) -> f64 {
    let mut losses = vec![0.0; scores.len() / width];
    let scale = Some(pass.gradient_scale / counted as f32);
    cross_entropy(pass.context.kernels(), scores, width, pass.batch.targets, &mut losses, scale);
    losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / counted as f64
}
