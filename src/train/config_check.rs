//! Ranges of configuration values; every error names the field and its flag.
#![forbid(unsafe_code)]

use super::config::TrainConfig;
use crate::cluster::BatchStrategy;
use crate::nn::{KeptPrecision, Precision};
use crate::quant::AdaptiveQuantizer;
use crate::{Error, Result};

/// Most steps, and most seconds: far beyond any run, well inside the integers the arithmetic uses.
const MAX_COUNT: u64 = 1_000_000_000;

impl TrainConfig {
    /// Checks every value. The first one out of range gives an error with the field, its flag, the range and the value.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("data_clusters", self.data_clusters as u64, 1, 65_536),
            ("parameter_clusters", self.parameter_clusters as u64, 1, 65_536),
            ("auxiliary_nn_hidden_size", self.auxiliary_nn_hidden_size as u64, 1, 4096),
            ("newton_schulz_iterations", self.newton_schulz_iterations as u64, 1, 8),
            ("max_steps (--steps)", self.max_steps, 1, MAX_COUNT),
            ("max_skipped_steps", self.max_skipped_steps, 0, MAX_COUNT),
            ("batch_size (--batch)", self.batch_size as u64, 1, 1 << 20),
            ("log_interval", self.log_interval, 1, MAX_COUNT),
            ("eval_interval (--eval-every)", self.eval_interval, 1, MAX_COUNT),
            ("clustering_warmup_steps", self.clustering_warmup_steps, 0, MAX_COUNT),
            ("seq_length (--seq)", self.seq_length as u64, 1, 1 << 22),
            ("grad_accumulation (--grad-accum)", self.grad_accumulation as u64, 1, 65_536),
            ("gradient_checkpointing (--gradient-checkpointing)", self.gradient_checkpointing as u64, 0, 65_536),
            ("threads (--threads)", self.threads.unwrap_or(1) as u64, 1, 1024),
            ("warmup_steps", self.warmup_steps, 0, MAX_COUNT),
            ("precision_interval", self.precision_interval, 1, MAX_COUNT),
            ("freeze_patience", self.freeze_patience, 1, MAX_COUNT),
            ("reduction_probe_interval", self.reduction_probe_interval, 1, MAX_COUNT),
            ("checkpoint_interval (--checkpoint-every)", self.checkpoint_interval, 1, MAX_COUNT),
            ("eval_windows (--eval-windows)", self.eval_windows as u64, 1, MAX_COUNT),
            ("convergence_patience", self.convergence_patience, 0, MAX_COUNT),
        ];
        for (name, value, least, most) in counts {
            if value < least || value > most {
                return Err(Error::invalid(name, format!("{least} to {most}"), value));
            }
        }
        let numbers = [
            ("target_bits", self.target_bits, 1.0, 32.0),
            ("min_bits", self.min_bits, 1.0, 8.0),
            ("max_bits", self.max_bits, 1.0, 8.0),
            ("freeze_flip_rate", self.freeze_flip_rate, 0.0, 1.0),
            ("random_multiplier", self.random_multiplier, 0.0, 2.0),
            ("auxiliary_nn_learning_rate", self.auxiliary_nn_learning_rate, 0.0, 1.0),
            ("initial_trust_radius", self.initial_trust_radius, 0.001, 1.0),
            ("steepest_momentum", self.steepest_momentum, 0.0, 0.999_999),
            ("steepest_rms", self.steepest_rms, 1e-6, 1e3),
            ("base_learning_rate (--lr)", self.base_learning_rate, 1e-12, 100.0),
            ("gradient_error_limit", self.gradient_error_limit, 0.0, 1e6),
            ("momentum", self.momentum, 0.0, 0.999_999),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("gradient_clip_norm", self.gradient_clip_norm, 0.0, 1e12),
            ("adam_beta2", self.adam_beta2, 0.0, 0.999_999_9),
            ("min_lr_ratio", self.min_lr_ratio, 0.0, 1.0),
            ("epochs (--epochs)", self.epochs.unwrap_or(1.0), 1e-6, 1e6),
            ("time_limit (--time-limit)", self.time_limit.unwrap_or(1.0), 1e-3, MAX_COUNT as f64),
        ];
        for (name, value, least, most) in numbers {
            // A NaN is in no range.
            if !(least..=most).contains(&value) {
                return Err(Error::invalid(name, format!("{} to {}", short(least), short(most)), value));
            }
        }
        if self.quantizer_scale != 1.0 {
            let expected = "1 (in training the scale follows from the weights)";
            return Err(Error::invalid("quantizer_scale", expected, self.quantizer_scale));
        }
        self.check_forms()?;
        if self.kept_gradient_precision == KeptPrecision::Int8 {
            return Err(Error::invalid("kept_gradient_precision", "f32 or bf16", "int8"));
        }
        if self.quantizes_gradients() && self.kept_gradient_precision != KeptPrecision::F32 {
            return Err(Error::invalid("kept_gradient_precision", "f32 (with quantize_gradients)", "bf16"));
        }
        if self.device != "cpu" {
            let expected = "cpu (this build has no CUDA)";
            return Err(Error::invalid("device (--device)", expected, &self.device));
        }
        Ok(())
    }
}

impl TrainConfig {
    /// What precisions, scales and clusters that change while a run trains need of each other.
    fn check_forms(&self) -> Result<()> {
        if self.adaptive_bits {
            if self.weight_precision() == Precision::F32 {
                return Err(Error::invalid("adaptive_bits", "a quantized model (--precision)", "f32"));
            }
            AdaptiveQuantizer { mean_bits: self.target_bits, min_bits: self.min_bits, max_bits: self.max_bits }
                .allocate(&[])?;
        }
        if self.cluster_learning_rates && (self.batch_strategy != BatchStrategy::RoundRobin || self.loss_aware_sampling)
        {
            let expected = "batches from one cluster (batch_strategy = \"round-robin\", no loss_aware_sampling)";
            return Err(Error::invalid("cluster_learning_rates", expected, "others"));
        }
        let by_cluster = [
            ("loss_aware_sampling", self.loss_aware_sampling),
            ("cluster_learning_rates", self.cluster_learning_rates),
        ];
        match by_cluster.into_iter().find(|(_, asked)| *asked && !self.clusters_data()) {
            Some((name, _)) => {
                Err(Error::invalid(name, "clusters of the data (use_clustering, optimizer hybrid)", "none"))
            }
            None => Ok(()),
        }
    }
}

/// Very small bounds as powers of ten.
fn short(bound: f64) -> String {
    if bound > 0.0 && bound < 1e-3 { format!("{bound:e}") } else { bound.to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn fault(toml: &str) -> String {
        let config = TrainConfig::from_toml(toml, Path::new("c.toml"));
        config.and_then(|config| config.validate()).unwrap_err().to_string()
    }

    #[test]
    fn values_out_of_range_are_named_with_their_flag() {
        TrainConfig::default().validate().unwrap();
        let cases = [
            ("max_steps = 0", "max_steps (--steps): expected 1 to"),
            ("max_steps = -3", "max_steps"),
            ("max_steps = 9223372036854775807", "max_steps (--steps): expected 1 to"),
            ("batch_size = 0", "batch_size (--batch)"),
            ("base_learning_rate = nan", "base_learning_rate (--lr)"),
            ("base_learning_rate = inf", "base_learning_rate (--lr)"),
            ("base_learning_rate = -1e-3", "base_learning_rate (--lr)"),
            ("base_learning_rate = 0.0", "base_learning_rate (--lr)"),
            ("base_learning_rate = 1e30", "base_learning_rate (--lr)"),
            ("momentum = 1.0", "momentum"),
            ("epochs = nan", "epochs (--epochs)"),
            ("time_limit = 0.0", "time_limit (--time-limit)"),
            ("threads = 0", "threads (--threads)"),
            ("data_clusters = 0", "data_clusters"),
            ("initial_trust_radius = 2.0", "initial_trust_radius"),
            ("adaptive_bits = true\nprecision = \"f32\"", "adaptive_bits: expected a quantized model"),
            ("adaptive_bits = true\nmin_bits = 2.0", "mean_bits"),
            ("adaptive_bits = true\nmin_bits = 5.0\nmax_bits = 7.0", "min_bits to max_bits"),
            ("max_bits = 16.0", "max_bits"),
            ("precision_interval = 0", "precision_interval"),
            ("weight_scale = \"largest\"", "largest"),
            ("freeze_flip_rate = -0.1", "freeze_flip_rate"),
            ("cluster_learning_rates = true", "cluster_learning_rates: expected batches from one cluster"),
            ("loss_aware_sampling = true\nuse_clustering = false", "loss_aware_sampling: expected clusters"),
            ("random_multiplier = nan", "random_multiplier"),
            ("device = \"cuda:0\"", "device (--device)"),
            ("quantizer_scale = 2.0", "quantizer_scale"),
            ("quantize_gradients = true\nkept_gradient_precision = \"bf16\"", "kept_gradient_precision"),
            ("kept_gradient_precision = \"int8\"", "kept_gradient_precision"),
        ];
        for (toml, expected) in cases {
            let message = fault(toml);
            assert!(message.contains(expected), "{toml}: {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused() {
        let message = fault("learning_rate = 1.0");
        assert!(message.starts_with("c.toml: learning_rate: expected one of `use_quantization`"), "{message}");
        assert!(message.ends_with("found unknown field `learning_rate`"), "{message}");
        let message = fault("# steps\nmax_steps = \"many\"");
        assert_eq!(message, "c.toml: max_steps: expected u64, found invalid type: string \"many\"");
        let message = fault("optimizer = \"lion\"");
        assert!(message.starts_with("c.toml: optimizer: expected one of `hybrid`, `adamw`, `sgd`"), "{message}");
        assert!(message.ends_with("found unknown variant `lion`"), "{message}");
        assert!(fault("what is = = this").starts_with("c.toml at byte"));
    }
}
