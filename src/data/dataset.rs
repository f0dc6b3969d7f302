//! Training and validation tokens, and the windows read from them.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::token_store::TokenStore;
use super::tokenizer::{NEWLINE, Tokenizer};
use super::{TextSource, TextSplit};
use crate::dispatch::Context;
use crate::nn::Batch;
use crate::tensor::RandomStream;
use crate::{Error, Result};

/// Random streams of training batches (see [`RandomStream::new`]).
const BATCH_PURPOSE: u32 = 41;

/// Most evaluation windows.
const MOST_WINDOWS: usize = 1 << 24;

/// The two parts of a dataset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// What is learned from.
    Training,
    /// What is measured on.
    Validation,
}

/// The storage behind [`Batch`], whose fields it has.
#[derive(Clone, Default, Debug)]
pub struct TokenBatch {
    /// Ids, `[sequences, length]`.
    pub tokens: Vec<u32>,
    /// What the head is to predict.
    pub targets: Vec<u32>,
    /// Numbers that a regression is to predict.
    pub values: Vec<f32>,
    /// Segment of each token, or none.
    pub token_types: Vec<u32>,
    /// Tokens of each sequence that count, or none.
    pub lengths: Vec<u32>,
    /// What an encoder-decoder's encoder reads, or none.
    pub source: Vec<u32>,
    /// How often each sequence counts, or none: each once.
    pub weights: Vec<f32>,
    /// Number of sequences.
    pub sequences: usize,
    /// Tokens of each sequence.
    pub length: usize,
}

impl TokenBatch {
    /// A batch of `sequences x length` zeros with as many targets, and nothing else.
    pub fn reset(&mut self, sequences: usize, length: usize) {
        for ids in [&mut self.tokens, &mut self.targets] {
            ids.clear();
            ids.resize(sequences * length, 0);
        }
        self.values.clear();
        self.token_types.clear();
        self.lengths.clear();
        self.source.clear();
        self.weights.clear();
        (self.sequences, self.length) = (sequences, length);
    }

    /// The batch as the executor takes it.
    pub fn view(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            targets: &self.targets,
            values: &self.values,
            token_types: &self.token_types,
            lengths: &self.lengths,
            source: &self.source,
            weights: &self.weights,
            sequences: self.sequences,
            length: self.length,
        }
    }
}

/// A text as tokens, split into training and validation.
///
/// The files of a split follow one another, joined by one BOS token (byte-level: a newline). A window of length `T` at
/// offset `o` has the tokens `o..o+T` and the targets `o+1..o+T+1`.
#[derive(Debug)]
pub struct TokenDataset {
    path: PathBuf,
    vocabulary: usize,
    training: TokenStore,
    validation: TokenStore,
    /// For each validation token, the bytes of text up to its end; empty if every token is one byte.
    validation_ends: Vec<u64>,
}

impl TokenDataset {
    /// Tokenizes a text, on the context's threads. Without `validation`, the last tenth of each file is for validation
    /// (see [`TextSplit::new`]). Error: text that the tokenizer cannot read.
    pub fn new(
        context: &Context,
        tokenizer: &Tokenizer,
        source: &TextSource,
        validation: Option<&TextSource>,
    ) -> Result<Self> {
        let split = TextSplit::new(source, validation, tokenizer);
        let (training, _) = tokenize(context, tokenizer, source, &split.training)?;
        let (validation, validation_ends) =
            tokenize(context, tokenizer, validation.unwrap_or(source), &split.validation)?;
        let (path, vocabulary) = (source.root().to_path_buf(), tokenizer.vocabulary());
        Ok(TokenDataset { path, vocabulary, training, validation, validation_ends })
    }

    /// Token ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Number of tokens of a split.
    pub fn tokens(&self, split: Split) -> usize {
        self.store(split).len()
    }

    /// Bytes of memory of the tokens.
    pub fn memory_bytes(&self) -> usize {
        self.training.bytes() + self.validation.bytes() + size_of_val(&self.validation_ends[..])
    }

    fn store(&self, split: Split) -> &TokenStore {
        match split {
            Split::Training => &self.training,
            Split::Validation => &self.validation,
        }
    }

    /// Bytes of text that the targets of a validation window stand for (BOS tokens between files: none, or one newline).
    pub fn target_bytes(&self, offset: usize, length: usize) -> u64 {
        match self.validation_ends.is_empty() {
            true => length as u64,
            false => self.validation_ends[offset + length] - self.validation_ends[offset],
        }
    }

    /// Checks that both splits hold a window of `length` tokens and its last target. The error names the data.
    pub fn check_length(&self, length: usize) -> Result<()> {
        for split in [Split::Training, Split::Validation] {
            self.last_offset(split, length)?;
        }
        Ok(())
    }

    /// The last offset a window can have.
    fn last_offset(&self, split: Split, length: usize) -> Result<usize> {
        let tokens = self.tokens(split);
        if length == 0 {
            return Err(Error::invalid("sequence length", "at least 1", 0));
        }
        tokens.checked_sub(length).and_then(|rest| rest.checked_sub(1)).ok_or_else(|| {
            let name = if split == Split::Training { "training" } else { "validation" };
            let message = format!("too short: {tokens} {name} tokens, expected more than the sequence length {length}");
            Error::format(&self.path, None, message)
        })
    }

    /// Offsets of `count` training windows, drawn uniformly: a pure function of seed, step and count. Error: the training
    /// split is shorter than a window.
    pub fn random_offsets(&self, seed: u64, step: u32, count: usize, length: usize) -> Result<Vec<usize>> {
        let offsets = self.last_offset(Split::Training, length)? as u64 + 1;
        let mut stream = RandomStream::new(seed, BATCH_PURPOSE, step, 0);
        Ok((0..count).map(|_| stream.below(offsets) as usize).collect())
    }

    /// Offsets of the training windows that follow one another without overlap, for clustering; a rest shorter than a
    /// window is left out. Error: the training split is shorter than a window.
    pub fn partition(&self, length: usize) -> Result<Vec<usize>> {
        let last = self.last_offset(Split::Training, length)?;
        Ok((0..=last).step_by(length).collect())
    }

    /// Offsets of `windows` evenly spaced validation windows, the first at the start and the last at the end, rounded
    /// down as numpy's `linspace(0, last, windows).astype(int)` does. Errors: a number of
    /// windows out of range, too short a split.
    pub fn evaluation_offsets(&self, windows: usize, length: usize) -> Result<Vec<usize>> {
        let last = self.last_offset(Split::Validation, length)?;
        if windows == 0 || windows > MOST_WINDOWS {
            return Err(Error::invalid("evaluation windows", format!("1 to {MOST_WINDOWS}"), windows));
        }
        let step = last as f64 / (windows - 1).max(1) as f64;
        let mut offsets: Vec<usize> = (0..windows).map(|window| (window as f64 * step) as usize).collect();
        if windows > 1 {
            offsets[windows - 1] = last;
        }
        Ok(offsets)
    }

    /// Reads the windows of `length` tokens at `offsets` into `batch`.
    ///
    /// # Panics
    /// If a window reaches past the split's end.
    pub fn read(&self, split: Split, offsets: &[usize], length: usize, batch: &mut TokenBatch) {
        let store = self.store(split);
        batch.tokens.resize(offsets.len() * length, 0);
        batch.targets.resize(offsets.len() * length, 0);
        (batch.sequences, batch.length) = (offsets.len(), length);
        for (row, &offset) in offsets.iter().enumerate() {
            let place = row * length..(row + 1) * length;
            store.read(offset..offset + length, &mut batch.tokens[place.clone()]);
            store.read(offset + 1..offset + length + 1, &mut batch.targets[place]);
        }
    }
}

/// Tokens of all documents, and for each the bytes of text up to its end (none for a byte-level tokenizer).
fn tokenize(
    context: &Context,
    tokenizer: &Tokenizer,
    source: &TextSource,
    documents: &[&[u8]],
) -> Result<(TokenStore, Vec<u64>)> {
    let mut store = TokenStore::new(tokenizer.vocabulary());
    let mut ends = Vec::new();
    if tokenizer.is_byte_level() {
        for (index, document) in documents.iter().enumerate() {
            if index > 0 {
                store.extend_bytes(&[NEWLINE]);
            }
            store.extend_bytes(document);
        }
        return Ok((store, ends));
    }
    let mut base = 0;
    for (index, document) in documents.iter().enumerate() {
        let name = &source.files()[index].path;
        let text = std::str::from_utf8(document).map_err(|error| {
            let path = if source.root().is_dir() { source.root().join(name) } else { source.root().to_path_buf() };
            Error::format(path, None, format!("this tokenizer reads UTF-8 text: {error}"))
        })?;
        if index > 0
            && let Some(bos) = tokenizer.bos()
        {
            store.extend(&[bos]);
            ends.push(base);
        }
        let pieces = super::tokenizer::pieces(text);
        let encoded = context.map(pieces.iter(), |piece| tokenizer.encode_with_ends(piece));
        let encoded: Result<Vec<_>> = encoded.into_iter().collect();
        for (piece, (ids, piece_ends)) in pieces.iter().zip(encoded?) {
            store.extend(&ids);
            ends.extend(piece_ends.iter().map(|&end| base + u64::from(end)));
            base += piece.len() as u64;
        }
    }
    Ok((store, ends))
}
