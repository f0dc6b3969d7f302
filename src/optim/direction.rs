//! What AdamW and SGD share: moments laid out per parameter, the check of the gradients, the walk over fixed blocks.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::moment_buffer::{ALIGN, MomentBuffer};
use super::optimizer::{TrainingState, UpdateReport};
use super::state::{OptimizerState, StatePrecision, StateTensor, StateValues};
use super::trust_region::Ball;
use crate::dispatch::Context;
use crate::kernels::UpdateSums;
use crate::nn::{ParamKind, ParamSpec, ParamStore};
pub(super) use crate::quant::BLOCK;
use crate::quant::{Stored, StoredMut};
use crate::{Error, Result};

/// What the maxima of blocks in 8 bits are called, behind the moment's name.
const MAXIMA: &str = "_maxima";

/// A plain optimizer split in two, so that a controller can set the rate of each parameter between the passes.
pub(super) trait Direction: std::fmt::Debug + Send + Sync {
    fn moments(&self) -> &Moments;
    fn moments_mut(&mut self) -> &mut Moments;

    /// Pass 1: takes the gradients in and appends the sums of each parameter's update. `bias`: lean on momentum.
    fn advance(
        &mut self,
        context: &Context,
        store: &mut ParamStore,
        weight_decay: f32,
        bias: f32,
        sums: &mut Vec<UpdateSums>,
    );

    /// Pass 2: applies the update of the last pass 1 with one rate per parameter. `step`: of the rounding of weights that
    /// are not kept in f32.
    fn apply(&self, context: &Context, store: &mut ParamStore, rates: &[f32], step: u64);

    /// Moments beside the first ones, of tensors those do not cover.
    fn more_moments(&self) -> Option<&Moments> {
        None
    }

    fn more_moments_mut(&mut self) -> Option<&mut Moments> {
        None
    }

    /// Bytes that a thread takes while it computes an update.
    fn workspace_bytes(&self) -> usize {
        0
    }

    /// The ball that the update of a parameter fills, where its norm is not l2.
    fn ball(&self, _parameter: usize) -> Option<Ball> {
        None
    }

    /// The decay that pass 2 adds to the update (`rate * decay * weight`); 0 where the update contains it already.
    fn decoupled_decay(&self, parameter: usize, weight_decay: f32) -> f32;
}

/// One parameter as the optimizer saw it when it was built.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether weight decay applies: to linear weights and embeddings.
    pub decays: bool,
    pub len: usize,
    start: usize,
    /// Elements of each moment: `len`, or 0 for a tensor that is not covered.
    held: usize,
}

impl Entry {
    fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.held
    }

    /// Whether these moments are of this tensor.
    pub fn is_covered(&self) -> bool {
        self.held == self.len
    }
}

/// How often an optimizer ran.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counters {
    pub updates: u64,
    /// Steps left out for a gradient that was not finite.
    pub skipped: u64,
}

/// Full-size state: `buffers[i]` holds moment `i` of every parameter.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    pub entries: Vec<Entry>,
    pub counters: Counters,
    names: &'static [&'static str],
    precision: StatePrecision,
    buffers: Vec<MomentBuffer>,
}

impl Moments {
    /// Moments of the tensors that `covers`; the others have entries and empty moments.
    pub fn covering(store: &ParamStore, names: &'static [&'static str], covers: impl Fn(&ParamSpec) -> bool) -> Self {
        let mut entries = Vec::new();
        let mut end = 0;
        for id in store.ids() {
            let spec = store.spec(id);
            let decays = matches!(spec.kind, ParamKind::Linear | ParamKind::Embedding);
            let held = if covers(spec) { spec.len() } else { 0 };
            entries.push(Entry {
                name: spec.name.clone(),
                shape: spec.shape.clone(),
                decays,
                len: spec.len(),
                start: end,
                held,
            });
            end += held.next_multiple_of(ALIGN);
        }
        let precision = StatePrecision::F32;
        let buffers = names.iter().map(|_| MomentBuffer::zeroed(precision, end)).collect();
        Moments { entries, counters: Counters::default(), names, precision, buffers }
    }

    /// The same in another precision, at zero.
    pub fn in_precision(self, precision: StatePrecision) -> Self {
        let end = self.entries.last().map_or(0, |last| last.start + last.held.next_multiple_of(ALIGN));
        let buffers = self.names.iter().map(|_| MomentBuffer::zeroed(precision, end)).collect();
        Moments { precision, buffers, ..self }
    }

    /// A moment in f32.
    pub fn get(&self, moment: usize, parameter: usize) -> &[f32] {
        &self.buffers[moment].floats()[self.entries[parameter].range()]
    }

    /// The first moment in f32.
    pub fn first_mut(&mut self, parameter: usize) -> &mut [f32] {
        let range = self.entries[parameter].range();
        &mut self.buffers[0].floats_mut()[range]
    }

    /// Both moments, to read.
    pub fn both(&self, parameter: usize) -> [Stored<'_>; 2] {
        [0, 1].map(|moment| self.buffers[moment].stored(self.entries[parameter].range()))
    }

    /// Both moments, to change.
    pub fn both_mut(&mut self, parameter: usize) -> [StoredMut<'_>; 2] {
        let range = self.entries[parameter].range();
        let [first, second] = &mut self.buffers[..] else { unreachable!("two moments") };
        [first.stored_mut(range.clone()), second.stored_mut(range)]
    }

    /// Both moments in f32 of every parameter, one after the other from either end.
    pub fn pairs_mut(&mut self) -> PairsMut<'_> {
        let [first, second] = &mut self.buffers[..] else { unreachable!("two moments") };
        PairsMut { entries: self.entries.iter(), moments: [first.floats_mut(), second.floats_mut()] }
    }

    pub fn tensors(&self) -> Vec<StateTensor<'_>> {
        let mut tensors = Vec::new();
        for (moment, name) in self.names.iter().enumerate() {
            for entry in self.entries.iter().filter(|entry| entry.is_covered()) {
                let (values, maxima) = self.buffers[moment].values(entry.range());
                tensors.push(StateTensor {
                    name: format!("{name}.{}", entry.name),
                    shape: entry.shape.clone(),
                    values,
                });
                tensors.extend(maxima.map(|maxima| StateTensor {
                    name: format!("{name}{MAXIMA}.{}", entry.name),
                    shape: vec![maxima.len()],
                    values: StateValues::F32(maxima.into()),
                }));
            }
        }
        tensors
    }

    /// Copies tensors from `state`, sets the counters; checks all before it changes anything.
    pub fn load(&mut self, state: &OptimizerState<'_>, counters: Counters) -> Result<()> {
        self.check_state(state)?;
        for (buffer, name) in self.buffers.iter_mut().zip(self.names) {
            for entry in self.entries.iter().filter(|entry| entry.is_covered()) {
                let (values, maxima) = buffer.bytes_mut(entry.range());
                let size = self.precision.bytes();
                values.copy_from_slice(state.bytes(&format!("{name}.{}", entry.name), &entry.shape, size)?);
                if let Some(maxima) = maxima {
                    let source = state.bytes(&format!("{name}{MAXIMA}.{}", entry.name), &[maxima.len()], 4)?;
                    bytemuck::cast_slice_mut(maxima).copy_from_slice(source);
                }
            }
        }
        self.counters = counters;
        Ok(())
    }

    /// Error: a tensor that [`Moments::load`] needs is missing or of another shape.
    pub fn check_state(&self, state: &OptimizerState<'_>) -> Result<()> {
        for name in self.names {
            for entry in self.entries.iter().filter(|entry| entry.is_covered()) {
                state.bytes(&format!("{name}.{}", entry.name), &entry.shape, self.precision.bytes())?;
                if self.precision == StatePrecision::Int8Blocks {
                    let blocks = entry.len.div_ceil(ALIGN);
                    state.bytes(&format!("{name}{MAXIMA}.{}", entry.name), &[blocks], 4)?;
                }
            }
        }
        Ok(())
    }

    /// Checks a step's inputs and finds the sum of squares of all gradients. A gradient that is not finite counts as a
    /// skipped step.
    pub fn check(&mut self, context: &Context, store: &ParamStore, state: &TrainingState) -> Result<GradientCheck> {
        for (name, value) in [("learning rate", state.learning_rate), ("weight decay", state.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::invalid(name, "a finite number, 0 or more", value));
            }
        }
        let fits = store.ids().count() == self.entries.len()
            && store.ids().zip(&self.entries).all(|(id, entry)| store.spec(id).shape == entry.shape);
        if !fits {
            return Err(Error::invalid("optimizer", "the parameters it was built for", "another store"));
        }
        let kernels = context.kernels();
        let mut total = 0.0;
        for (id, entry) in store.ids().zip(&self.entries) {
            let squares = |block: Stored<'_>| block.read(kernels, true, |block| kernels.sum_squares(block));
            let squares: f64 = context.sum(store.stored_gradient(id).blocks(), squares);
            if !squares.is_finite() {
                self.counters.skipped += 1;
                return Ok(GradientCheck::NotFinite(entry.name.clone()));
            }
            total += squares;
        }
        Ok(GradientCheck::SumOfSquares(total))
    }
}

/// See [`Moments::pairs_mut`].
pub(super) struct PairsMut<'a> {
    entries: std::slice::Iter<'a, Entry>,
    /// Of the entries that are left.
    moments: [&'a mut [f32]; 2],
}

impl<'a> Iterator for PairsMut<'a> {
    type Item = (&'a mut [f32], &'a mut [f32]);

    fn next(&mut self) -> Option<Self::Item> {
        let held = self.entries.next()?.held;
        let [first, second] = self.moments.each_mut().map(|moment| {
            let (own, rest) = std::mem::take(moment).split_at_mut(held.next_multiple_of(ALIGN));
            *moment = rest;
            &mut own[..held]
        });
        Some((first, second))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl DoubleEndedIterator for PairsMut<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let held = self.entries.next_back()?.held;
        let [first, second] = self.moments.each_mut().map(|moment| {
            let at = moment.len() - held.next_multiple_of(ALIGN);
            let (rest, own) = std::mem::take(moment).split_at_mut(at);
            *moment = rest;
            &mut own[..held]
        });
        Some((first, second))
    }
}

impl ExactSizeIterator for PairsMut<'_> {}

/// What [`Moments::check`] found.
pub(super) enum GradientCheck {
    SumOfSquares(f64),
    /// The first parameter with such a gradient.
    NotFinite(String),
}

/// Squared norm of `update + decay * weight`. Rounding can take an exact cancellation below zero.
pub(super) fn step_squares(sums: &UpdateSums, decay: f64) -> f64 {
    (sums.update_squares + decay * (2.0 * sums.update_weight + decay * sums.weight_squares)).max(0.0)
}

/// The state of a plain optimizer.
pub(super) fn plain_state(moments: &Moments) -> OptimizerState<'_> {
    let scalars = serde_json::to_value(moments.counters).expect("integers are JSON");
    OptimizerState { tensors: moments.tensors(), scalars }
}

/// A step of the plain optimizer: one rate for all.
pub(super) fn plain_step(
    direction: &mut dyn Direction,
    context: &Context,
    store: &mut ParamStore,
    state: &TrainingState,
) -> Result<UpdateReport> {
    let rate = state.learning_rate;
    let mut report =
        UpdateReport { lr_multiplier: 1.0, trust_radius: f32::INFINITY, efficiency: 1.0, ..UpdateReport::default() };
    if let GradientCheck::NotFinite(name) = direction.moments_mut().check(context, store, state)? {
        report.skipped = Some(name);
        return Ok(report);
    }
    let mut sums = Vec::new();
    direction.advance(context, store, state.weight_decay, 0.0, &mut sums);
    let rates: Vec<f32> = store.ids().map(|id| if store.is_frozen(id) { 0.0 } else { rate }).collect();
    direction.apply(context, store, &rates, state.step);
    let squares = sums.iter().zip(&rates).enumerate().map(|(parameter, (sums, &rate))| {
        let rate = f64::from(rate);
        rate * rate * step_squares(sums, f64::from(direction.decoupled_decay(parameter, state.weight_decay)))
    });
    report.update_norm = squares.sum::<f64>().sqrt();
    Ok(report)
}
