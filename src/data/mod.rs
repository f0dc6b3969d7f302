//! From text to batches: files and folders, tokenizers, training and validation windows, n-gram baselines.

mod byte_level;
mod dataset;
mod gguf_tokenizer;
mod gguf_word_piece;
mod ngram;
mod sentence_piece;
mod subword_tokenizer;
mod text_decoder;
mod text_source;
mod token_store;
mod tokenizer;
mod word_piece;

pub use dataset::{Split, TokenBatch, TokenDataset};
pub use ngram::NgramBaselines;
pub use text_decoder::TextDecoder;
pub use text_source::{TextFile, TextSource, TextSplit};
pub use tokenizer::{NEWLINE, Tokenizer};
