//! Shuffles that need no table.
#![forbid(unsafe_code)]

use crate::tensor::Philox;

/// Rounds of the Feistel network.
const ROUNDS: u32 = 6;

/// Half of the network's bits at least: over fewer, its few round functions make some orders of a small set likelier.
const MIN_HALF_BITS: u32 = 4;

/// A pseudo-random permutation of `0..len`, evaluated at one place at a time: a Feistel network over the next power of
/// four (256 at least), walked until it lands below `len` (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    philox: Philox,
    /// Distinguishes permutations of one key.
    number: [u32; 2],
    len: u64,
    half_bits: u32,
}

impl Permutation {
    /// Permutation `number` of `key`, of `0..len`.
    pub(super) fn new(key: [u32; 2], number: [u32; 2], len: usize) -> Self {
        let bits = (len.max(2) as u64 - 1).ilog2() + 1;
        Permutation {
            philox: Philox::new(key),
            number,
            len: len as u64,
            half_bits: bits.div_ceil(2).max(MIN_HALF_BITS),
        }
    }

    /// Where `index < len` goes.
    pub(super) fn apply(&self, index: usize) -> usize {
        debug_assert!((index as u64) < self.len, "index outside the permutation");
        let mask = (1u64 << self.half_bits) - 1;
        let mut value = index as u64;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for round in 0..ROUNDS {
                let [word, ..] = self.philox.block([right as u32, round, self.number[0], self.number[1]]);
                (left, right) = (right, left ^ u64::from(word) & mask);
            }
            value = left << self.half_bits | right;
            if value < self.len {
                return value as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_permutation_that_depends_on_its_number() {
        for len in [1usize, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000] {
            let image = |number| -> Vec<usize> {
                let permutation = Permutation::new([1, 2], [number, 0], len);
                (0..len).map(|index| permutation.apply(index)).collect()
            };
            let mut sorted = image(0);
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..len), "{len}");
            assert!(len < 10 || image(0) != image(1), "{len}");
        }
    }

    /// Chi-squared over all 24 orders of four: 23 degrees of freedom, 99.9 % below 49.7.
    #[test]
    fn every_order_comes_up() {
        let mut counts = std::collections::BTreeMap::new();
        for number in 0..24_000 {
            let permutation = Permutation::new([3, 4], [number, 0], 4);
            *counts.entry([0, 1, 2, 3].map(|index| permutation.apply(index))).or_insert(0i32) += 1;
        }
        let deviation: f64 = counts.values().map(|&c| f64::from(c - 1000).powi(2) / 1000.0).sum();
        assert!(counts.len() == 24 && deviation < 49.7, "{} orders, {deviation}", counts.len());
    }
}
