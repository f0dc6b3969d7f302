//! Bytes that are owned, or lent by what keeps them.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::AlignedBuffer;

/// Read-only bytes: a buffer, or a part of something that several values keep alive together (a mapped file).
#[derive(Clone)]
pub struct SharedBytes {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Owned(AlignedBuffer<u8>),
    Lent(Arc<dyn AsRef<[u8]> + Send + Sync>, Range<usize>),
}

impl SharedBytes {
    /// The bytes `range` of `keeper`.
    ///
    /// # Panics
    /// If `range` is not inside.
    pub fn lent(keeper: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Self {
        let bytes = (*keeper).as_ref();
        assert!(range.start <= range.end && range.end <= bytes.len(), "a range inside the bytes");
        SharedBytes { source: Source::Lent(keeper, range) }
    }
}

impl From<AlignedBuffer<u8>> for SharedBytes {
    fn from(buffer: AlignedBuffer<u8>) -> Self {
        SharedBytes { source: Source::Owned(buffer) }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.source {
            Source::Owned(buffer) => buffer,
            Source::Lent(keeper, range) => &(**keeper).as_ref()[range.clone()],
        }
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({})", self.len())
    }
}
