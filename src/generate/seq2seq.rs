//! Text of an encoder-decoder: greedy, or by beam search.
#![forbid(unsafe_code)]

use crate::dispatch::Context;
use crate::models::{Head, Model};
use crate::nn::{Batch, Executor, KeyValueCache, Mode};
use crate::{Error, Result};

/// Most texts followed at once.
const MAX_BEAMS: usize = 1 << 10;

/// How a target is searched.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BeamOptions {
    /// Texts followed at once; 1: greedy.
    pub beams: usize,
    /// Most tokens written.
    pub tokens: usize,
    /// A text's score is its log probability over its length to this power: above 0 favours longer texts.
    pub length_penalty: f32,
}

impl Default for BeamOptions {
    /// Greedy, 128 tokens.
    fn default() -> Self {
        BeamOptions { beams: 1, tokens: 128, length_penalty: 1.0 }
    }
}

/// A target and how likely it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// Its tokens, without the one that starts it; the last one is an end-of-text token if the model came to one.
    pub tokens: Vec<u32>,
    /// Natural logarithm of its probability.
    pub log_probability: f64,
    /// `log_probability / length ^ length_penalty`: the higher the better.
    pub score: f64,
}

/// Writes the target of `source`: the best of the texts that the search has met. The source is encoded once; the beams
/// share the work of each step. The search ends when no text that goes on can become better than the `beams` best that have
/// ended. The same model, source and options give the same tokens at any number of threads.
///
/// Errors: no beams or tokens, a penalty that is not finite, an empty source or one longer than the context, a model that is
/// no encoder-decoder or does not say what starts a text, logits that are not finite.
pub fn translate(context: &Context, model: &mut Model, source: &[u32], options: &BeamOptions) -> Result<Target> {
    let config = &model.config;
    if config.head != Head::Seq2Seq {
        return Err(Error::invalid("model", "an encoder-decoder", config.model_type.name()));
    }
    let missing = || Error::invalid("decoder_start_token_id", "in the model's configuration", "none");
    let start = config.decoder_start_token_id.or(config.bos_token_id).ok_or_else(missing)?;
    let longest = config.context_length();
    for (name, value, most) in [
        ("beams", options.beams, MAX_BEAMS),
        ("tokens", options.tokens, usize::MAX),
        ("source tokens", source.len(), longest),
    ] {
        if value == 0 || value > most {
            return Err(Error::invalid(name, format!("1 to {most}"), value));
        }
    }
    if !options.length_penalty.is_finite() {
        return Err(Error::invalid("length_penalty", "a finite number", options.length_penalty));
    }
    let ends = config.eos_token_id.clone();
    let mut search =
        Search { options: *options, tokens: options.tokens.min(longest), running: Vec::new(), ended: Vec::new() };
    search.running.push(Beam { tokens: Vec::new(), log_probability: 0.0, row: 0 });
    let mut reader = Reader::new(model, source, options.beams, search.tokens);
    for _ in 0..search.tokens {
        let logits = reader.read(context, model, &search.running, start)?;
        search.extend(&logits, model.config.vocab_size, &ends)?;
        if search.is_over() {
            break;
        }
    }
    Ok(search.best())
}

/// A text being written.
#[derive(Clone, Debug)]
struct Beam {
    tokens: Vec<u32>,
    log_probability: f64,
    /// The beam of the step before that it goes on from.
    row: usize,
}

struct Search {
    options: BeamOptions,
    tokens: usize,
    running: Vec<Beam>,
    ended: Vec<Target>,
}

impl Search {
    fn score(&self, log_probability: f64, length: usize) -> f64 {
        log_probability / libm::pow(length as f64, f64::from(self.options.length_penalty))
    }

    fn target(&self, beam: &Beam) -> Target {
        let score = self.score(beam.log_probability, beam.tokens.len());
        Target { tokens: beam.tokens.clone(), log_probability: beam.log_probability, score }
    }

    /// One more token for every running text: the likeliest go on, those that end are kept. `logits`: a row for each.
    fn extend(&mut self, logits: &[f32], vocabulary: usize, ends: &[u32]) -> Result<()> {
        let mut candidates: Vec<(f64, usize, u32)> = Vec::new();
        // Every text may end in each way and still leave enough that go on.
        let wanted = self.options.beams * (1 + ends.len());
        for (row, (beam, logits)) in self.running.iter().zip(logits.chunks_exact(vocabulary)).enumerate() {
            if let Some(index) = logits.iter().position(|logit| !logit.is_finite()) {
                return Err(Error::NonFinite { tensor: "logits".into(), index, value: logits[index] });
            }
            let most = logits.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
            let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit - most))).sum();
            let shift = beam.log_probability - f64::from(most) - libm::log(sum);
            candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| (f64::from(logit) + shift, row, id)));
        }
        // The lowest row and id on ties: a total order.
        let likelier =
            |a: &(f64, usize, u32), b: &(f64, usize, u32)| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
        if candidates.len() > wanted {
            candidates.select_nth_unstable_by(wanted - 1, likelier);
            candidates.truncate(wanted);
        }
        candidates.sort_unstable_by(likelier);
        let before = std::mem::take(&mut self.running);
        for (log_probability, row, id) in candidates {
            let mut tokens = before[row].tokens.clone();
            tokens.push(id);
            let beam = Beam { tokens, log_probability, row };
            if ends.contains(&id) {
                let target = self.target(&beam);
                self.ended.push(target);
            } else if self.running.len() < self.options.beams {
                self.running.push(beam);
            }
            // What is less likely than all that go on is not followed, nor does it end.
            if self.running.len() == self.options.beams {
                break;
            }
        }
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(self.options.beams);
        Ok(())
    }

    /// Whether nothing goes on, or nothing that does can become better than what has ended.
    fn is_over(&self) -> bool {
        let Some(best) = self.running.first() else { return true };
        if self.options.beams == 1 && !self.ended.is_empty() {
            return true;
        }
        // Log probabilities only fall; the score of one is highest at one end of the lengths to come.
        let lengths = [best.tokens.len() + 1, self.tokens.max(best.tokens.len() + 1)];
        let reachable =
            lengths.map(|length| self.score(best.log_probability, length)).into_iter().fold(f64::MIN, f64::max);
        self.ended.len() == self.options.beams && self.ended.iter().all(|ended| ended.score >= reachable)
    }

    /// The best text: one that has ended, or one cut off at the most tokens.
    fn best(mut self) -> Target {
        let cut: Vec<Target> =
            self.running.iter().filter(|beam| beam.tokens.len() == self.tokens).map(|beam| self.target(beam)).collect();
        if self.options.beams > 1 || self.ended.is_empty() {
            self.ended.extend(cut);
        }
        let best = self.ended.into_iter().reduce(|a, b| if b.score > a.score { b } else { a });
        best.expect("a search of one token has one text at least")
    }
}

/// Feeds the decoder, beam after beam, the token written last.
struct Reader {
    executor: Executor,
    cache: KeyValueCache,
    source: Vec<u32>,
    beams: usize,
}

impl Reader {
    fn new(model: &Model, source: &[u32], beams: usize, tokens: usize) -> Self {
        let executor = Executor::new(&model.plan, Mode::Generate, beams * source.len());
        Reader { executor, cache: model.key_value_cache(beams, tokens), source: source.repeat(beams), beams }
    }

    /// Logits after each running text, `[running, vocabulary]`. All beams are always read: those that have no text yet, or
    /// no more, repeat the first.
    fn read(&mut self, context: &Context, model: &mut Model, running: &[Beam], start: u32) -> Result<Vec<f32>> {
        let of = |beam: usize| running.get(beam).unwrap_or(&running[0]);
        if !self.cache.is_empty() {
            let rows: Vec<usize> = (0..self.beams).map(|beam| of(beam).row).collect();
            self.cache.select(&rows);
        }
        let tokens: Vec<u32> = (0..self.beams).map(|beam| of(beam).tokens.last().copied().unwrap_or(start)).collect();
        let batch =
            Batch { tokens: &tokens, source: &self.source, sequences: self.beams, length: 1, ..Batch::default() };
        let mut logits = self.executor.generate(&model.plan, context, &mut model.store, batch, &mut self.cache)?;
        logits.truncate(running.len() * model.config.vocab_size);
        Ok(logits)
    }
}
