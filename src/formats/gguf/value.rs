//! Metadata values.
#![forbid(unsafe_code)]

use std::fmt;

/// A metadata value.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(GgufArray),
}

/// An array of values.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum GgufArray {
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    String(Vec<String>),
    /// Elements of another type: counted, not kept.
    Skipped {
        /// The elements' type number.
        kind: u32,
        len: usize,
    },
}

/// Type numbers, which are those of the variants.
pub(super) mod kind {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;

    /// Bytes of a number or bool; `None` for strings, arrays and unknown numbers.
    pub fn bytes(kind: u32) -> Option<u64> {
        match kind {
            U8 | I8 | BOOL => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            _ => None,
        }
    }
}

impl GgufValue {
    /// The value as a count or size, if it is a whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            GgufValue::U8(value) => Some(value.into()),
            GgufValue::U16(value) => Some(value.into()),
            GgufValue::U32(value) => Some(value.into()),
            GgufValue::U64(value) => Some(value),
            GgufValue::I8(value) => value.try_into().ok(),
            GgufValue::I16(value) => value.try_into().ok(),
            GgufValue::I32(value) => value.try_into().ok(),
            GgufValue::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value as f32, if it is a float.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            GgufValue::F32(value) => Some(value),
            GgufValue::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    /// The value, if it is a bool.
    pub fn as_bool(&self) -> Option<bool> {
        if let GgufValue::Bool(value) = self { Some(*value) } else { None }
    }

    /// The value, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let GgufValue::String(value) = self { Some(value) } else { None }
    }

    /// The value, if it is an array.
    pub fn as_array(&self) -> Option<&GgufArray> {
        if let GgufValue::Array(value) = self { Some(value) } else { None }
    }

    pub(super) fn kind(&self) -> u32 {
        match self {
            GgufValue::U8(_) => kind::U8,
            GgufValue::I8(_) => kind::I8,
            GgufValue::U16(_) => kind::U16,
            GgufValue::I16(_) => kind::I16,
            GgufValue::U32(_) => kind::U32,
            GgufValue::I32(_) => kind::I32,
            GgufValue::F32(_) => kind::F32,
            GgufValue::Bool(_) => kind::BOOL,
            GgufValue::String(_) => kind::STRING,
            GgufValue::Array(_) => kind::ARRAY,
            GgufValue::U64(_) => kind::U64,
            GgufValue::I64(_) => kind::I64,
            GgufValue::F64(_) => kind::F64,
        }
    }

    /// Appends the value as it stands in a file, without its type number.
    ///
    /// # Panics
    /// On [`GgufArray::Skipped`].
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            GgufValue::U8(value) => out.push(*value),
            GgufValue::I8(value) => out.extend(value.to_le_bytes()),
            GgufValue::U16(value) => out.extend(value.to_le_bytes()),
            GgufValue::I16(value) => out.extend(value.to_le_bytes()),
            GgufValue::U32(value) => out.extend(value.to_le_bytes()),
            GgufValue::I32(value) => out.extend(value.to_le_bytes()),
            GgufValue::U64(value) => out.extend(value.to_le_bytes()),
            GgufValue::I64(value) => out.extend(value.to_le_bytes()),
            GgufValue::F32(value) => out.extend(value.to_le_bytes()),
            GgufValue::F64(value) => out.extend(value.to_le_bytes()),
            GgufValue::Bool(value) => out.push((*value).into()),
            GgufValue::String(value) => encode_string(value, out),
            GgufValue::Array(array) => array.encode(out),
        }
    }
}

impl GgufArray {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            GgufArray::U32(values) => values.len(),
            GgufArray::I32(values) => values.len(),
            GgufArray::F32(values) => values.len(),
            GgufArray::String(values) => values.len(),
            GgufArray::Skipped { len, .. } => *len,
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            GgufArray::U32(_) => kind::U32,
            GgufArray::I32(_) => kind::I32,
            GgufArray::F32(_) => kind::F32,
            GgufArray::String(_) => kind::STRING,
            GgufArray::Skipped { .. } => panic!("an array that was skipped cannot be written"),
        };
        out.extend(kind.to_le_bytes());
        out.extend((self.len() as u64).to_le_bytes());
        match self {
            GgufArray::U32(values) => out.extend(bytemuck::cast_slice::<u32, u8>(values)),
            GgufArray::I32(values) => out.extend(bytemuck::cast_slice::<i32, u8>(values)),
            GgufArray::F32(values) => out.extend(bytemuck::cast_slice::<f32, u8>(values)),
            GgufArray::String(values) => values.iter().for_each(|value| encode_string(value, out)),
            GgufArray::Skipped { .. } => {}
        }
    }
}

/// A string as it stands in a file.
pub(super) fn encode_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// For listings: strings as they are, arrays as their length.
impl fmt::Display for GgufValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GgufValue::U8(value) => write!(f, "{value}"),
            GgufValue::I8(value) => write!(f, "{value}"),
            GgufValue::U16(value) => write!(f, "{value}"),
            GgufValue::I16(value) => write!(f, "{value}"),
            GgufValue::U32(value) => write!(f, "{value}"),
            GgufValue::I32(value) => write!(f, "{value}"),
            GgufValue::U64(value) => write!(f, "{value}"),
            GgufValue::I64(value) => write!(f, "{value}"),
            GgufValue::F32(value) => write!(f, "{value}"),
            GgufValue::F64(value) => write!(f, "{value}"),
            GgufValue::Bool(value) => write!(f, "{value}"),
            GgufValue::String(value) => f.write_str(value),
            GgufValue::Array(array) => write!(f, "[{} values]", array.len()),
        }
    }
}
