//! Keys and values of the tokens already read, for generation.
#![forbid(unsafe_code)]

use crate::tensor::AlignedBuffer;

/// One layer's keys and values, `[sequences, capacity, width]`.
#[derive(Debug)]
pub struct LayerCache {
    /// Keys.
    pub keys: AlignedBuffer<f32>,
    /// Values.
    pub values: AlignedBuffer<f32>,
}

/// Keys and values of every attention layer for up to `capacity` tokens.
#[derive(Debug)]
pub struct KeyValueCache {
    /// One entry for each attention operation, in plan order.
    pub layers: Vec<LayerCache>,
    sequences: usize,
    capacity: usize,
    length: usize,
}

impl KeyValueCache {
    /// An empty cache: `widths` holds each attention layer's `kv_heads * head_dim`.
    pub fn new(sequences: usize, capacity: usize, widths: &[usize]) -> Self {
        let layer = |width: &usize| LayerCache {
            keys: AlignedBuffer::zeroed(sequences * capacity * width),
            values: AlignedBuffer::zeroed(sequences * capacity * width),
        };
        KeyValueCache { layers: widths.iter().map(layer).collect(), sequences, capacity, length: 0 }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Most tokens of a sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens of each sequence read so far: the position of the next token.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets all tokens from position `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}
