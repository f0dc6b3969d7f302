//! Bit budgets against every allocation.

use hybridq::quant::{AdaptiveQuantizer, BitUnit, Precision, distortion, mean_bits};
use proptest::prelude::*;

fn cost(units: &[BitUnit], precisions: &[Precision]) -> f64 {
    units.iter().zip(precisions).map(|(unit, &p)| unit.importance * distortion(p)).sum()
}

/// The least cost of all allocations of `choices` that meet the budget.
fn best(units: &[BitUnit], choices: &[Precision], budget: f64) -> f64 {
    let mut least = f64::INFINITY;
    for number in 0..choices.len().pow(units.len() as u32) {
        let pick = |i: usize| choices[number / choices.len().pow(i as u32) % choices.len()];
        let precisions: Vec<Precision> = (0..units.len()).map(pick).collect();
        if mean_bits(units, &precisions) <= budget + 0.005 {
            least = least.min(cost(units, &precisions));
        }
    }
    least
}

#[test]
fn equal_units_at_the_default_budget_are_ternary() {
    let units = [BitUnit { elements: 10, importance: 1.0, rows: 0 }; 4];
    let precisions = AdaptiveQuantizer::default().allocate(&units).unwrap();
    assert_eq!(precisions, [Precision::Ternary; 4]);
}

#[test]
fn important_units_get_more() {
    let units: Vec<BitUnit> =
        [1.0, 0.01, 0.01, 0.01].iter().map(|&importance| BitUnit { elements: 100, importance, rows: 0 }).collect();
    let precisions = AdaptiveQuantizer { mean_bits: 1.9, ..Default::default() }.allocate(&units).unwrap();
    assert!(precisions[0].bits() >= 4.0 && precisions[1..].iter().all(|p| p.bits() < 2.5), "{precisions:?}");
}

#[test]
fn bounds_and_errors() {
    let units = [BitUnit { elements: 10, importance: 1.0, rows: 0 }; 2];
    let allocate = |mean_bits, min_bits, max_bits| AdaptiveQuantizer { mean_bits, min_bits, max_bits }.allocate(&units);
    assert_eq!(allocate(32.0, 1.0, 8.0).unwrap(), [Precision::Int8; 2]);
    assert_eq!(allocate(32.0, 1.0, 32.0).unwrap(), [Precision::F32; 2]);
    assert_eq!(allocate(4.0, 4.0, 4.0).unwrap(), [Precision::Int4; 2]);
    assert!(allocate(1.58, 2.0, 8.0).is_err(), "a budget below every choice");
    assert!(allocate(6.0, 5.0, 7.0).is_err(), "no choice between the bounds");
    assert!(allocate(f64::NAN, 1.0, 8.0).is_err() && allocate(2.0, -1.0, 8.0).is_err());
    let broken = [BitUnit { elements: 1, importance: f64::NAN, rows: 0 }];
    assert!(AdaptiveQuantizer::default().allocate(&broken).is_err());
    assert_eq!(AdaptiveQuantizer::default().allocate(&[]).unwrap(), []);
}

proptest! {
    /// Within the budget, never better than the best, and worse by less than the largest single step.
    #[test]
    fn close_to_the_best_allocation(
        units in proptest::collection::vec((1usize..20, 0.0f64..10.0), 1..5), budget in 1.0f64..6.0,
    ) {
        let units: Vec<BitUnit> =
            units.into_iter().map(|(elements, importance)| BitUnit { elements, importance, rows: 0 }).collect();
        let precisions = AdaptiveQuantizer { mean_bits: budget, ..Default::default() }.allocate(&units).unwrap();
        prop_assert!(mean_bits(&units, &precisions) <= budget + 0.005 + 1e-9);
        let choices = &Precision::ALL[..6];
        let (found, least) = (cost(&units, &precisions), best(&units, choices, budget));
        let step = units.iter().map(|u| u.importance).fold(0.0, f64::max) * distortion(Precision::Binary);
        prop_assert!(found >= least - 1e-9 && found <= least + step, "{} {} {:?}", found, least, precisions);
    }
}
