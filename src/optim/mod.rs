//! Optimizers: AdamW and SGD over a [`crate::nn::ParamStore`], and the hybrid optimizer around either of them: a trust
//! region in a norm of choice and a small network that steers step size and radius.
//!
//! [`OptimizerConfig::build`] makes one from a configuration; the trainer then calls [`Optimizer::step`] once per step
//! with the scheduled learning rate ([`LearningRateSchedule`]) in a [`TrainingState`].

mod adamw;
mod auxiliary_network;
mod config;
mod direction;
mod features;
mod hybrid;
mod moment_buffer;
mod newton_schulz;
mod optimizer;
mod schedule;
mod sgd;
mod state;
mod steepest;
mod trust_region;

pub use adamw::AdamW;
pub use auxiliary_network::{AuxiliaryNetwork, AuxiliaryOutput, AuxiliaryStatistics, Feedback};
pub use config::{OptimizerConfig, OptimizerKind};
pub use features::{FEATURES, StateFeatures};
pub use hybrid::HybridOptimizer;
pub use newton_schulz::{NewtonSchulz, NewtonSchulzPrecision};
pub use optimizer::{Optimizer, TrainingState, UpdateReport};
pub use schedule::LearningRateSchedule;
pub use sgd::Sgd;
pub use state::{OptimizerState, StatePrecision, StateTensor, StateValues};
pub use trust_region::{RadiusMode, RadiusRule, TrustNorm, TrustRegion, TrustScope};
