//! Precisions of the quantized matrices, planned anew while they are trained.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::objective::Objective;
use super::trainer::Trainer;
use crate::Result;
use crate::dispatch::Context;
use crate::nn::{ParamId, ParamStore, Precision, StepRandomness};
use crate::quant::{AdaptiveQuantizer, BitUnit, distortion, mean_bits};

/// The matrices whose precision may change.
fn matrices(store: &ParamStore) -> Vec<ParamId> {
    store.ids().filter(|&id| store.spec(id).precision != Precision::F32 && !store.spec(id).is_empty()).collect()
}

fn unit(store: &ParamStore, id: ParamId, importance: f64) -> BitUnit {
    let spec = store.spec(id);
    BitUnit { elements: spec.len(), importance, rows: spec.shape[0] }
}

impl<O: Objective> Trainer<O> {
    /// Bits a weight of the quantized matrices, with the scales beyond one each.
    pub(super) fn mean_bits(&self) -> f64 {
        let store = self.objective.store();
        let ids = matrices(store);
        let units: Vec<BitUnit> = ids.iter().map(|&id| unit(store, id, 0.0)).collect();
        let precisions: Vec<Precision> = ids.iter().map(|&id| store.spec(id).precision).collect();
        mean_bits(&units, &precisions)
    }

    /// Measures what each matrix's precision is worth and allots bits anew: [`AdaptiveQuantizer`] under a mean of
    /// `target_bits`. Gives the new precisions by name.
    ///
    /// A matrix's importance is the change of the loss on `examples` when it alone takes the smallest precision (the one above,
    /// where it has that already), over the change of its distortion: a forward pass for each matrix. A change of the wrong
    /// sign counts as no importance. Latent weights, gradients and moments are as before.
    pub(super) fn plan_precisions(
        &mut self,
        examples: &[usize],
        randomness: StepRandomness,
    ) -> Result<BTreeMap<String, Precision>> {
        let config = &self.config;
        let budget =
            AdaptiveQuantizer { mean_bits: config.target_bits, min_bits: config.min_bits, max_bits: config.max_bits };
        let choices = budget.choices()?;
        let (context, objective) = (&self.context, &mut self.objective);
        let before = objective.loss(context, examples, randomness)?;
        let ids = matrices(objective.store());
        let mut units = Vec::with_capacity(ids.len());
        for &id in &ids {
            let own = objective.store().spec(id).precision;
            let mut importance = 0.0;
            if let Some(&other) = choices.iter().find(|&&choice| choice != own) {
                requantize(context, objective.store_mut(), id, other)?;
                let change = objective.loss(context, examples, randomness)? - before;
                requantize(context, objective.store_mut(), id, own)?;
                importance = change / (distortion(other) - distortion(own));
            }
            let importance = if importance.is_finite() { importance.max(0.0) } else { 0.0 };
            units.push(unit(objective.store(), id, importance));
        }
        let precisions = budget.allocate(&units)?;
        let store = objective.store_mut();
        for (&id, &precision) in ids.iter().zip(&precisions) {
            store.set_precision(id, precision)?;
        }
        store.quantize(context)?;
        Ok(ids.iter().map(|&id| (store.spec(id).name.clone(), store.spec(id).precision)).collect())
    }
}

/// Puts one matrix in another precision.
fn requantize(context: &Context, store: &mut ParamStore, id: ParamId, precision: Precision) -> Result<()> {
    store.set_precision(id, precision)?;
    store.quantize_one(context, id).map(drop)
}
