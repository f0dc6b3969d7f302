//! Steepest descent under the max or the spectral norm: the exact step of the linearised problem on such a ball.
#![forbid(unsafe_code)]

use super::direction::{BLOCK, Direction, Entry, Moments};
use super::newton_schulz::{NewtonSchulz, NewtonSchulzPrecision};
use super::trust_region::{Ball, TrustNorm};
use crate::dispatch::Context;
use crate::kernels::UpdateSums;
use crate::nn::{ParamKind, ParamSpec, ParamStore};
use crate::quant::Coding;

/// What the steps of [`SteepestDescent`] are made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct SteepestSettings {
    pub norm: TrustNorm,
    /// Of the running mean of the gradients, `m = momentum m + (1 - momentum) g`.
    pub momentum: f64,
    /// Root mean square of a step's elements for a learning rate of 1.
    pub rms: f64,
    pub iterations: usize,
    /// Of Newton-Schulz products.
    pub precision: NewtonSchulzPrecision,
}

/// A direction for the tensors a norm reaches, and another optimizer's for the others.
///
/// Over a ball `|u| <= b`, `<m, u>` is largest for `b sign(m)` in the max norm and for `b U V^T` (of `m = U S V^T`) in the
/// spectral norm: every element, or every singular value, moves equally far. `m` is Nesterov's momentum, `momentum m +
/// (1 - momentum) g`. The spectral norm reaches linear matrices ("Muon", Jordan 2024; Bernstein and Newhouse, "Old
/// Optimizer, New Norm", 2024), the max norm every tensor. The length is chosen so that the elements' root mean square is
/// [`SteepestSettings::rms`]: the learning rate then means the same as for AdamW, whose steps have 0.2 to 0.4.
///
/// State: two f32 per weight of its tensors, the momentum and the step before (for the hypergradient).
#[derive(Debug)]
pub(super) struct SteepestDescent {
    inner: Box<dyn Direction>,
    settings: SteepestSettings,
    moments: Moments,
    newton_schulz: NewtonSchulz,
    weight_decay: f32,
}

/// Whether the steps of a tensor are shaped by `norm`.
pub(super) fn reaches(norm: TrustNorm, spec: &ParamSpec) -> bool {
    match norm {
        TrustNorm::L2 => false,
        TrustNorm::Max => true,
        TrustNorm::Spectral => {
            spec.kind == ParamKind::Linear && matches!(spec.shape[..], [rows, cols] if rows > 1 && cols > 1)
        }
    }
}

impl SteepestDescent {
    /// `inner` must cover the tensors that [`reaches`] leaves out.
    pub fn new(store: &ParamStore, inner: Box<dyn Direction>, settings: SteepestSettings) -> Self {
        let moments =
            Moments::covering(store, &["steepest.momentum", "steepest.update"], |spec| reaches(settings.norm, spec));
        let newton_schulz = NewtonSchulz::new(settings.iterations).with_precision(settings.precision);
        SteepestDescent { inner, settings, moments, newton_schulz, weight_decay: 0.0 }
    }

    /// Largest element, or singular value, of a step at rate 1.
    fn length(&self, shape: &[usize]) -> f64 {
        match (self.settings.norm, shape) {
            // Of a matrix with equal singular values s, the root mean square is s / sqrt(longer side).
            (TrustNorm::Spectral, &[rows, cols]) => self.settings.rms * (rows.max(cols) as f64).sqrt(),
            _ => self.settings.rms,
        }
    }

    /// Turns the momentum in `update` into the step.
    fn shape_update(&self, context: &Context, shape: &[usize], update: &mut [f32]) {
        let length = self.length(shape) as f32;
        match (self.settings.norm, shape) {
            (TrustNorm::Spectral, &[rows, cols]) => {
                self.newton_schulz.orthogonalize(context, rows, cols, length, update)
            }
            _ => context.for_each(update.chunks_mut(BLOCK), |block| {
                // A zero stays where it is.
                block.iter_mut().for_each(|u| *u = if *u == 0.0 { 0.0 } else { length.copysign(*u) });
            }),
        }
    }
}

impl Direction for SteepestDescent {
    fn moments(&self) -> &Moments {
        self.inner.moments()
    }

    fn moments_mut(&mut self) -> &mut Moments {
        self.inner.moments_mut()
    }

    fn more_moments(&self) -> Option<&Moments> {
        Some(&self.moments)
    }

    fn more_moments_mut(&mut self) -> Option<&mut Moments> {
        Some(&mut self.moments)
    }

    fn advance(
        &mut self,
        context: &Context,
        store: &mut ParamStore,
        weight_decay: f32,
        bias: f32,
        all: &mut Vec<UpdateSums>,
    ) {
        self.inner.advance(context, store, weight_decay, bias, all);
        self.weight_decay = weight_decay;
        let new_share = (1.0 - self.settings.momentum) as f32;
        let (lean, kernels) = (bias - new_share, context.kernels());
        let mut moments = std::mem::take(&mut self.moments);
        let tensors = moments.pairs_mut().zip(store.ids()).zip(all);
        // One task a tensor: a product of this size is not worth splitting between threads.
        context.for_each(tensors, |(((momentum, update), id), found)| {
            if momentum.is_empty() || store.is_frozen(id) {
                return;
            }
            let inputs = || store.stored_gradient(id).blocks().zip(store.stored_weight(id).blocks());
            let blocks = momentum.chunks_mut(BLOCK).zip(update.chunks_mut(BLOCK)).zip(inputs());
            let mut sums = context.sum(blocks, |((m, u), (g, w))| {
                let mut advance = |g: &[f32], w: &[f32]| kernels.steepest_momentum(g, w, (new_share, lean), m, u);
                g.read(kernels, true, |g| w.read(kernels, true, |w| advance(g, w)))
            });
            self.shape_update(context, &store.spec(id).shape, update);
            sums += context.sum(update.chunks(BLOCK).zip(inputs()), |(u, (g, w))| {
                g.read(kernels, true, |g| w.read(kernels, true, |w| kernels.steepest_sums(g, w, u)))
            });
            *found = sums;
        });
        self.moments = moments;
    }

    fn apply(&self, context: &Context, store: &mut ParamStore, rates: &[f32], step: u64) {
        self.inner.apply(context, store, rates, step);
        let kernels = context.kernels();
        context.install(|| {
            for id in store.ids() {
                let update = self.moments.get(1, id.index());
                let rate = rates[id.index()];
                let decay = f64::from(self.decoupled_decay(id.index(), self.weight_decay));
                let keep = (1.0 - f64::from(rate) * decay) as f32;
                let rounding = store.weight_rounding(id, step);
                let blocks = store.stored_for_update(id).0.blocks().zip(update.chunks(BLOCK)).enumerate();
                context.for_each(blocks, |(block, (weight, update))| {
                    let coding = Coding { is_signed: true, first: block * BLOCK, rounding };
                    weight.update(kernels, coding, |weight| kernels.steepest_apply(update, keep, rate, weight));
                });
            }
        });
    }

    fn decoupled_decay(&self, parameter: usize, weight_decay: f32) -> f32 {
        let entry = &self.moments.entries[parameter];
        match (entry.is_covered(), entry.decays) {
            (true, true) => weight_decay,
            (true, false) => 0.0,
            (false, _) => self.inner.decoupled_decay(parameter, weight_decay),
        }
    }

    fn workspace_bytes(&self) -> usize {
        let of_entry = |entry: &Entry| match (self.settings.norm, &entry.shape[..]) {
            (TrustNorm::Spectral, &[rows, cols]) if entry.is_covered() => {
                self.newton_schulz.workspace_bytes(rows, cols)
            }
            _ => 0,
        };
        self.moments.entries.iter().map(of_entry).max().unwrap_or(0)
    }

    fn ball(&self, parameter: usize) -> Option<Ball> {
        let entry = &self.moments.entries[parameter];
        entry.is_covered().then(|| Ball {
            length: self.length(&entry.shape),
            count: match self.settings.norm {
                TrustNorm::Spectral => entry.shape.iter().copied().min().unwrap_or(1),
                _ => entry.len,
            },
        })
    }
}
