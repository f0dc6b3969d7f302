//! How many values share one scale.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// How many values share one scale.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// The whole matrix.
    #[default]
    Tensor,
    /// One row: an output feature.
    Row,
    /// This many neighbours of a row (128 is a good size); the last group of a row may be shorter. For inference and
    /// post-training quantization only: the backward product cannot fold such scales into its input, and the packed
    /// matrices of the integer products do not hold them.
    Group(usize),
}
