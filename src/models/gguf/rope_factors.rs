//! Llama 3's rotary frequencies: GGUF files hold the divisor of each frequency (tensor `rope_freqs.weight`), not the
//! parameters they follow from.
#![forbid(unsafe_code)]

use crate::models::ModelConfig;
use crate::nn::ops::{RopeScaling, RotaryTable};

/// Parameters in use in published models, tried on files that do not name theirs: Llama 3.1, and Llama 3.2.
const KNOWN: [(f32, f32, f32, usize); 2] = [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192)];
/// Largest relative difference of a divisor.
const TOLERANCE: f32 = 1e-4;

/// The divisors of a configuration's frequencies, if its scaling is Llama 3's.
pub(super) fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    let scaling @ Some(RopeScaling::Llama3 { .. }) = config.rope_scaling else { return None };
    let table =
        |scaling| RotaryTable::new(config.max_position_embeddings, config.head_dim(), config.rope_theta, scaling);
    let (plain, scaled) = (table(None), table(scaling));
    Some(plain.frequencies().iter().zip(scaled.frequencies()).map(|(plain, scaled)| plain / scaled).collect())
}

/// The scaling with these divisors: `stated`, or a known one.
pub(super) fn scaling_of(config: &ModelConfig, stated: Option<RopeScaling>, factors: &[f32]) -> Option<RopeScaling> {
    let known = KNOWN.map(|(factor, low_freq_factor, high_freq_factor, original_max_position_embeddings)| {
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }
    });
    stated.into_iter().chain(known).find(|&scaling| {
        let expected = rope_factors(&ModelConfig { rope_scaling: Some(scaling), ..config.clone() }).unwrap_or_default();
        let near = |(a, b): (&f32, &f32)| (a / b - 1.0).abs() < TOLERANCE;
        expected.len() == factors.len() && expected.iter().zip(factors).all(near)
    })
}
