//! The auxiliary network: nine inputs, one hidden layer, a learning-rate multiplier and a trust radius.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::features::{FEATURES, RUNNING_FEATURES};
use crate::tensor::RandomStream;
use crate::{Error, Result};

/// Random stream of the hidden layer's initial weights (see [`RandomStream::new`]).
const INIT_PURPOSE: u32 = 40;

/// Hidden units of [`AuxiliaryNetwork::warm_started`].
pub(super) const WARM_HIDDEN_SIZE: usize = 16;

/// Bounds of the multiplier: 0.1 to 10.
const MULTIPLIER_HALF_RANGE: f32 = std::f32::consts::LN_10;
/// Logarithms of the bounds of the radius, 0.001 to 1: middle and half range.
const RADIUS_MIDDLE: f32 = -1.5 * std::f32::consts::LN_10;
const RADIUS_HALF_RANGE: f32 = 1.5 * std::f32::consts::LN_10;

/// Step of the output biases per unit of signal, in log units: a multiplier five times off is reached in some 30 steps
/// of full agreement.
const BIAS_STEP: f32 = 0.05;
/// The newest signal acts at once, on top of what has been learnt. Without it learning rate and gradient form an
/// undamped oscillator: the gradient turns only long after the best rate was passed.
const DAMPING: f32 = 0.3;
/// Agreement of gradient and last update that says nothing. Where training goes well it lies between -0.05 and 0.06 (ternary
/// decoder, AdamW and spectral steps at good rates): slightly negative for most of a run, because the best rate for many
/// steps is longer than the best one for the next (Wu et al., "Understanding Short-Horizon Bias in Stochastic
/// Meta-Optimization", 2018). Followed to zero, that bias alone takes the multiplier to 0.15.
const NEUTRAL_ALIGNMENT: f32 = 0.1;
/// Running mean of the reductions, in units of its own noise, below which it counts as 0.
const SIGNIFICANT: f32 = 2.0;
/// Pull of every output towards what the initial weights would give: only a signal that lasts moves it far.
const PRIOR: f32 = 0.02;
/// Share of a new value in the running reductions behind the radius.
const REDUCTION_SHARE: f32 = 0.1;
/// Agreement of actual with predicted reduction above which a constrained step earns a larger radius.
const GOOD_AGREEMENT: f32 = 0.25;

/// Reductions are clamped to +-this.
const REDUCTION_LIMIT: f32 = 1e12;

const ADAM_BETA1: f32 = 0.9;
const ADAM_BETA2: f32 = 0.999;
const ADAM_EPSILON: f32 = 1e-8;
/// Most outputs.
const OUTPUTS: usize = 3;

/// What the network decides for a step.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct AuxiliaryOutput {
    /// Factor on the learning rate, 0.1 to 10.
    pub multiplier: f32,
    /// Trust radius, 0.001 to 1.
    pub radius: f32,
    /// Lean on momentum, (-1, 1); 0 with two outputs.
    pub direction_bias: f32,
}

/// How the last step turned out.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Feedback {
    /// `cos(g_t, u_{t-1})`: the hypergradient of the learning rate, normalised and with its sign turned. Positive: a
    /// longer step would have been better.
    pub alignment: f32,
    /// `L_{t-1} - L_t`.
    pub actual_reduction: f32,
    /// First-order prediction, `<g_{t-1}, step>` of the step really made.
    pub predicted_reduction: f32,
    /// Whether the trust region shortened the step.
    pub constraint_active: bool,
}

/// How well the network's decisions turned out.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct AuxiliaryStatistics {
    /// Feedbacks taken in.
    pub samples: u64,
    /// Mean of the actual reductions.
    pub mean_reduction: f64,
    /// Share of feedbacks with a reduction above zero.
    pub success_rate: f64,
}

/// A 9 -> hidden -> 2 or 3 network (tanh) with its own Adam.
///
/// Outputs pass bounded maps in log space: `ln multiplier = ln10 tanh(z / ln10)`, likewise the radius about its middle,
/// `bias = tanh(z)`. The last layer starts at zero with biases that give multiplier 1, the initial radius and bias 0.
///
/// [`AuxiliaryNetwork::update_with_feedback`] back-propagates, through all layers, the gradient of the loss by the last
/// decision: for the multiplier `-cos(g_t, u_{t-1})`, the hypergradient made scale-free (Baydin et al., "Online Learning
/// Rate Adaptation with Hypergradient Descent", 2018), as far as it goes beyond +-0.1; for the radius a score of actual against predicted reduction;
/// plus a weak pull to what the initial weights would decide. Weights learn by Adam; output biases by plain gradient steps, so that the
/// size of a signal counts and noise averages out. Where the trust region bit, a wish for a longer step is not credited
/// to the multiplier, which had no effect.
///
/// For gradient descent on a quadratic the signal vanishes on average at the best fixed step, 2/(largest + smallest
/// curvature).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuxiliaryNetwork {
    hidden_size: usize,
    output_size: usize,
    learning_rate: f32,
    /// Hidden weights `[hidden, 9]`, hidden biases, output weights `[outputs, hidden]`: what Adam trains.
    weights: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    output_biases: Vec<f32>,
    initial_weights: Vec<f32>,
    initial_biases: Vec<f32>,
    updates: u64,
    /// Of the last [`AuxiliaryNetwork::decide`].
    inputs: [f32; FEATURES],
    /// Latest alignment, 0 before the first.
    alignment: f32,
    reduction: f32,
    reduction_variance: f32,
    predicted: f32,
    samples: u64,
    successes: u64,
    reduction_sum: f32,
}

impl AuxiliaryNetwork {
    /// A fresh network. Errors: no hidden units, not 2 or 3 outputs, a radius outside 0.001 to 1.
    pub fn new(
        hidden_size: usize,
        output_size: usize,
        learning_rate: f32,
        initial_radius: f32,
        seed: u64,
    ) -> Result<Self> {
        if hidden_size == 0 {
            return Err(Error::invalid("auxiliary_nn_hidden_size", "1 or more", hidden_size));
        }
        if !(2..=3).contains(&output_size) {
            return Err(Error::invalid("auxiliary_nn_output_size", "2 or 3", output_size));
        }
        if !(0.001..=1.0).contains(&initial_radius) {
            return Err(Error::invalid("initial_trust_radius", "0.001 to 1", initial_radius));
        }
        let mut stream = RandomStream::new(seed, INIT_PURPOSE, 0, 0);
        let mut weights = vec![0.0; hidden_size * (FEATURES + 1 + output_size)];
        // By groups of inputs: a group more leaves the weights of the others as they were.
        let std = 1.0 / (RUNNING_FEATURES as f64).sqrt();
        for inputs in [0..RUNNING_FEATURES, RUNNING_FEATURES..FEATURES] {
            for row in weights[..hidden_size * FEATURES].chunks_exact_mut(FEATURES) {
                row[inputs.clone()].fill_with(|| (stream.normal() * std) as f32);
            }
        }
        // The map reaches its bounds only in the limit: an initial radius on a bound starts a hair inside.
        let radius = ((libm::logf(initial_radius) - RADIUS_MIDDLE) / RADIUS_HALF_RANGE).clamp(-0.999, 0.999);
        let mut biases = vec![0.0; output_size];
        biases[1] = RADIUS_HALF_RANGE * libm::atanhf(radius);
        Ok(AuxiliaryNetwork {
            hidden_size,
            output_size,
            learning_rate,
            first_moment: vec![0.0; weights.len()],
            second_moment: vec![0.0; weights.len()],
            initial_weights: weights.clone(),
            weights,
            output_biases: biases.clone(),
            initial_biases: biases,
            updates: 0,
            inputs: [0.0; FEATURES],
            alignment: 0.0,
            reduction: 0.0,
            reduction_variance: 0.0,
            predicted: 0.0,
            samples: 0,
            successes: 0,
            reduction_sum: 0.0,
        })
    }

    /// A network with 16 hidden units that starts from meta-trained weights (`bench/meta_train.rs`: they make the multiplier fill
    /// the trust region where that shortened the way to a lower loss over many small tasks) instead of a neutral output.
    /// Errors: as [`AuxiliaryNetwork::new`].
    pub fn warm_started(output_size: usize, learning_rate: f32, initial_radius: f32) -> Result<Self> {
        let mut network = Self::new(WARM_HIDDEN_SIZE, output_size, learning_rate, initial_radius, 0)?;
        let weights: Vec<f32> = serde_json::from_str(include_str!("warm_start.json")).expect("checked by a test");
        network.set_weights(&weights)?;
        Ok(network)
    }

    /// Puts `weights` in the place of the hidden weights `[hidden, 9]`, the hidden biases and the output weights
    /// `[2, hidden]`, row-major; a third output keeps its own. Error: another number of weights, one that is not finite.
    pub fn set_weights(&mut self, weights: &[f32]) -> Result<()> {
        let expected = self.hidden_size * (FEATURES + 1 + 2);
        if weights.len() != expected {
            return Err(Error::invalid("auxiliary network: weights", expected, weights.len()));
        }
        self.weights[..expected].copy_from_slice(weights);
        self.initial_weights[..expected].copy_from_slice(weights);
        self.validate()
    }

    /// The decision for `inputs` ([`super::StateFeatures::observe`]); feedback that follows is about it.
    pub fn decide(&mut self, inputs: [f32; FEATURES]) -> AuxiliaryOutput {
        self.inputs = inputs;
        let mut outputs = self.forward();
        outputs[0] += DAMPING * self.alignment;
        AuxiliaryOutput {
            multiplier: libm::expf(bounded(outputs[0], MULTIPLIER_HALF_RANGE)).clamp(0.1, 10.0),
            radius: libm::expf(RADIUS_MIDDLE + bounded(outputs[1], RADIUS_HALF_RANGE)).clamp(0.001, 1.0),
            direction_bias: libm::tanhf(outputs[2]),
        }
    }

    /// Learns from how the last decision turned out. A feedback that is not finite is ignored.
    pub fn update_with_feedback(&mut self, feedback: &Feedback) {
        let Feedback { alignment, actual_reduction, predicted_reduction, constraint_active } = *feedback;
        if !(alignment.is_finite() && actual_reduction.is_finite() && predicted_reduction.is_finite()) {
            return;
        }
        // A diverging run must not overflow the squares.
        let [actual_reduction, predicted_reduction] =
            [actual_reduction, predicted_reduction].map(|reduction| reduction.clamp(-REDUCTION_LIMIT, REDUCTION_LIMIT));
        self.samples += 1;
        self.successes += u64::from(actual_reduction > 0.0);
        self.reduction_sum += actual_reduction;
        let alignment = beyond(alignment.clamp(-1.0, 1.0), NEUTRAL_ALIGNMENT);
        self.alignment = if constraint_active { alignment.min(0.0) } else { alignment };

        let radius_score = self.radius_score(actual_reduction, predicted_reduction, constraint_active);
        let outputs = self.forward();
        let initial = self.outputs_of(&self.initial_weights, &self.initial_biases);
        let pull = |output: usize| PRIOR * (outputs[output] - initial[output]);
        let slope = |output: usize, half_range: f32| {
            let t = libm::tanhf(outputs[output] / half_range);
            1.0 - t * t
        };
        let gradients = [
            slope(0, MULTIPLIER_HALF_RANGE) * -self.alignment + pull(0),
            slope(1, RADIUS_HALF_RANGE) * -radius_score + pull(1),
            // Momentum that still points downhill has earned trust.
            slope(2, 1.0) * -alignment + pull(2),
        ];
        self.back_propagate(&gradients[..self.output_size]);
    }

    /// Feedbacks, mean reduction and success rate so far.
    pub fn statistics(&self) -> AuxiliaryStatistics {
        let samples = self.samples.max(1) as f64;
        AuxiliaryStatistics {
            samples: self.samples,
            mean_reduction: f64::from(self.reduction_sum) / samples,
            success_rate: self.successes as f64 / samples,
        }
    }

    /// The network as JSON text, optimizer state and statistics included.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers are JSON")
    }

    /// The network from [`AuxiliaryNetwork::to_json`]. Errors: text that does not parse, sizes that do not fit each
    /// other, numbers that are not finite.
    pub fn from_json(text: &str) -> Result<Self> {
        let network: Self =
            serde_json::from_str(text).map_err(|error| Error::invalid("auxiliary network", "its JSON form", error))?;
        network.validate()?;
        Ok(network)
    }

    pub(super) fn validate(&self) -> Result<()> {
        let count = self.hidden_size.saturating_mul(FEATURES + 1 + self.output_size);
        let all = [&self.weights, &self.initial_weights, &self.first_moment, &self.second_moment];
        let biases = [&self.output_biases, &self.initial_biases];
        let fits = self.hidden_size > 0
            && (2..=3).contains(&self.output_size)
            && all.iter().all(|values| values.len() == count)
            && biases.iter().all(|values| values.len() == self.output_size);
        if !fits {
            let expected = format!("{count} weights for {} hidden units", self.hidden_size);
            return Err(Error::invalid("auxiliary network", expected, self.weights.len()));
        }
        match all.into_iter().chain(biases).flatten().find(|value| !value.is_finite()) {
            Some(value) => Err(Error::invalid("auxiliary network", "finite numbers", value)),
            None => Ok(()),
        }
    }

    /// Whether `other` has the same inputs and outputs.
    pub(super) fn has_shape_of(&self, other: &Self) -> bool {
        (self.hidden_size, self.output_size) == (other.hidden_size, other.output_size)
    }

    /// +1: the radius may grow, -1: it must shrink; 0 for what noise explains.
    ///
    /// Both reductions are running means. The noise of single losses is added to the prediction, and a mean within twice
    /// that noise counts as 0: without that, noise would only ever shrink the radius, since growth needs an agreement that a
    /// prediction from the batch's own gradient rarely grants.
    fn radius_score(&mut self, actual: f32, predicted: f32, constraint_active: bool) -> f32 {
        let difference = actual - self.reduction;
        self.reduction += REDUCTION_SHARE * difference;
        self.reduction_variance += REDUCTION_SHARE * (difference * difference - self.reduction_variance);
        self.predicted += REDUCTION_SHARE * (predicted - self.predicted);
        let noise = REDUCTION_SHARE * libm::sqrtf(self.reduction_variance);
        let scale = self.predicted.abs() + noise;
        if scale <= 0.0 {
            return 0.0;
        }
        let agreement = (beyond(self.reduction, SIGNIFICANT * noise) / scale).clamp(-1.0, 1.0);
        if agreement < 0.0 {
            agreement
        } else if constraint_active {
            (agreement - GOOD_AGREEMENT).max(0.0)
        } else {
            0.0
        }
    }

    fn forward(&self) -> [f32; OUTPUTS] {
        self.outputs_of(&self.weights, &self.output_biases)
    }

    /// The activation of a hidden unit.
    fn hidden_of(&self, weights: &[f32], unit: usize) -> f32 {
        let row = &weights[unit * FEATURES..][..FEATURES];
        let sum = row.iter().zip(&self.inputs).map(|(w, x)| w * x).sum::<f32>();
        libm::tanhf(sum + weights[self.hidden_size * FEATURES + unit])
    }

    /// The outputs before their maps; those beyond `output_size` are 0.
    fn outputs_of(&self, weights: &[f32], output_biases: &[f32]) -> [f32; OUTPUTS] {
        let mut outputs = [0.0; OUTPUTS];
        for unit in 0..self.hidden_size {
            let h = self.hidden_of(weights, unit);
            for (output, sum) in outputs[..self.output_size].iter_mut().enumerate() {
                *sum += weights[self.hidden_size * (FEATURES + 1 + output) + unit] * h;
            }
        }
        outputs.iter_mut().zip(output_biases).for_each(|(sum, bias)| *sum += bias);
        outputs
    }

    /// One step of learning from the gradients of the outputs before their maps.
    fn back_propagate(&mut self, gradients: &[f32]) {
        let hidden = self.hidden_size;
        self.updates += 1;
        // A weight is read for its own unit only: each unit can be done with before the next.
        for unit in 0..hidden {
            let h = self.hidden_of(&self.weights, unit);
            let mut from_outputs = 0.0;
            for (output, &gradient) in gradients.iter().enumerate() {
                let at = hidden * (FEATURES + 1 + output) + unit;
                from_outputs += gradient * self.weights[at];
                self.adjust(at, gradient * h);
            }
            let before_tanh = from_outputs * (1.0 - h * h);
            self.adjust(hidden * FEATURES + unit, before_tanh);
            for input in 0..FEATURES {
                self.adjust(unit * FEATURES + input, before_tanh * self.inputs[input]);
            }
        }
        for (bias, gradient) in self.output_biases.iter_mut().zip(gradients) {
            *bias -= BIAS_STEP * gradient;
        }
    }

    /// Adam's step of one weight.
    fn adjust(&mut self, index: usize, gradient: f32) {
        let remaining = |beta: f32| 1.0 - libm::pow(f64::from(beta), self.updates as f64) as f32;
        let (first, second) = (remaining(ADAM_BETA1), remaining(ADAM_BETA2));
        let (m, v) = (&mut self.first_moment[index], &mut self.second_moment[index]);
        *m += (1.0 - ADAM_BETA1) * (gradient - *m);
        *v += (1.0 - ADAM_BETA2) * (gradient * gradient - *v);
        self.weights[index] -= self.learning_rate * (*m / first) / (libm::sqrtf(*v / second) + ADAM_EPSILON);
    }
}

/// What of `value` goes beyond `+-neutral`.
fn beyond(value: f32, neutral: f32) -> f32 {
    (value.abs() - neutral).max(0.0).copysign(value)
}

fn bounded(z: f32, half_range: f32) -> f32 {
    half_range * libm::tanhf(z / half_range)
}
