//! What stands behind packed tensors: the file's own types are bytes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The metadata key that says it, in JSON.
pub const PACKED_KEY: &str = "hybridq.packed";
/// The version written; others are refused.
const VERSION: u32 = 1;

/// A tensor's elements.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PackedTensor {
    /// How they are packed (`five-trits`, `q8_0`).
    pub form: String,
    /// Their dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// The packed tensors of a file by name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PackedTensors {
    version: u32,
    /// Name to elements.
    pub tensors: BTreeMap<String, PackedTensor>,
}

impl Default for PackedTensors {
    fn default() -> Self {
        PackedTensors { version: VERSION, tensors: BTreeMap::new() }
    }
}

impl PackedTensors {
    /// The text of the metadata.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names and numbers become JSON")
    }

    /// Reads the text of the metadata. Error: another version, not such JSON.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let packed: PackedTensors =
            serde_json::from_str(text).map_err(|error| error.to_string().escape_debug().to_string())?;
        match packed.version {
            VERSION => Ok(packed),
            other => Err(format!("expected version {VERSION}, found {other}")),
        }
    }
}
