//! What a model remembers of the tokens already read: keys and values, states of recurrent layers.
#![forbid(unsafe_code)]

use crate::tensor::AlignedBuffer;
use crate::{Error, Result};

/// One layer's keys and values, `[sequences, capacity, width]`.
#[derive(Debug)]
pub struct LayerCache {
    /// Keys.
    pub keys: AlignedBuffer<f32>,
    /// Values.
    pub values: AlignedBuffer<f32>,
}

/// One recurrent layer's state, as the operation lays it out.
#[derive(Debug)]
struct State {
    /// Before the batch at work.
    before: Vec<f32>,
    /// After it.
    after: Vec<f32>,
}

/// Keys and values of every attention layer for up to `capacity` tokens, and states of recurrent layers.
#[derive(Debug)]
pub struct KeyValueCache {
    /// One entry for each attention operation, in plan order.
    pub layers: Vec<LayerCache>,
    states: Vec<State>,
    sequences: usize,
    capacity: usize,
    length: usize,
}

impl KeyValueCache {
    /// An empty cache: `widths` holds each attention layer's `kv_heads * head_dim`.
    pub fn new(sequences: usize, capacity: usize, widths: &[usize]) -> Self {
        let layer = |width: &usize| LayerCache {
            keys: AlignedBuffer::zeroed(sequences * capacity * width),
            values: AlignedBuffer::zeroed(sequences * capacity * width),
        };
        let layers = widths.iter().map(layer).collect();
        KeyValueCache { layers, states: Vec::new(), sequences, capacity, length: 0 }
    }

    /// With states of zeros: `widths` holds each recurrent layer's elements for one sequence
    /// ([`super::Plan::state_widths`]).
    pub fn with_states(mut self, widths: &[usize]) -> Self {
        let state = |width: &usize| State { before: vec![], after: vec![0.0; self.sequences * width] };
        self.states = widths.iter().map(state).collect();
        self
    }

    /// The state of a recurrent layer before the batch at work.
    pub(super) fn state_before(&self, layer: usize) -> &[f32] {
        &self.states[layer].before
    }

    /// The state of a recurrent layer after the batch at work.
    pub(super) fn state_after(&mut self, layer: usize) -> &mut [f32] {
        &mut self.states[layer].after
    }

    /// A batch begins: its states are those after the last one, however often a layer is computed.
    pub(super) fn begin(&mut self) {
        self.states.iter_mut().for_each(|state| state.before.clone_from(&state.after));
    }

    /// Error: another number of sequences, or states for another plan.
    pub(super) fn check(&self, sequences: usize, state_widths: &[usize]) -> Result<()> {
        let fits = self.states.len() == state_widths.len()
            && self.states.iter().zip(state_widths).all(|(state, width)| state.after.len() == self.sequences * width);
        if fits && (state_widths.is_empty() || self.sequences == sequences) {
            return Ok(());
        }
        let expected = format!("{sequences} sequences and states of {state_widths:?} elements");
        let found: Vec<usize> = self.states.iter().map(|state| state.after.len()).collect();
        Err(Error::invalid("cache", expected, format!("{} sequences, in all {found:?}", self.sequences)))
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Most tokens of a sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens of each sequence read so far: the position of the next token.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets all tokens from position `length` on. States know no positions: with some, anything but 0 or the tokens read
    /// is refused.
    pub fn truncate(&mut self, length: usize) -> Result<()> {
        if length >= self.length {
            return Ok(());
        }
        if length > 0 && !self.states.is_empty() {
            return Err(Error::invalid("length", "0, for a recurrent model", length));
        }
        self.clear();
        self.length = length;
        Ok(())
    }

    /// Sequence `s` becomes what sequence `rows[s]` was: for beams.
    ///
    /// # Panics
    /// If there is not one row for each sequence, or a row is no sequence.
    pub fn select(&mut self, rows: &[usize]) {
        assert_eq!(rows.len(), self.sequences, "select: a row for every sequence");
        for layer in &mut self.layers {
            for kept in [&mut layer.keys, &mut layer.values] {
                select_rows(kept, rows);
            }
        }
        self.states.iter_mut().for_each(|state| select_rows(&mut state.after, rows));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.states.iter_mut().for_each(|state| state.after.fill(0.0));
        self.length = 0;
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}

/// Row `i` of `matrix`, which has as many rows as there are `rows`, becomes row `rows[i]`.
fn select_rows(matrix: &mut [f32], rows: &[usize]) {
    let before = matrix.to_vec();
    let width = matrix.len() / rows.len();
    let picked = rows.iter().map(|row| &before[row * width..][..width]);
    matrix.chunks_exact_mut(width.max(1)).zip(picked).for_each(|(row, picked)| row.copy_from_slice(picked));
}
