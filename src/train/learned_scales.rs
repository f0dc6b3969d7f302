//! Scales of quantized weights that are learned with them.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::dispatch::Context;
use crate::nn::{ParamStore, Precision};
use crate::quant::OutputScale;

/// Decays of the moments.
const BETAS: (f32, f32) = (0.9, 0.99);
const EPSILON: f32 = 1e-12;
/// Step of a logarithm where the schedule is at its peak: 1.6 %. The learning rates of wide models, 2e-3 and less, would leave
/// scales where they were.
const RATE: f32 = 0.016;
/// Most that the logarithm of a factor may be off 0: factors of a quarter to four.
const LARGEST_LOG: f32 = 1.386_294_4;

/// Where the output scale of a quantized matrix comes from. Codes are decided by the same absmean rule in each case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightScale {
    /// The scale that decided the codes (BitNet b1.58).
    #[default]
    Absmean,
    /// The one of least squared error, `<W, q> / <q, q>`.
    LeastSquares,
    /// The one that decided the codes times a factor that is learned by the loss's gradient (as step sizes are in Esser et
    /// al., "Learned Step Size Quantization", 2020).
    Learned,
}

/// A factor on the output scale of each quantized matrix. With `Q` what the weights stand for, the gradient by the logarithm
/// of the factor is `<dL/dQ, Q>`, and straight-through gradients of weights are `dL/dQ`. Adam moves the logarithm.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct LearnedScales {
    /// For each parameter the logarithm of its factor and its moments; zeros for those that are not quantized.
    pub state: Vec<[f32; 3]>,
}

impl LearnedScales {
    pub fn new(store: &ParamStore) -> Self {
        LearnedScales { state: vec![[0.0; 3]; store.ids().count()] }
    }

    /// Moves the factors by the gradients in `store`, at update number `step` from 0, with `share` of their rate.
    /// [`ParamStore::quantize`] must follow.
    pub fn update(&mut self, context: &Context, store: &mut ParamStore, share: f32, step: u64) {
        let power = |beta: f32| 1.0 - libm::powf(beta, step as f32 + 1.0);
        for id in store.ids() {
            if store.spec(id).precision == Precision::F32 || store.is_frozen(id) {
                continue;
            }
            let Some(copy) = store.quantized(id) else { continue };
            let gradient = copy.inner_product(context, &store.gradient_values(id)) as f32;
            let [log, first, second] = &mut self.state[id.index()];
            *first = BETAS.0 * *first + (1.0 - BETAS.0) * gradient;
            *second = BETAS.1 * *second + (1.0 - BETAS.1) * gradient * gradient;
            let step = (*first / power(BETAS.0)) / ((*second / power(BETAS.1)).sqrt() + EPSILON);
            *log = (*log - share * RATE * step).clamp(-LARGEST_LOG, LARGEST_LOG);
        }
        self.put(store);
    }

    /// Puts the factors in force.
    pub fn put(&self, store: &mut ParamStore) {
        for id in store.ids() {
            let factor = libm::expf(self.state[id.index()][0]);
            store.set_output_scale(id, OutputScale { least_squares: false, factor });
        }
    }
}
