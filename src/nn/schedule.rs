//! The order in which a plan's operations run, and when each value and gradient is alive.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::executor::Mode;
use super::plan::{BufferId, Plan, Rows};

/// What is done with an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Forward,
    /// The forward pass once more, where its values were not kept for the backward pass.
    Recompute,
    Backward,
}

/// One operation's turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) action: Action,
    pub(super) operation: usize,
}

/// Turns during which a value occupies its memory (both ends inclusive).
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) first: usize,
    pub(super) last: usize,
}

/// Lives of one buffer: of its values as first computed, of its values computed once more, of its gradient.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lives {
    pub(super) values: [Option<Life>; 2],
    pub(super) gradient: Option<Life>,
}

/// All operations forward, and in training all of them back. What cheap operations put out is computed once more
/// just before it is read. With `checkpoint_every` n > 0 only the inputs of every n blocks are kept in between; all that
/// their backward pass reads is computed once more (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
pub(super) fn schedule(plan: &Plan, mode: Mode, checkpoint_every: usize) -> Vec<Turn> {
    let turn = |action| move |operation| Turn { action, operation };
    let count = plan.operations.len();
    let mut turns: Vec<Turn> = (0..count).map(turn(Action::Forward)).collect();
    if mode != Mode::Train {
        return turns;
    }
    if checkpoint_every == 0 {
        let mut cheap = cheap_outputs(plan);
        for operation in (0..count).rev() {
            compute_again(plan, &plan.operations[operation].saved(), &mut cheap, &mut turns);
            turns.push(Turn { action: Action::Backward, operation });
        }
        return turns;
    }
    let mut end = count;
    for group in plan.blocks.chunks(checkpoint_every).rev() {
        let group = group[0].start..group[group.len() - 1].end;
        turns.extend((group.end..end).rev().map(turn(Action::Backward)));
        turns.extend(needed_again(plan, group.clone()).map(turn(Action::Recompute)));
        end = group.end;
    }
    turns.extend((0..end).rev().map(turn(Action::Backward)));
    turns
}

/// For each buffer the cheap operation that writes it, if one does.
fn cheap_outputs(plan: &Plan) -> Vec<Option<usize>> {
    let mut writers = vec![None; plan.buffers.len()];
    for (index, operation) in plan.operations.iter().enumerate().filter(|(_, operation)| operation.is_cheap()) {
        operation.outputs().into_iter().for_each(|id| writers[id.0] = Some(index));
    }
    writers
}

/// Turns of the cheap operations that write `buffers`, and of those whose outputs they read, each once.
fn compute_again(plan: &Plan, buffers: &[BufferId], cheap: &mut [Option<usize>], turns: &mut Vec<Turn>) {
    for id in buffers {
        let Some(operation) = cheap[id.0] else { continue };
        let outputs = plan.operations[operation].outputs();
        outputs.iter().for_each(|id| cheap[id.0] = None);
        compute_again(plan, &plan.operations[operation].inputs(), cheap, turns);
        turns.push(Turn { action: Action::Recompute, operation });
    }
}

/// The operations of `group` whose outputs the backward pass of the group reads, or another of them does.
fn needed_again(plan: &Plan, group: Range<usize>) -> impl Iterator<Item = usize> {
    let mut needed = vec![false; plan.buffers.len()];
    for operation in &plan.operations[group.clone()] {
        operation.saved().into_iter().for_each(|id| needed[id.0] = true);
    }
    let again: Vec<usize> = group
        .rev()
        .filter(|&index| {
            let operation = &plan.operations[index];
            let computed = operation.outputs().iter().any(|id| needed[id.0]);
            if computed {
                operation.inputs().into_iter().for_each(|id| needed[id.0] = true);
            }
            computed
        })
        .collect();
    again.into_iter().rev()
}

/// When each buffer's values and gradient are alive. In [`Mode::Generate`] what the decoder reads of the encoder stays for
/// the next tokens.
///
/// # Panics
/// If a buffer has two writers, or is read before it is written.
pub(super) fn lives(plan: &Plan, mode: Mode, turns: &[Turn]) -> Vec<Lives> {
    let mut lives = vec![Lives::default(); plan.buffers.len()];
    // Which of its two lives a buffer is in.
    let mut current = vec![0; plan.buffers.len()];
    for (now, turn) in turns.iter().enumerate() {
        let operation = &plan.operations[turn.operation];
        let read = if turn.action == Action::Backward { operation.saved() } else { operation.inputs() };
        if turn.action != Action::Backward {
            let version = usize::from(turn.action == Action::Recompute);
            for id in operation.outputs() {
                let life = &mut lives[id.0].values[version];
                assert!(life.is_none(), "buffer {} has two writers", id.0);
                *life = Some(Life { first: now, last: now });
                current[id.0] = version;
            }
        } else {
            // Readers come in forward order: the last of them is the first to write the gradient.
            for id in operation.inputs() {
                lives[id.0].gradient.get_or_insert(Life { first: now, last: now });
            }
            for id in operation.outputs() {
                if let Some(gradient) = &mut lives[id.0].gradient {
                    gradient.last = now;
                }
            }
        }
        for id in read {
            let life = &mut lives[id.0].values[current[id.0]];
            let life = life.as_mut().unwrap_or_else(|| panic!("{} reads buffer {} unwritten", operation.name(), id.0));
            life.last = now;
            let kept = mode == Mode::Generate && plan.buffer(id).rows == Rows::Source;
            if kept && !plan.is_of_encoder(operation.as_ref()) {
                *life = Life { first: 0, last: turns.len() };
            }
        }
    }
    lives
}
