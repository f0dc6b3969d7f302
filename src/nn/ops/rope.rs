//! Rotary position embeddings (Su et al., "RoFormer", 2021), in the half-split form of Llama: element `i` of a head is
//! paired with element `i + head_dim / 2`.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::dispatch::Context;
use crate::nn::{BufferId, BufferKind, Operation, Pass, PlanBuilder};
use crate::{Error, Result};

/// Positions whose angles are computed at least.
const FIRST_POSITIONS: usize = 64;

/// How rotary frequencies are changed for contexts longer than those a model was first trained on.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// All frequencies divided by `factor` (Chen et al., "Position Interpolation", 2023).
    Linear {
        /// How many times longer the context became.
        factor: f32,
    },
    /// A sequence longer than the trained context has a larger base:
    /// `theta * (factor * length / trained - (factor - 1))^(dim / (dim - 2))` ("NTK-aware", as in transformers). A token keeps
    /// the rotation it was read with.
    Dynamic {
        /// How many times longer than trained sequences may become.
        factor: f32,
    },
    /// Long waves divided by `factor`, short ones kept, those between interpolated (Llama 3.1).
    Llama3 {
        /// Divisor of the long waves.
        factor: f32,
        /// Waves longer than `original / low_freq_factor` positions are long.
        low_freq_factor: f32,
        /// Waves shorter than `original / high_freq_factor` positions are short.
        high_freq_factor: f32,
        /// The context of the first training.
        original_max_position_embeddings: usize,
    },
}

/// Cosines and sines of the angles `position * frequency[i]`, `i < head_dim / 2`, computed as far as they are needed.
///
/// Frequencies `theta^(-2 i / head_dim)` and angles are rounded to f32 before their cosines are taken, because the models
/// that people load were trained with such angles.
#[derive(Debug)]
pub struct RotaryTable {
    head_dim: usize,
    theta: f64,
    scaling: Option<RopeScaling>,
    trained: usize,
    frequencies: Vec<f32>,
    /// Angles of the positions from 0 on.
    angles: RwLock<Arc<Angles>>,
    /// Angles of the last batch that ended beyond the trained context ([`RopeScaling::Dynamic`]).
    stretched: Mutex<Option<(usize, Arc<Angles>)>>,
}

/// Rows of `half` cosines and sines, the first for position `first`.
#[derive(Debug, Default)]
struct Angles {
    first: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Angles {
    fn new(frequencies: &[f32], positions: Range<usize>) -> Self {
        let first = positions.start;
        let angles = || positions.clone().flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        let cosines = angles().map(|angle| libm::cos(f64::from(angle)) as f32).collect();
        let sines = angles().map(|angle| libm::sin(f64::from(angle)) as f32).collect();
        Angles { first, cosines, sines }
    }
}

/// `theta^(-2 i / head_dim)` for `i < head_dim / 2`.
fn frequencies(theta: f64, head_dim: usize) -> Vec<f32> {
    let frequency = |i| libm::pow(theta, -2.0 * i as f64 / head_dim as f64) as f32;
    (0..head_dim / 2).map(frequency).collect()
}

impl RotaryTable {
    /// Radians of each pair from one position to the next (with [`RopeScaling::Dynamic`] those of short texts).
    pub fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// Angles for heads of `head_dim` elements in a model trained on sequences of up to `trained` tokens.
    ///
    /// # Panics
    /// If `head_dim` is odd or zero.
    pub fn new(trained: usize, head_dim: usize, theta: f32, scaling: Option<RopeScaling>) -> Self {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rotary embeddings need an even head_dim");
        let theta = f64::from(theta);
        let mut frequencies = frequencies(theta, head_dim);
        match scaling {
            Some(RopeScaling::Linear { factor }) => frequencies.iter_mut().for_each(|f| *f /= factor),
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }) => frequencies.iter_mut().for_each(|f| {
                let waves = original as f32 * *f / std::f32::consts::TAU; // in the original context
                let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                *f = (1.0 - kept) * (*f / factor) + kept * *f;
            }),
            Some(RopeScaling::Dynamic { .. }) | None => {}
        }
        let (angles, stretched) = Default::default();
        RotaryTable { head_dim, theta, scaling, trained, frequencies, angles, stretched }
    }

    /// Longest sequence.
    fn positions(&self) -> usize {
        match self.scaling {
            Some(RopeScaling::Dynamic { factor }) => (self.trained as f64 * f64::from(factor)) as usize,
            _ => self.trained,
        }
    }

    /// Angles for the tokens at `first..end` of sequences of which `end` tokens are known.
    fn angles(&self, first: usize, end: usize) -> Arc<Angles> {
        if let Some(RopeScaling::Dynamic { factor }) = self.scaling.filter(|_| end > self.trained) {
            return self.stretched_angles(f64::from(factor), first, end);
        }
        let half = self.head_dim / 2;
        let known = self.angles.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.cosines.len() >= end * half {
            return known;
        }
        let count = end.next_power_of_two().max(FIRST_POSITIONS).min(self.trained.max(end));
        let more = Arc::new(Angles::new(&self.frequencies, 0..count));
        *self.angles.write().unwrap_or_else(PoisonError::into_inner) = more.clone();
        more
    }

    /// One walk over a model asks for the same angles twice a layer: the last ones are kept.
    fn stretched_angles(&self, factor: f64, first: usize, end: usize) -> Arc<Angles> {
        let mut last = self.stretched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, angles)) = last.as_ref().filter(|(length, angles)| *length == end && angles.first == first) {
            return angles.clone();
        }
        let (dim, stretch) = (self.head_dim as f64, factor * end as f64 / self.trained as f64 - (factor - 1.0));
        let theta = self.theta * libm::pow(stretch, dim / (dim - 2.0));
        let angles = Arc::new(Angles::new(&frequencies(theta, self.head_dim), first..end));
        *last = Some((end, angles.clone()));
        angles
    }

    /// Rotates the tokens of each sequence, which stand at `positions`; the other way round with `back`.
    fn rotate_all(
        &self,
        context: &Context,
        positions: Range<usize>,
        width: usize,
        back: bool,
        x: &[f32],
        y: &mut [f32],
    ) {
        let (first, length) = (positions.start, positions.len());
        let angles = self.angles(first, positions.end);
        let (half, sign) = (self.head_dim / 2, if back { -1.0 } else { 1.0 });
        context.for_each(y.chunks_mut(width).zip(x.chunks(width)).enumerate(), |(token, (y, x))| {
            let row = first + token % length - angles.first;
            let (cosines, sines) = (&angles.cosines[row * half..][..half], &angles.sines[row * half..][..half]);
            for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
                let ((x0, x1), (y0, y1)) = (x.split_at(half), y.split_at_mut(half));
                for i in 0..half {
                    let (cosine, sine) = (cosines[i], sign * sines[i]);
                    y0[i] = x0[i] * cosine - x1[i] * sine;
                    y1[i] = x1[i] * cosine + x0[i] * sine;
                }
            }
        });
    }
}

/// Rotates each head by its token's position. The gradient is rotated back.
#[derive(Debug)]
pub struct Rope {
    x: BufferId,
    table: Arc<RotaryTable>,
    y: BufferId,
}

impl PlanBuilder {
    /// Rotates the heads of `x` `[tokens, heads * head_dim]`; `table` fixes `head_dim` and is shared by the layers.
    pub fn rope(&mut self, x: BufferId, table: &Arc<RotaryTable>) -> BufferId {
        let width = self.buffer_spec(x).width;
        assert_eq!(width % table.head_dim, 0, "rope: width is a multiple of head_dim");
        let y = self.buffer(BufferKind::Float, width);
        self.push(Rope { x, table: table.clone(), y });
        y
    }
}

impl Operation for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (first, length) = (pass.first_position(), pass.batch.length);
        let positions = self.table.positions();
        if first + length > positions {
            let expected = format!("at most {positions} tokens, the model's context");
            return Err(Error::invalid("sequence length", expected, first + length));
        }
        let mut y = pass.buffers.take_float(self.y);
        let (x, width) = (pass.buffers.float(self.x), pass.buffers.width(self.x));
        self.table.rotate_all(pass.context, first..first + length, width, false, x, &mut y[..x.len()]);
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut dx = pass.buffers.take_gradient(self.x);
        let (dy, width) = (pass.buffers.gradient(self.y), pass.buffers.width(self.y));
        self.table.rotate_all(pass.context, 0..pass.batch.length, width, true, dy, &mut dx[..dy.len()]);
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotated(table: &RotaryTable, position: usize, x: &[f32; 4]) -> [f32; 4] {
        let (context, mut y) = (Context::new(Default::default()).unwrap(), [0.0; 4]);
        table.rotate_all(&context, position..position + 1, 4, false, x, &mut y);
        y
    }

    #[test]
    fn rotates_pairs_by_position_and_back() {
        let (context, table) = (Context::new(Default::default()).unwrap(), RotaryTable::new(3, 4, 100.0, None));
        let (x, mut back) = ([1.0, 2.0, 0.0, 0.0], [0.0; 4]);
        let y = rotated(&table, 2, &x);
        // Angles at position 2: 2 and 2 / 10.
        let expected = [2f64.cos(), 2.0 * 0.2f64.cos(), 2f64.sin(), 2.0 * 0.2f64.sin()];
        for (y, expected) in y.iter().zip(expected) {
            assert!((f64::from(*y) - expected).abs() < 1e-6, "{y} {expected}");
        }
        table.rotate_all(&context, 2..3, 4, true, &y, &mut back);
        assert!(back.iter().zip(x).all(|(back, x)| (back - x).abs() < 1e-6));
    }

    #[test]
    fn scaling_changes_the_frequencies_it_should() {
        let table = |scaling| RotaryTable::new(8, 4, 100.0, Some(scaling));
        assert_eq!(table(RopeScaling::Linear { factor: 4.0 }).frequencies, [0.25, 0.025]);
        // Waves of 2 pi and 20 pi positions in a context of 50: 7.96 and 0.796 of them.
        let llama3 = |low_freq_factor, high_freq_factor| {
            let (factor, original_max_position_embeddings) = (2.0, 50);
            table(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings })
        };
        assert_eq!(llama3(1.0, 4.0).frequencies, [1.0, 0.05]);
        let between = llama3(0.0, 1.5915494).frequencies;
        assert!(between[0] == 1.0 && (between[1] - 0.075).abs() < 1e-6, "{between:?}");
        // Twice the trained length with factor 3: the base grows (3 * 2 - 2)^(4 / 2) = 16 times.
        let dynamic = table(RopeScaling::Dynamic { factor: 3.0 });
        let (x, plain) = ([1.0, 1.0, 0.0, 0.0], RotaryTable::new(99, 4, 1600.0, None));
        assert_eq!(rotated(&dynamic, 15, &x), rotated(&plain, 15, &x));
        assert_eq!(rotated(&dynamic, 7, &x), rotated(&RotaryTable::new(99, 4, 100.0, None), 7, &x));
        assert_eq!(dynamic.positions(), 24);
    }
}
