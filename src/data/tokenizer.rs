//! Text to token ids and back.
#![forbid(unsafe_code)]

use std::path::Path;

use super::byte_level::byte_level_json;
use super::subword_tokenizer::{MERGES_FILES, SubwordTokenizer, VOCABULARY_FILES};
use super::text_decoder::TextDecoder;
use super::word_piece::read_vocab_txt;
use crate::formats::atomic_write;
use crate::{Error, Result};

/// The byte-level tokenizer's BOS: a line break, after which a text may begin. (A 257th id would cost every comparison
/// with byte models its common vocabulary, and the head a row that is hardly ever trained.)
pub const NEWLINE: u8 = b'\n';

/// BERT's vocabulary.
const PIECES_FILE: &str = "vocab.txt";

/// Longer texts are encoded in pieces of about this size, side by side.
const PIECE_BYTES: usize = 1 << 18;

/// Text to token ids and back: bytes as they are, or a subword vocabulary from a file.
#[derive(Debug)]
pub struct Tokenizer {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Bytes,
    Subword(Box<SubwordTokenizer>),
}

impl Default for Tokenizer {
    fn default() -> Self {
        Tokenizer::bytes()
    }
}

impl Tokenizer {
    /// The byte-level tokenizer: 256 ids, id = byte, BOS = [`NEWLINE`], no EOS. Any text, of any encoding.
    pub fn bytes() -> Self {
        Tokenizer { kind: Kind::Bytes }
    }

    /// Reads a tokenizer: a `tokenizer.json`; GPT-2's `vocab.json` or `encoder.json` with `merges.txt` or `vocab.bpe` beside
    /// it (any of the two files may be named); BERT's `vocab.txt`; or a folder that holds one of these. Errors: missing files,
    /// other formats.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Tokenizer::of_subword(Tokenizer::load_subword(path.as_ref())?))
    }

    pub(super) fn of_subword(subword: SubwordTokenizer) -> Self {
        if subword.is_byte_level() { Tokenizer::bytes() } else { Tokenizer { kind: Kind::Subword(Box::new(subword)) } }
    }

    /// A tokenizer from the text of a `tokenizer.json` that came from `path`, with the ids of BOS and EOS.
    /// Error: another format.
    pub fn from_json(path: &Path, json: &[u8], ends: (Option<u32>, Option<u32>)) -> Result<Self> {
        Ok(Tokenizer::of_subword(SubwordTokenizer::parse(path, json, Some(ends))?))
    }

    /// The text of the `tokenizer.json`; none for bytes.
    pub fn subword_json(&self) -> Result<Option<String>> {
        match &self.kind {
            Kind::Bytes => Ok(None),
            Kind::Subword(subword) => Ok(Some(subword.to_json()?.0)),
        }
    }

    fn load_subword(path: &Path) -> Result<SubwordTokenizer> {
        let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
        if metadata.is_dir() {
            let file = path.join("tokenizer.json");
            if file.is_file() {
                return SubwordTokenizer::load_json(&file);
            }
            let pieces = path.join(PIECES_FILE);
            if pieces.is_file() && !VOCABULARY_FILES.iter().any(|name| path.join(name).is_file()) {
                return Tokenizer::load_word_piece(&pieces);
            }
            return SubwordTokenizer::load_gpt2(path, path);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default();
        if VOCABULARY_FILES.iter().chain(&MERGES_FILES).any(|known| name == *known) {
            return SubwordTokenizer::load_gpt2(folder, path);
        }
        if name == PIECES_FILE {
            return Tokenizer::load_word_piece(path);
        }
        SubwordTokenizer::load_json(path)
    }

    fn load_word_piece(path: &Path) -> Result<SubwordTokenizer> {
        let json = read_vocab_txt(path)?;
        let id = |place: usize| {
            let token = json["post_processor"]["single"][place]["SpecialToken"]["id"].as_str()?;
            json["model"]["vocab"][token].as_u64().map(|id| id as u32)
        };
        SubwordTokenizer::parse(path, json.to_string().as_bytes(), Some((id(0), id(2))))
    }

    /// Writes `tokenizer.json` (and `tokenizer_config.json` with the names of BOS and EOS) into `folder`, in Hugging Face's
    /// form; [`Tokenizer::load`] reads it back. Errors: the system's.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let (json, config) = match &self.kind {
            Kind::Bytes => (byte_level_json(), None),
            Kind::Subword(subword) => {
                let (json, config) = subword.to_json()?;
                (json, Some(config))
            }
        };
        atomic_write(folder.join("tokenizer.json"), |file| file.write(json.as_bytes()))?;
        match config {
            Some(config) => atomic_write(folder.join("tokenizer_config.json"), |file| file.write(config.as_bytes())),
            None => Ok(()),
        }
    }

    /// Whether ids are bytes.
    pub fn is_byte_level(&self) -> bool {
        matches!(self.kind, Kind::Bytes)
    }

    /// Ids are below this.
    pub fn vocabulary(&self) -> usize {
        match &self.kind {
            Kind::Bytes => 256,
            Kind::Subword(subword) => subword.vocabulary,
        }
    }

    /// Checks that every id is known to a model of `vocabulary` ids. The error names the tokenizer.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<()> {
        if self.vocabulary() <= vocabulary {
            return Ok(());
        }
        let name = match &self.kind {
            Kind::Bytes => "byte-level tokenizer".into(),
            Kind::Subword(subword) => subword.path.display().to_string(),
        };
        Err(Error::invalid(name, format!("at most the model's {vocabulary} ids"), self.vocabulary()))
    }

    /// The id that begins a text, if there is one.
    pub fn bos(&self) -> Option<u32> {
        match &self.kind {
            Kind::Bytes => Some(NEWLINE.into()),
            Kind::Subword(subword) => subword.bos,
        }
    }

    /// The id that ends a text, if there is one.
    pub fn eos(&self) -> Option<u32> {
        match &self.kind {
            Kind::Bytes => None,
            Kind::Subword(subword) => subword.eos,
        }
    }

    /// The ids of `text`, without BOS and EOS. Error: what the tokenizer's file cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for piece in pieces(text) {
            ids.extend(self.encode_with_ends(piece)?.0);
        }
        Ok(ids)
    }

    /// The ids of a text to be continued: with what the tokenizer's file puts before every text (BOS, for some), which an
    /// empty text may consist of.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Bytes => self.encode(text),
            Kind::Subword(subword) => subword.encode_prompt(text),
        }
    }

    /// The ids of `text` and, for each, the bytes of `text` up to its end (an id that is part of a character counts the
    /// whole character, later parts nothing). The last end is the length of `text`.
    pub(super) fn encode_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        match &self.kind {
            Kind::Bytes => Ok((text.bytes().map(u32::from).collect(), (1..=text.len() as u32).collect())),
            Kind::Subword(subword) => subword.encode_with_ends(text),
        }
    }

    /// Appends the bytes that `id` stands for inside a text: none for BOS and the like, and for unknown ids.
    pub(super) fn append_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        match &self.kind {
            Kind::Bytes => bytes.extend(u8::try_from(id)),
            Kind::Subword(subword) => bytes.extend(subword.pieces.get(id as usize).into_iter().flatten()),
        }
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD, BOS and the like nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder(true);
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// Decodes id by id. `start`: the first id begins a text (some tokenizers put a blank before every word, the first
    /// included).
    pub fn decoder(&self, start: bool) -> TextDecoder<'_> {
        let strip_blank = match &self.kind {
            Kind::Bytes => false,
            Kind::Subword(subword) => start && subword.strips_leading_blank,
        };
        TextDecoder::new(self, strip_blank)
    }
}

/// Cuts a text into pieces of about [`PIECE_BYTES`], each cut between a letter or digit and a line break: there every
/// known pattern of words ends, so the ids are those of the whole text. Text without such a place stays whole.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, bytes) = (0, text.as_bytes());
    while bytes.len() - start > PIECE_BYTES {
        let from = start + PIECE_BYTES;
        let good = |&at: &usize| bytes[at] == b'\n' && bytes[at - 1].is_ascii_alphanumeric();
        let Some(cut) = (from..bytes.len()).find(good) else { break };
        pieces.push(&text[start..cut]);
        start = cut;
    }
    pieces.push(&text[start..]);
    pieces
}
