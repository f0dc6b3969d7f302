//! Twenty-four settings of each optimizer: six rates, each down to a tenth and to 0, with two values of a third setting.

use hybridq::optim::{OptimizerKind, TrustNorm};
use hybridq::train::TrainConfig;

use crate::contest::Setting;

const RATES: [f64; 6] = [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3];

/// AdamW's settings, with a third of the second beta, and those of spectral steps, with one of the steps' length.
pub fn arms(batch_size: usize) -> [(&'static str, Vec<Setting>); 2] {
    let base = |rate, end| TrainConfig {
        batch_size,
        warmup_steps: 50,
        use_auxiliary_nn: false,
        use_clustering: false,
        base_learning_rate: rate,
        min_lr_ratio: end,
        ..TrainConfig::default()
    };
    let adamw = |(rate, end)| {
        [0.95, 0.99].map(|adam_beta2| {
            let name = format!("rate {rate} down to {end}, second beta {adam_beta2}");
            (name, TrainConfig { optimizer: OptimizerKind::AdamW, adam_beta2, ..base(rate, end) })
        })
    };
    let spectral = |(rate, end)| {
        [0.8, 0.2].map(|rms| {
            let name = format!("rate {rate} down to {end}, root mean square {rms}");
            (name, spectral(rms, base(rate, end)))
        })
    };
    [("AdamW", pairs().flat_map(adamw).collect()), ("spectral", pairs().flat_map(spectral).collect())]
}

/// As the presets have it, but for `rms`: of the matrices' steps for a rate of 1; what is no matrix goes by the rate alone.
fn spectral(rms: f64, base: TrainConfig) -> TrainConfig {
    let preset = TrainConfig::for_model("tiny");
    TrainConfig {
        trust_norm: TrustNorm::Spectral,
        initial_trust_radius: preset.initial_trust_radius,
        steepest_rms: rms,
        steepest_momentum: preset.steepest_momentum,
        newton_schulz_iterations: preset.newton_schulz_iterations,
        newton_schulz_precision: preset.newton_schulz_precision,
        weight_scale: preset.weight_scale,
        adam_beta2: preset.adam_beta2,
        ..base
    }
}

fn pairs() -> impl Iterator<Item = (f64, f64)> {
    RATES.into_iter().flat_map(|rate| [0.1, 0.0].map(|end| (rate, end)))
}
