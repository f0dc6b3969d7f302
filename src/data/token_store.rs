//! Token ids in the narrowest integers their vocabulary allows: a byte-level corpus takes its own size in memory.
#![forbid(unsafe_code)]

use std::ops::Range;

#[derive(Debug)]
pub(super) enum TokenStore {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl TokenStore {
    /// An empty store for ids below `vocabulary`.
    pub fn new(vocabulary: usize) -> Self {
        match vocabulary {
            0..=0x100 => TokenStore::U8(Vec::new()),
            0x101..=0x1_0000 => TokenStore::U16(Vec::new()),
            _ => TokenStore::U32(Vec::new()),
        }
    }

    /// Appends ids, all below the vocabulary.
    pub fn extend(&mut self, ids: &[u32]) {
        match self {
            TokenStore::U8(store) => store.extend(ids.iter().map(|&id| id as u8)),
            TokenStore::U16(store) => store.extend(ids.iter().map(|&id| id as u16)),
            TokenStore::U32(store) => store.extend_from_slice(ids),
        }
    }

    /// Appends ids that are bytes.
    pub fn extend_bytes(&mut self, bytes: &[u8]) {
        match self {
            TokenStore::U8(store) => store.extend_from_slice(bytes),
            TokenStore::U16(store) => store.extend(bytes.iter().map(|&byte| u16::from(byte))),
            TokenStore::U32(store) => store.extend(bytes.iter().map(|&byte| u32::from(byte))),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            TokenStore::U8(store) => store.len(),
            TokenStore::U16(store) => store.len(),
            TokenStore::U32(store) => store.len(),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            TokenStore::U8(store) => size_of_val(&store[..]),
            TokenStore::U16(store) => size_of_val(&store[..]),
            TokenStore::U32(store) => size_of_val(&store[..]),
        }
    }

    /// Copies the ids at `range`.
    pub fn read(&self, range: Range<usize>, out: &mut [u32]) {
        match self {
            TokenStore::U8(store) => out.iter_mut().zip(&store[range]).for_each(|(out, &id)| *out = id.into()),
            TokenStore::U16(store) => out.iter_mut().zip(&store[range]).for_each(|(out, &id)| *out = id.into()),
            TokenStore::U32(store) => out.copy_from_slice(&store[range]),
        }
    }
}
