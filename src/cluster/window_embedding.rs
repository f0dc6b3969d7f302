//! Embeddings of token windows: hashed n-gram counts, cheap enough for every window of a data set.
#![forbid(unsafe_code)]

use crate::dispatch::Context;
use crate::{Error, Result};

/// Windows of one block of work.
const BLOCK_WINDOWS: usize = 64;

/// Odd constants of the multiplicative hash (the fractional parts of the golden ratio and of sqrt(3), 64 bits).
const HASH_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
const PAIR_FACTOR: u64 = 0xBB67_AE85_84CA_A73B;

/// Embeds windows by feature hashing (Weinberger et al., 2009): each token and each pair of neighbours adds +1 or -1 to
/// one of `dim` sums; signs and places come from a hash, so inner products estimate those of the n-gram counts. The
/// result is divided by its Euclidean norm (an empty window stays zero). Integer sums: exact, the same everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowEmbedding {
    dim: usize,
}

impl Default for WindowEmbedding {
    fn default() -> Self {
        WindowEmbedding { dim: 32 }
    }
}

impl WindowEmbedding {
    /// An embedding into `dim` numbers, 1 to 4,096.
    pub fn new(dim: usize) -> Result<Self> {
        if !(1..=4096).contains(&dim) {
            return Err(Error::invalid("embedding size", "1 to 4096", dim));
        }
        Ok(WindowEmbedding { dim })
    }

    /// Numbers of one embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Embeds the windows of `length` tokens that begin at `starts` in `tokens`: `[starts, dim]`.
    /// Error: a window that ends beyond the tokens.
    pub fn embed_windows(
        &self,
        context: &Context,
        tokens: &[u32],
        starts: &[usize],
        length: usize,
    ) -> Result<Vec<f32>> {
        let fits = |start: usize| start.checked_add(length).is_some_and(|end| end <= tokens.len());
        if let Some(&start) = starts.iter().find(|&&start| !fits(start)) {
            let found = format!("start {start} and length {length}");
            return Err(Error::shape("embed_windows", "window", format!("inside {} tokens", tokens.len()), found));
        }
        let mut embeddings = vec![0.0; starts.len() * self.dim];
        let blocks = embeddings.chunks_mut(BLOCK_WINDOWS * self.dim).zip(starts.chunks(BLOCK_WINDOWS));
        context.for_each(blocks, |(outputs, starts)| {
            let mut sums = vec![0i32; self.dim];
            for (output, &start) in outputs.chunks_mut(self.dim).zip(starts) {
                self.embed(&tokens[start..start + length], &mut sums, output);
            }
        });
        Ok(embeddings)
    }

    fn embed(&self, tokens: &[u32], sums: &mut [i32], output: &mut [f32]) {
        sums.fill(0);
        let mut add = |key: u64| {
            let hash = key.wrapping_mul(HASH_FACTOR);
            // The high bits are the well-mixed ones: 31 of them choose the place, one more the sign.
            let place = ((hash >> 33) * self.dim as u64) >> 31;
            sums[place as usize] += 1 - 2 * (hash >> 32 & 1) as i32;
        };
        let mut before = None;
        for &token in tokens {
            let token = u64::from(token) + 1;
            add(token);
            if let Some(before) = before {
                add((token ^ u64::wrapping_mul(before, PAIR_FACTOR)).wrapping_mul(PAIR_FACTOR) ^ before << 32);
            }
            before = Some(token);
        }
        let norm = sums.iter().map(|&s| f64::from(s) * f64::from(s)).sum::<f64>().sqrt();
        let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        output.iter_mut().zip(sums).for_each(|(o, s)| *o = (f64::from(*s) * factor) as f32);
    }
}
