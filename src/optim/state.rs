//! The saved form of an optimizer: named tensors and scalars.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How an optimizer keeps its moments between steps. All arithmetic is f32; fewer bits are rounded stochastically.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatePrecision {
    /// 4 bytes an element.
    #[default]
    F32,
    /// 2 bytes an element.
    Bf16,
    /// 1 byte an element, and a maximum for each block of 256 (after Dettmers et al. 2022). AdamW only.
    Int8Blocks,
}

impl StatePrecision {
    /// Bytes of an element.
    pub(super) fn bytes(self) -> usize {
        match self {
            StatePrecision::F32 => 4,
            StatePrecision::Bf16 => 2,
            StatePrecision::Int8Blocks => 1,
        }
    }
}

/// Elements of a state tensor.
#[derive(Clone, PartialEq, Debug)]
pub enum StateValues<'a> {
    /// f32.
    F32(Cow<'a, [f32]>),
    /// The bits of bf16.
    Bf16(Cow<'a, [u16]>),
    /// Codes of 8 bits.
    U8(Cow<'a, [u8]>),
}

impl StateValues<'_> {
    /// The elements as they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        match self {
            StateValues::F32(values) => bytemuck::cast_slice(values),
            StateValues::Bf16(values) => bytemuck::cast_slice(values),
            StateValues::U8(values) => values,
        }
    }

    fn size(&self) -> usize {
        match self {
            StateValues::F32(_) => 4,
            StateValues::Bf16(_) => 2,
            StateValues::U8(_) => 1,
        }
    }
}

/// A named tensor of an optimizer's state.
#[derive(Clone, PartialEq, Debug)]
pub struct StateTensor<'a> {
    /// `adamw.first_moment.NAME-OF-PARAMETER` and the like; unique.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: StateValues<'a>,
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
    /// The bytes of the tensor `name`, whose elements have `size` bytes. Errors: missing, another shape or type.
    pub fn bytes(&self, name: &str, shape: &[usize], size: usize) -> Result<&[u8]> {
        let Some(tensor) = self.tensors.iter().find(|tensor| tensor.name == name) else {
            return Err(Error::invalid(name, format!("a tensor {shape:?} of optimizer state"), "none"));
        };
        let bytes = tensor.values.bytes();
        if tensor.shape != shape || bytes.len() != shape.iter().product::<usize>() * tensor.values.size() {
            return Err(Error::invalid(name, format!("shape {shape:?}"), format!("{:?}", tensor.shape)));
        }
        if tensor.values.size() != size {
            let found = format!("{} bits", 8 * tensor.values.size());
            return Err(Error::invalid(name, format!("elements of {} bits", 8 * size), found));
        }
        Ok(bytes)
    }

    /// The scalars as `T`. Error: the JSON does not fit.
    pub fn parse_scalars<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_value(self.scalars.clone()).map_err(|error| Error::invalid(name, "its scalars", error))
    }
}
