//! The header: parsing without trust, and encoding.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::{Error, Result};

/// Bytes of the header length.
pub(super) const LENGTH_BYTES: usize = 8;

/// Longest header accepted, as in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Tensor data starts at a multiple of this many bytes, so that a mapped file can be read in place.
const ALIGNMENT: usize = 64;

/// The key that holds string metadata instead of a tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";

/// A checked header: tensors in file order, their ranges back to back from the end of the header to the end of the file.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub metadata: BTreeMap<String, String>,
    pub tensors: Vec<(String, TensorInfo)>,
}

impl Header {
    /// Parses and checks the header of a whole file. Also gives the position of the first tensor byte.
    pub fn parse(path: &Path, file: &[u8]) -> Result<(Self, usize)> {
        let fail = |offset, message: String| Err(Error::format(path, Some(offset), message));
        let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
            return fail(0, format!("not a safetensors file: {} bytes, expected at least 8", file.len()));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
            let limit = MAX_HEADER_BYTES.min(rest.len() as u64);
            return fail(
                0,
                format!("not a safetensors file or cut short: header of {length} bytes, at most {limit} fit"),
            );
        }
        let (json, data) = rest.split_at(length as usize);
        let mut header: Header = serde_json::from_slice(json).map_err(|error| {
            Error::format(path, Some(LENGTH_BYTES as u64), format!("safetensors header: {}", one_line(&error)))
        })?;
        header.tensors.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
        let data_start = LENGTH_BYTES + json.len();
        let mut end = 0;
        for (name, info) in &header.tensors {
            let at = data_start as u64 + end as u64;
            let (start, stop) = info.data_offsets;
            let Some(bytes) = tensor_bytes(info) else {
                return fail(at, format!("tensor {name:?}: {} {:?} has no size in bytes", info.dtype, info.shape));
            };
            if start != end || start.checked_add(bytes) != Some(stop) {
                return fail(
                    at,
                    format!(
                        "tensor {name:?}: {} {:?} expected at {end}..{}, found at {start}..{stop}",
                        info.dtype,
                        info.shape,
                        end as u128 + bytes as u128
                    ),
                );
            }
            if stop > data.len() {
                return fail(at, format!("tensor {name:?} ends {} bytes after the end of the file", stop - data.len()));
            }
            end = stop;
        }
        if end != data.len() {
            return fail(
                data_start as u64 + end as u64,
                format!("{} bytes after the last tensor belong to none", data.len() - end),
            );
        }
        Ok((header, data_start))
    }

    /// The header as it stands in a file, with its length, padded with spaces.
    pub fn encode(&self, path: &Path) -> Result<Vec<u8>> {
        let mut bytes = vec![0; LENGTH_BYTES];
        serde_json::to_writer(&mut bytes, self).expect("strings and numbers become JSON");
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), b' ');
        let length = (bytes.len() - LENGTH_BYTES) as u64;
        if length > MAX_HEADER_BYTES {
            let message = format!("safetensors header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed");
            return Err(Error::format(path, None, message));
        }
        bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(bytes)
    }
}

/// Bytes of a tensor; `None` on overflow or if they are not whole.
pub(super) fn tensor_bytes(info: &TensorInfo) -> Option<usize> {
    let elements = info.shape.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// A parser's message without line breaks (names in it come from the file).
fn one_line(error: &serde_json::Error) -> String {
    error.to_string().escape_debug().to_string()
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA_KEY, &self.metadata)?;
        }
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
        let mut header = Header::default();
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("name {name:?} occurs twice")));
            }
            if name == METADATA_KEY {
                // Some writers put null where there is no metadata.
                header.metadata = map.next_value::<Option<BTreeMap<String, String>>>()?.unwrap_or_default();
                continue;
            }
            let info = map.next_value().map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
            header.tensors.push((name, info));
        }
        Ok(header)
    }
}
