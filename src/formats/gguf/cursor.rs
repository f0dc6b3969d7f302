//! Walking a header whose every number may be a lie: nothing is reserved before the bytes for it are known to be there.
#![forbid(unsafe_code)]

use std::path::Path;

use super::value::{GgufArray, GgufValue, kind};
use crate::{Error, Result};

/// A position in the bytes of a file.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Cursor { path, bytes, at: 0 }
    }

    /// Bytes walked over.
    pub fn at(&self) -> usize {
        self.at
    }

    /// An error at the position `at`.
    pub fn error_at(&self, at: usize, message: String) -> Error {
        Error::format(self.path, Some(at as u64), message)
    }

    pub fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        if count > left as u64 {
            return Err(self.error_at(self.at, format!("{what}: {count} bytes expected, {left} left in the file")));
        }
        let taken = &self.bytes[self.at..][..count as usize];
        self.at += count as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        Ok(self.take(N as u64, what)?.try_into().expect("as many bytes as asked for"))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of things that take at least `least` bytes each.
    pub fn count(&mut self, least: u64, what: &str) -> Result<u64> {
        let (start, count) = (self.at, self.u64(what)?);
        let most = (self.bytes.len() - self.at) as u64 / least;
        if count > most {
            return Err(self.error_at(start, format!("{what}: {count}, the rest of the file holds {most} at most")));
        }
        Ok(count)
    }

    pub fn string(&mut self, what: &str) -> Result<String> {
        let start = self.at;
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.error_at(start, format!("{what}: not UTF-8")))?;
        Ok(text.to_string())
    }

    /// The value of `key`.
    pub fn value(&mut self, key: &str) -> Result<GgufValue> {
        let what = format!("metadata {key:?}");
        let (start, number) = (self.at, self.u32(&what)?);
        Ok(match number {
            kind::U8 => GgufValue::U8(u8::from_le_bytes(self.array(&what)?)),
            kind::I8 => GgufValue::I8(i8::from_le_bytes(self.array(&what)?)),
            kind::U16 => GgufValue::U16(u16::from_le_bytes(self.array(&what)?)),
            kind::I16 => GgufValue::I16(i16::from_le_bytes(self.array(&what)?)),
            kind::U32 => GgufValue::U32(self.u32(&what)?),
            kind::I32 => GgufValue::I32(i32::from_le_bytes(self.array(&what)?)),
            kind::U64 => GgufValue::U64(self.u64(&what)?),
            kind::I64 => GgufValue::I64(i64::from_le_bytes(self.array(&what)?)),
            kind::F32 => GgufValue::F32(f32::from_le_bytes(self.array(&what)?)),
            kind::F64 => GgufValue::F64(f64::from_le_bytes(self.array(&what)?)),
            kind::BOOL => match self.array(&what)? {
                [0] => GgufValue::Bool(false),
                [1] => GgufValue::Bool(true),
                [other] => return Err(self.error_at(start, format!("{what}: a bool is 0 or 1, found {other}"))),
            },
            kind::STRING => GgufValue::String(self.string(&what)?),
            kind::ARRAY => GgufValue::Array(self.values(&what)?),
            other => return Err(self.error_at(start, format!("{what}: unknown type {other}"))),
        })
    }

    fn values(&mut self, what: &str) -> Result<GgufArray> {
        let (start, kind) = (self.at, self.u32(what)?);
        if kind == kind::STRING {
            let count = self.count(size_of::<u64>() as u64, what)?;
            return Ok(GgufArray::String((0..count).map(|_| self.string(what)).collect::<Result<_>>()?));
        }
        let Some(size) = kind::bytes(kind) else {
            return Err(self.error_at(start, format!("{what}: an array of type {kind}, expected numbers or strings")));
        };
        let count = self.count(size, what)?;
        let bytes = self.take(count * size, what)?;
        Ok(match kind {
            kind::U32 => GgufArray::U32(words(bytes, u32::from_le_bytes)),
            kind::I32 => GgufArray::I32(words(bytes, i32::from_le_bytes)),
            kind::F32 => GgufArray::F32(words(bytes, f32::from_le_bytes)),
            _ => GgufArray::Skipped { kind, len: count as usize },
        })
    }
}

fn words<T>(bytes: &[u8], convert: impl Fn([u8; 4]) -> T) -> Vec<T> {
    bytes.chunks_exact(4).map(|bytes| convert(bytes.try_into().expect("four bytes"))).collect()
}
