//! Bits where they matter: a precision for each layer or parameter cluster under a mean budget.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::{Granularity, Precision, Quantizer};
use crate::{Error, Result};

/// A budget of 1.58 is meant to hold ternary, whose log2(3) is 1.58496: budgets are met to this many bits.
const BUDGET_TOLERANCE: f64 = 0.005;

/// Of a scale.
const SCALE_BITS: f64 = 32.0;

/// A part of a model that gets one precision.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BitUnit {
    /// Number of weights.
    pub elements: usize,
    /// What one unit of relative squared error in this part costs: the rise of the loss, measured, when its weights are
    /// disturbed by noise of their own power. Only ratios count. Not negative.
    pub importance: f64,
    /// Rows that have a scale of their own where the quantizer of training gives rows one (4 and 8 bits): 32 bits each, of which
    /// the budget takes all but one. 0: scales are not counted.
    pub rows: usize,
}

impl BitUnit {
    /// Bits it takes in the form `precision`, beside the one scale that every form has.
    pub fn bits(&self, precision: Precision) -> f64 {
        let per_row = Quantizer::for_training(precision).granularity == Granularity::Row;
        let scales = if per_row { self.rows.saturating_sub(1) } else { 0 };
        self.elements as f64 * precision.bits() + SCALE_BITS * scales as f64
    }
}

/// Chooses precisions under a mean bit budget: minimises `sum importance * distortion(precision)` subject to
/// `sum elements * bits <= mean_bits * sum elements`.
///
/// Method: every unit starts at the smallest allowed precision and climbs the lower convex hull of its (bits,
/// distortion) points; the step of largest gain per bit that still fits is taken until none fits (Shoham and Gersho,
/// 1988). At the budgets where the greedy order fits exactly this is the optimum; otherwise the loss against it is less
/// than the gain of one step of one unit. Ties: the unit of lower index.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveQuantizer {
    /// The budget: bits a weight on average (information, [`Precision::bits`]), met to 0.005.
    pub mean_bits: f64,
    /// No unit gets less.
    pub min_bits: f64,
    /// No unit gets more.
    pub max_bits: f64,
}

impl Default for AdaptiveQuantizer {
    fn default() -> Self {
        AdaptiveQuantizer { mean_bits: 1.58, min_bits: 1.0, max_bits: 8.0 }
    }
}

impl AdaptiveQuantizer {
    /// A precision for each of `units`. Errors: a budget or bound that is not a positive number, no precision between
    /// the bounds, a budget below the smallest precision, an importance that is negative or not finite.
    pub fn allocate(&self, units: &[BitUnit]) -> Result<Vec<Precision>> {
        let choices = self.choices()?;
        if let Some(index) = units.iter().position(|u| !(u.importance.is_finite() && u.importance >= 0.0)) {
            let name = format!("importance of unit {index}");
            return Err(Error::invalid(name, "a number of at least 0", units[index].importance));
        }
        let total: f64 = units.iter().map(|unit| unit.elements as f64).sum();
        let least: f64 = units.iter().map(|unit| unit.bits(choices[0])).sum();
        let mut left = (self.mean_bits + BUDGET_TOLERANCE) * total - least;
        let mut chosen = vec![0usize; units.len()];
        loop {
            let mut best: Option<(f64, usize, f64)> = None;
            for (index, (unit, &at)) in units.iter().zip(&chosen).enumerate() {
                let Some(next) = choices.get(at + 1) else { continue };
                let cost = unit.bits(*next) - unit.bits(choices[at]);
                let gain = unit.importance * (distortion(choices[at]) - distortion(*next));
                let rate = gain / cost.max(f64::MIN_POSITIVE);
                if gain > 0.0 && cost <= left && best.is_none_or(|(other, ..)| rate > other) {
                    best = Some((rate, index, cost));
                }
            }
            let Some((_, index, cost)) = best else { break };
            left -= cost;
            chosen[index] += 1;
        }
        Ok(chosen.into_iter().map(|at| choices[at]).collect())
    }

    /// The precisions between the bounds on the lower convex hull of (bits, distortion), from small to large.
    pub fn choices(&self) -> Result<Vec<Precision>> {
        let fields = [("mean_bits", self.mean_bits), ("min_bits", self.min_bits), ("max_bits", self.max_bits)];
        for (name, value) in fields {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::invalid(name, "a positive number", value));
            }
        }
        let bounds = self.min_bits - BUDGET_TOLERANCE..=self.max_bits + BUDGET_TOLERANCE;
        let mut hull: Vec<Precision> = Vec::new();
        for precision in Precision::ALL.into_iter().filter(|p| bounds.contains(&p.bits())) {
            while let [.., before, last] = hull[..]
                && slope(before, precision) <= slope(before, last)
            {
                hull.pop();
            }
            hull.push(precision);
        }
        let Some(smallest) = hull.first() else {
            let range = format!("{} to {}", self.min_bits, self.max_bits);
            return Err(Error::invalid("min_bits to max_bits", "a range that holds a precision", range));
        };
        if smallest.bits() > self.mean_bits + BUDGET_TOLERANCE {
            return Err(Error::invalid("mean_bits", format!("at least {:.3}", smallest.bits()), self.mean_bits));
        }
        Ok(hull)
    }
}

/// The change of distortion a bit between two precisions (negative).
fn slope(small: Precision, large: Precision) -> f64 {
    (distortion(large) - distortion(small)) / (large.bits() - small.bits())
}

/// Mean squared error relative to the variance on Gaussian weights, of the default quantizer with a least-squares
/// output scale; 4 and 8 bits with rows of 256. `tests/quant_weights.rs` measures them.
pub fn distortion(precision: Precision) -> f64 {
    match precision {
        Precision::Binary => 0.3634,
        Precision::Ternary => 0.213,
        Precision::Int2 => 0.1188,
        Precision::FiveLevel => 0.0822,
        Precision::Int4 => 0.0156,
        Precision::Int8 => 0.000_048,
        Precision::F32 => 0.0,
    }
}

/// Bits a weight on average of `units` at `precisions`, as [`BitUnit::bits`] counts them.
///
/// # Panics
/// If the slices have different lengths.
pub fn mean_bits(units: &[BitUnit], precisions: &[Precision]) -> f64 {
    assert_eq!(units.len(), precisions.len(), "mean_bits: one precision a unit");
    let bits: f64 = units.iter().zip(precisions).map(|(unit, &p)| unit.bits(p)).sum();
    bits / units.iter().map(|unit| unit.elements as f64).sum::<f64>().max(1.0)
}
