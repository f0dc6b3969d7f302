//! Matrices whose quantized values have settled are left alone.
#![forbid(unsafe_code)]

use crate::nn::{ParamStore, Precision};

/// Steps, for each parameter, since its flip rate was last above a threshold. A matrix is frozen once they are as many as the
/// patience: its weights stay, and the gradient of its weights is no longer computed.
///
/// Single weights that oscillate between two values are frozen in Nagel et al., "Overcoming Oscillations in Quantization-Aware
/// Training" (2022), at the cost of two numbers a weight; here whole matrices are, by the flip rate that quantization counts
/// anyway.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Freezing {
    pub quiet_steps: Vec<u64>,
}

impl Freezing {
    pub fn new(store: &ParamStore) -> Self {
        Freezing { quiet_steps: vec![0; store.ids().count()] }
    }

    /// Takes in the flip rates of the last [`ParamStore::quantize`].
    pub fn observe(&mut self, store: &mut ParamStore, threshold: f32, patience: u64) {
        for id in store.ids().filter(|&id| store.spec(id).precision != Precision::F32) {
            let quiet = &mut self.quiet_steps[id.index()];
            // A frozen matrix stays so: nothing flips in it.
            *quiet = if store.flip_rate(id) <= threshold { *quiet + 1 } else { 0 };
        }
        self.put(store, patience);
    }

    /// Puts in force what is known.
    pub fn put(&self, store: &mut ParamStore, patience: u64) {
        for id in store.ids() {
            store.set_frozen(id, self.quiet_steps[id.index()] >= patience);
        }
    }

    /// How many matrices are frozen.
    pub fn frozen(store: &ParamStore) -> usize {
        store.ids().filter(|&id| store.is_frozen(id)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::{Context, ContextOptions};
    use crate::nn::{Init, ParamKind, ParamSpec};

    #[test]
    fn a_matrix_freezes_once_it_was_quiet_for_long_enough() {
        let context = Context::new(ContextOptions { threads: Some(1), isa: None }).unwrap();
        let spec = |name: &str, precision| ParamSpec {
            name: name.into(),
            shape: vec![4, 4],
            kind: ParamKind::Linear,
            precision,
            init: Init::Normal { std: 1.0 },
        };
        let specs = vec![spec("a", Precision::Ternary), spec("b", Precision::Ternary), spec("c", Precision::F32)];
        let mut store = ParamStore::new(specs).unwrap();
        store.initialize(1);
        store.quantize(&context).unwrap();
        let mut freezing = Freezing::new(&store);
        let ids: Vec<_> = store.ids().collect();
        for step in 0..6 {
            // One value of the second matrix flips at every other step.
            store.weight_mut(ids[1])[0] = if step / 2 % 2 == 0 { 9.0 } else { -9.0 };
            store.quantize(&context).unwrap();
            freezing.observe(&mut store, 0.01, 3);
            let frozen: Vec<bool> = ids.iter().map(|&id| store.is_frozen(id)).collect();
            assert_eq!(frozen, [step >= 2, false, false], "step {step}");
        }
        assert_eq!(Freezing::frozen(&store), 1);
    }
}
