//! n-gram models over bytes: the baselines a language model must beat.
#![forbid(unsafe_code)]

use std::ops::Range;

use serde::Serialize;

use super::TextSplit;
use super::tokenizer::NEWLINE;
use crate::{Error, Result};

/// Most bytes at the end of the training text that fit smoothing and interpolation (a tenth of it, if that is less).
const MOST_HELD_OUT: usize = 1 << 20;

/// Values of k tried for add-k smoothing.
const SMOOTHING: [f64; 5] = [1.0, 0.1, 0.01, 0.001, 0.0001];

/// Steps of expectation maximisation for the interpolation weights.
const EM_STEPS: usize = 30;

/// Mean loss in nats per byte of byte models, fitted on a training text and measured on a validation text.
///
/// - n-gram with add-k smoothing: `p(b | c) = (count(c b) + k) / (count(c) + 256 k)`, `c` the last `n - 1` bytes; k is the
///   best of 1, 0.1 ... 0.0001 on the held-out last tenth of the training text (at most 1 MiB), counts are then taken
///   over all of it.
/// - interpolated (Jelinek and Mercer, 1980): `w3 p3 + w2 p2 + w1 p1 + w0 / 256` of the unsmoothed orders (an order that
///   never saw its context answers as the next lower one); the weights are fitted by expectation maximisation on the same
///   held-out text.
///
/// The first two bytes of a text are context only, so that all four predict the same bytes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct NgramBaselines {
    /// Order 1.
    pub unigram: f64,
    /// Order 2.
    pub bigram: f64,
    /// Order 3.
    pub trigram: f64,
    /// Orders 1 to 3 mixed.
    pub interpolated: f64,
}

impl NgramBaselines {
    /// Baselines of a dataset: files joined by a line break, as the byte-level tokenizer joins them. Error: fewer than
    /// three bytes in one of the splits.
    pub fn of(split: &TextSplit<'_>) -> Result<Self> {
        Self::measure(&split.training.join(&NEWLINE), &split.validation.join(&NEWLINE))
    }

    /// Fits on `training`, measures on `validation`. Error: fewer than three bytes in one of them.
    pub fn measure(training: &[u8], validation: &[u8]) -> Result<Self> {
        for (name, text) in [("training text", training), ("validation text", validation)] {
            if text.len() < 3 {
                return Err(Error::invalid(name, "at least 3 bytes", text.len()));
            }
        }
        let held_out = training.len() - (training.len() / 10).clamp(1, MOST_HELD_OUT);
        let mut counts = Counts::new();
        counts.add(training, 0..held_out);
        let fitting = held_out.max(2)..training.len();
        let best = |order| {
            let loss = |k: &f64| counts.loss(training, fitting.clone(), |c| counts.smoothed(order, c, *k));
            let losses = SMOOTHING.map(|k| loss(&k));
            (1..SMOOTHING.len()).fold(0, |best, index| if losses[index] < losses[best] { index } else { best })
        };
        let k = [1, 2, 3].map(|order| SMOOTHING[best(order)]);
        let weights = counts.interpolation_weights(training, fitting);
        counts.add(training, held_out..training.len());
        let all = 2..validation.len();
        let smoothed = |order: usize| counts.loss(validation, all.clone(), |c| counts.smoothed(order, c, k[order - 1]));
        let mixed = |context: [u8; 3]| dot(&weights, &counts.orders(context));
        Ok(NgramBaselines {
            unigram: smoothed(1),
            bigram: smoothed(2),
            trigram: smoothed(3),
            interpolated: counts.loss(validation, all.clone(), mixed),
        })
    }
}

/// How often each byte, pair and triple occurred, and how often each was a context (followed by anything).
struct Counts {
    bytes: u64,
    ones: Vec<u32>,
    twos: Vec<u32>,
    threes: Vec<u32>,
    one_contexts: Vec<u32>,
    two_contexts: Vec<u32>,
}

impl Counts {
    fn new() -> Self {
        Counts {
            bytes: 0,
            ones: vec![0; 1 << 8],
            twos: vec![0; 1 << 16],
            threes: vec![0; 1 << 24], // 64 MiB of which only what occurs is ever touched
            one_contexts: vec![0; 1 << 8],
            two_contexts: vec![0; 1 << 16],
        }
    }

    /// Counts the bytes of `text` at `range`, each with the bytes before it.
    fn add(&mut self, text: &[u8], range: Range<usize>) {
        for at in range {
            let byte = usize::from(text[at]);
            self.bytes += 1;
            self.ones[byte] += 1;
            if at >= 1 {
                let one = usize::from(text[at - 1]);
                self.twos[one << 8 | byte] += 1;
                self.one_contexts[one] += 1;
                if at >= 2 {
                    let two = usize::from(text[at - 2]) << 8 | one;
                    self.threes[two << 8 | byte] += 1;
                    self.two_contexts[two] += 1;
                }
            }
        }
    }

    /// (count of the last `order` bytes of `c`, count of their context).
    fn pair(&self, order: usize, [a, b, c]: [u8; 3]) -> (f64, f64) {
        let (a, b, c) = (usize::from(a), usize::from(b), usize::from(c));
        match order {
            1 => (self.ones[c].into(), self.bytes as f64),
            2 => (self.twos[b << 8 | c].into(), self.one_contexts[b].into()),
            _ => (self.threes[a << 16 | b << 8 | c].into(), self.two_contexts[a << 8 | b].into()),
        }
    }

    fn smoothed(&self, order: usize, bytes: [u8; 3], k: f64) -> f64 {
        let (count, context) = self.pair(order, bytes);
        (count + k) / (context + 256.0 * k)
    }

    /// Unsmoothed probabilities of orders 0 to 3.
    fn orders(&self, bytes: [u8; 3]) -> [f64; 4] {
        let mut orders = [1.0 / 256.0; 4];
        for order in 1..=3 {
            let (count, context) = self.pair(order, bytes);
            orders[order] = if context > 0.0 { count / context } else { orders[order - 1] };
        }
        orders
    }

    fn interpolation_weights(&self, text: &[u8], range: Range<usize>) -> [f64; 4] {
        let mut weights = [0.25; 4];
        for _ in 0..EM_STEPS {
            let mut shares = [0.0; 4];
            for at in range.clone() {
                let orders = self.orders(triple(text, at));
                let total = dot(&weights, &orders);
                (0..4).for_each(|order| shares[order] += weights[order] * orders[order] / total);
            }
            let sum: f64 = shares.iter().sum();
            // A little of every order stays: order 0 alone keeps unseen bytes possible.
            weights = shares.map(|share| (share / sum).max(1e-6));
        }
        let sum: f64 = weights.iter().sum();
        weights.map(|weight| weight / sum)
    }

    /// Mean of `-ln probability` over the bytes at `range`.
    fn loss(&self, text: &[u8], range: Range<usize>, probability: impl Fn([u8; 3]) -> f64) -> f64 {
        let count = range.len() as f64;
        range.map(|at| -libm::log(probability(triple(text, at)))).sum::<f64>() / count
    }
}

fn triple(text: &[u8], at: usize) -> [u8; 3] {
    [text[at - 2], text[at - 1], text[at]]
}

fn dot(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
