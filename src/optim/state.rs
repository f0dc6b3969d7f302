//! The saved form of an optimizer: named tensors and scalars.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use crate::{Error, Result};

/// A named f32 tensor of an optimizer's state.
#[derive(Clone, PartialEq, Debug)]
pub struct StateTensor<'a> {
    /// `adamw.first_moment.NAME-OF-PARAMETER` and the like; unique.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Cow<'a, [f32]>,
}

/// An optimizer's state: the trainer writes `tensors` beside the weights and `scalars` into the metadata.
///
/// Scalars survive JSON text exactly: they are integers, flags and f32.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct OptimizerState<'a> {
    /// Tensors, in a fixed order.
    pub tensors: Vec<StateTensor<'a>>,
    /// Scalars as JSON.
    pub scalars: serde_json::Value,
}

impl OptimizerState<'_> {
    /// The values of the tensor `name`. Errors: missing, or another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<&[f32]> {
        let Some(tensor) = self.tensors.iter().find(|tensor| tensor.name == name) else {
            return Err(Error::invalid(name, format!("a tensor {shape:?} of optimizer state"), "none"));
        };
        if tensor.shape != shape || tensor.values.len() != shape.iter().product::<usize>() {
            return Err(Error::invalid(name, format!("shape {shape:?}"), format!("{:?}", tensor.shape)));
        }
        Ok(&tensor.values)
    }

    /// The scalars as `T`. Error: the JSON does not fit.
    pub fn parse_scalars<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_value(self.scalars.clone()).map_err(|error| Error::invalid(name, "its scalars", error))
    }
}
