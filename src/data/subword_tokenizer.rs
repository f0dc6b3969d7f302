//! Subword vocabularies: `tokenizer.json`, and GPT-2's vocabulary + merges.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Subword};

use super::byte_level::byte_level_char;
use crate::{Error, Result};

/// Names of files that hold GPT-2's vocabulary and merges, in the order tried.
pub(super) const VOCABULARY_FILES: [&str; 2] = ["vocab.json", "encoder.json"];
pub(super) const MERGES_FILES: [&str; 2] = ["merges.txt", "vocab.bpe"];

/// Names by which BOS and EOS are known where no `tokenizer_config.json` tells.
const BOS_NAMES: [&str; 5] = ["<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>", "[CLS]"];
const EOS_NAMES: [&str; 5] = ["</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "[SEP]"];

/// Ids of BOS and EOS.
pub(super) type BoundaryTokens = (Option<u32>, Option<u32>);

/// A vocabulary from a file, read by the crate `tokenizers`.
#[derive(Debug)]
pub(super) struct SubwordTokenizer {
    pub path: PathBuf,
    inner: Subword,
    pub vocabulary: usize,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// The bytes each id stands for inside a text.
    pub pieces: Vec<Vec<u8>>,
    /// Whether the blank before the first word of a text is the tokenizer's own.
    pub strips_leading_blank: bool,
}

impl SubwordTokenizer {
    pub fn load_json(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        SubwordTokenizer::parse(path, &bytes, None)
    }

    /// The text of a `tokenizer.json` from `path`. `ends`: BOS and EOS where something other than files beside `path` tells.
    pub fn parse(path: &Path, bytes: &[u8], ends: Option<BoundaryTokens>) -> Result<Self> {
        // Syntax is checked before the crate sees a file.
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map_err(|error| Error::format(path, None, format!("not a tokenizer.json: {error}")))?;
        caught(path, || {
            let inner = Subword::from_bytes(bytes).map_err(|error| fault(path, "not a tokenizer.json", &error))?;
            SubwordTokenizer::new(path, inner, ends)
        })
    }

    pub fn load_gpt2(folder: &Path, asked: &Path) -> Result<Self> {
        let find = |names: &[&str]| {
            let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
            found.ok_or_else(|| {
                let message = format!("no tokenizer: expected tokenizer.json or {} beside it", names.join(" or "));
                Error::format(asked, None, message)
            })
        };
        let (vocabulary, merges) = (find(&VOCABULARY_FILES)?, find(&MERGES_FILES)?);
        let build = || -> tokenizers::Result<Subword> {
            let (vocabulary, merges) = (vocabulary.to_string_lossy(), merges.to_string_lossy());
            let mut inner = Subword::new(BPE::from_file(&vocabulary, &merges).build()?);
            inner.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
            inner.with_decoder(Some(ByteLevel::default()));
            if inner.token_to_id("<|endoftext|>").is_some() {
                inner.add_special_tokens([AddedToken::from("<|endoftext|>", true)])?;
            }
            Ok(inner)
        };
        caught(&vocabulary, || {
            let inner = build().map_err(|error| fault(&vocabulary, "not GPT-2's vocabulary and merges", &error))?;
            SubwordTokenizer::new(&vocabulary, inner, None)
        })
    }

    fn new(path: &Path, mut inner: Subword, ends: Option<BoundaryTokens>) -> Result<Self> {
        let error = |error: tokenizers::Error| fault(path, "tokenizer", &error);
        inner.with_truncation(None).map_err(error)?.with_padding(None);
        let vocab: BTreeMap<u32, String> = inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        let vocabulary = vocab.last_key_value().map_or(0, |(id, _)| *id as usize + 1);
        if vocabulary == 0 || vocabulary > 1 << 24 {
            return Err(Error::format(path, None, format!("a vocabulary of {vocabulary} ids, expected 1 to 2^24")));
        }
        let byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let to_byte: BTreeMap<char, u8> = (0..=255).map(|byte| (byte_level_char(byte), byte)).collect();
        let mut pieces = vec![Vec::new(); vocabulary];
        inner.encode_fast("a", true).map_err(error)?; // a trial of what is put before and after a text
        let anchor = inner.encode_fast("a", false).map_err(error)?.get_ids().first().copied();
        let special = inner.get_added_tokens_decoder();
        for (&id, token) in &vocab {
            pieces[id as usize] = if special.get(&id).is_some_and(|token| token.special) {
                Vec::new()
            } else if byte_level {
                token.chars().flat_map(|c| to_byte.get(&c).map_or(c.to_string().into_bytes(), |&b| vec![b])).collect()
            } else if let Some(byte) = byte_fallback(token) {
                vec![byte]
            } else {
                text_after(&inner, anchor, id).map_err(error)?.into_bytes()
            };
        }
        let stripped = |id: u32| {
            let alone = inner.decode(&[id], true).unwrap_or_default();
            let inside = &pieces[id as usize];
            inside.len() > 1 && inside[0] == b' ' && alone.as_bytes() == &inside[1..]
        };
        let strips_leading_blank = !byte_level && vocab.keys().any(|&id| stripped(id));
        let (bos, eos) = ends.map_or_else(|| boundary_tokens(path, &inner), Ok)?;
        let path = path.to_path_buf();
        Ok(SubwordTokenizer { path, inner, vocabulary, bos, eos, pieces, strips_leading_blank })
    }

    /// Whether the 256 ids are the bytes: a file that [`super::Tokenizer::save`] made for the byte-level tokenizer.
    pub fn is_byte_level(&self) -> bool {
        self.pieces.len() == 256 && self.pieces.iter().enumerate().all(|(id, piece)| piece[..] == [id as u8])
    }

    /// See [`super::Tokenizer::encode_with_ends`].
    pub fn encode_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let encoding = self.inner.encode(text, false).map_err(|error| fault(&self.path, "tokenizer", &error))?;
        let mut last = 0;
        let running_maximum = |&(_, end): &(usize, usize)| {
            last = last.max(end as u32);
            last
        };
        let mut ends: Vec<u32> = encoding.get_offsets().iter().map(running_maximum).collect();
        if let Some(end) = ends.last_mut() {
            *end = text.len() as u32;
        }
        Ok((encoding.get_ids().to_vec(), ends))
    }

    /// See [`super::Tokenizer::encode_prompt`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| fault(&self.path, "tokenizer", &error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The texts of `tokenizer.json` and `tokenizer_config.json`.
    pub fn to_json(&self) -> Result<(String, String)> {
        let json = self.inner.to_string(true).map_err(|error| fault(&self.path, "tokenizer", &error))?;
        let name = |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id));
        let config = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name(self.bos),
            "eos_token": name(self.eos),
        });
        Ok((json, config.to_string()))
    }
}

/// What `load` gives; an error where the crate panics, as it does on some damaged files (a merge longer than every token).
fn caught<T>(path: &Path, load: impl FnOnce() -> Result<T> + std::panic::UnwindSafe) -> Result<T> {
    std::panic::catch_unwind(load).unwrap_or_else(|_| Err(Error::format(path, None, "damaged tokenizer")))
}

/// One line that names the file.
fn fault(path: &Path, what: &str, error: &tokenizers::Error) -> Error {
    Error::format(path, None, format!("{what}: {}", error.to_string().escape_debug()))
}

/// What `id` adds to a text that ends in `anchor`.
fn text_after(inner: &Subword, anchor: Option<u32>, id: u32) -> tokenizers::Result<String> {
    if let Some(anchor) = anchor {
        let (before, both) = (inner.decode(&[anchor], true)?, inner.decode(&[anchor, id], true)?);
        if let Some(after) = both.strip_prefix(&before) {
            return Ok(after.to_string());
        }
    }
    inner.decode(&[id], true)
}

/// The byte of a token like `<0x0A>`.
fn byte_fallback(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Ids of BOS and EOS: named by `tokenizer_config.json` beside the file, else by their usual names.
fn boundary_tokens(path: &Path, inner: &Subword) -> Result<BoundaryTokens> {
    let config_path = path.with_file_name("tokenizer_config.json");
    let config: serde_json::Value = match std::fs::read(&config_path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&config_path, None, error.to_string().escape_debug().to_string()))?,
        Err(_) => serde_json::Value::Null,
    };
    let find = |key: &str, names: &[&str]| {
        let named = config.get(key).map(|value| value.get("content").unwrap_or(value));
        match named {
            Some(name) => name.as_str().and_then(|name| inner.token_to_id(name)),
            None => names.iter().find_map(|name| inner.token_to_id(name)),
        }
    };
    Ok((find("bos_token", &BOS_NAMES), find("eos_token", &EOS_NAMES)))
}
