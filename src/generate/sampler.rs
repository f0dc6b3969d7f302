//! From logits to the next token.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::tensor::RandomStream;
use crate::{Error, Result};

/// Random stream of draws (see [`RandomStream::new`]).
const SAMPLING_PURPOSE: u32 = 42;

/// How the next token is chosen.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerOptions {
    /// Divides the logits; 0 takes the most likely token (the lowest id on ties).
    pub temperature: f32,
    /// Draw from this many most likely tokens only; `None`: from all.
    pub top_k: Option<usize>,
    /// Draw from the fewest most likely tokens whose probabilities sum to this (Holtzman et al., 2020); 1: from all.
    pub top_p: f32,
    /// Divides positive and multiplies negative logits of tokens that already occurred (Keskar et al., 2019); 1: off.
    pub repetition_penalty: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions { temperature: 0.8, top_k: None, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplerOptions {
    /// Checks every field. The error names it.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..=1000.0).contains(&self.temperature) {
            return Err(Error::invalid("temperature", "0 to 1000", self.temperature));
        }
        if self.top_k == Some(0) {
            return Err(Error::invalid("top-k", "at least 1", 0));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::invalid("top-p", "above 0, at most 1", self.top_p));
        }
        if !(0.01..=100.0).contains(&self.repetition_penalty) {
            return Err(Error::invalid("repetition-penalty", "0.01 to 100", self.repetition_penalty));
        }
        Ok(())
    }
}

/// Draws tokens. The n-th draw is a pure function of seed, n and what it is given.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    stream: RandomStream,
    /// (logit, id) of the tokens drawn from.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at its first draw. Error: an option out of its range.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        options.validate()?;
        let stream = RandomStream::new(options.seed, SAMPLING_PURPOSE, 0, 0);
        Ok(Sampler { options, stream, candidates: Vec::new() })
    }

    /// The next token: `logits` holds one value for each id and is changed; `context` holds the tokens so far. Errors: no
    /// logits, a NaN among them, or nothing above minus infinity.
    pub fn sample(&mut self, logits: &mut [f32], context: &[u32]) -> Result<u32> {
        self.penalize(logits, context);
        if let Some(index) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(Error::NonFinite { tensor: "logits".into(), index, value: logits[index] });
        }
        // Likeliest first, the lowest id on ties: a total order, so the choice never depends on the sorting.
        let likelier = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        // -0 and 0 are the same logit and must tie.
        let candidates = logits.iter().zip(0u32..).map(|(&logit, id)| (logit + 0.0, id));
        self.candidates.clear();
        self.candidates.extend(candidates.filter(|candidate| candidate.0 > f32::NEG_INFINITY));
        let Some(&best) = self.candidates.iter().min_by(|a, b| likelier(a, b)) else {
            return Err(Error::invalid("logits", "a value above minus infinity", format!("{} values", logits.len())));
        };
        if self.options.temperature == 0.0 || best.0 == f32::INFINITY {
            return Ok(best.1);
        }
        if let Some(k) = self.options.top_k.filter(|&k| k < self.candidates.len()) {
            self.candidates.select_nth_unstable_by(k, likelier);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(likelier);
        let scale = 1.0 / f64::from(self.options.temperature);
        let weight = |logit: f32| libm::exp((f64::from(logit) - f64::from(best.0)) * scale);
        let mut total: f64 = self.candidates.iter().map(|candidate| weight(candidate.0)).sum();
        if self.options.top_p < 1.0 {
            let (wanted, mut kept, mut sum) = (f64::from(self.options.top_p) * total, 0, 0.0);
            while kept < self.candidates.len() && (kept == 0 || sum < wanted) {
                sum += weight(self.candidates[kept].0);
                kept += 1;
            }
            self.candidates.truncate(kept);
            total = sum;
        }
        let mut rest = self.stream.uniform() * total;
        for &(logit, id) in &self.candidates {
            rest -= weight(logit);
            if rest < 0.0 {
                return Ok(id);
            }
        }
        // Rounding may leave a rest of the size of one ulp: it belongs to the last candidate.
        Ok(self.candidates[self.candidates.len() - 1].1)
    }

    fn penalize(&self, logits: &mut [f32], context: &[u32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut seen: Vec<u32> = context.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }
}
