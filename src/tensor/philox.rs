//! Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
//!
//! A value is a pure function of (seed, stream, position), so results do not depend on the order of drawing or on the
//! number of threads. The C kernels hold the same generator in `csrc/philox.h`.
#![forbid(unsafe_code)]

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The bijection: a 128-bit counter and a 64-bit key give 128 random bits.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The generator of `key`.
    pub fn new(key: [u32; 2]) -> Self {
        Philox { key }
    }

    /// Four random words for `counter` (ten rounds).
    pub fn block(&self, counter: [u32; 4]) -> [u32; 4] {
        let (mut c, mut k) = (counter, self.key);
        for _ in 0..10 {
            let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
            let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
            c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
            k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
        }
        c
    }
}

/// A stream of draws: key = (seed, purpose), counter = (step, tensor, element).
///
/// The 64-bit seed is folded to the first key word together with the purpose, so that streams of different purposes
/// never share a key.
#[derive(Clone, Debug)]
pub struct RandomStream {
    philox: Philox,
    step: u32,
    tensor: u32,
    position: u64,
    buffer: [u32; 4],
}

impl RandomStream {
    /// The stream of `purpose` (a small number, one for each use of randomness) at `step` for `tensor`.
    pub fn new(seed: u64, purpose: u32, step: u32, tensor: u32) -> Self {
        let philox = Philox::new(Self::key(seed, purpose));
        RandomStream { philox, step, tensor, position: 0, buffer: [0; 4] }
    }

    /// The Philox key of (seed, purpose), for kernels that draw for themselves.
    pub fn key(seed: u64, purpose: u32) -> [u32; 2] {
        let mixed = Philox::new([seed as u32, (seed >> 32) as u32]).block([purpose, 0, 0, 0]);
        [mixed[0], mixed[1]]
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let lane = (self.position % 4) as usize;
        if lane == 0 {
            let block = self.position / 4;
            self.buffer = self.philox.block([block as u32, (block >> 32) as u32, self.tensor, self.step]);
        }
        self.position += 1;
        self.buffer[lane]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..bound`, without modulo bias.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "below(0)");
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let draw = self.next_u64();
            if draw < limit {
                return draw % bound;
            }
        }
    }

    /// Standard normal (Box-Muller; libm functions, the same bits on every platform).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(2.0 * std::f64::consts::PI * self.uniform())
    }

    /// Shuffles `items` (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with Random123 (philox4x32, 10 rounds).
    #[test]
    fn published_vectors() {
        let zero = Philox::new([0, 0]).block([0; 4]);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = Philox::new([u32::MAX; 2]).block([u32::MAX; 4]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = Philox::new([0xa409_3822, 0x299f_31d0]).block([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn draws_have_the_moments_they_should() {
        let mut stream = RandomStream::new(7, 1, 0, 0);
        let draws: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!((0..1000).all(|_| stream.below(7) < 7));
    }
}
