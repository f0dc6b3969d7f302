//! WordPiece as GGUF metadata, and back. llama.cpp's files mark the first piece of a word, BERT's those inside it.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::gguf_tokenizer::{Vocabulary, token_type};
use super::tokenizer::Tokenizer;
use super::word_piece::{Cleaning, INSIDE, Specials, cleaning_of, word_piece_json};
use crate::Result;
use crate::formats::{GgufFile, GgufValue};

/// What the first piece of a word begins with.
const FIRST: &str = "▁";

/// Entries of `tokenizer.ggml` and vocabulary of a `tokenizer.json` that puts `ends` around a text; `None` if llama.cpp would
/// read texts differently.
pub(super) fn word_piece_entries(json: &Value, ends: &[u32]) -> Option<(Vec<(&'static str, GgufValue)>, Vocabulary)> {
    let cleaning = cleaning_of(json).filter(|cleaning| cleaning.chinese_words)?;
    let &[first, last] = ends else { return None };
    let mut words = Vocabulary::of_json(json);
    let find = |name: Option<&str>| words.tokens.iter().position(|token| Some(token.as_str()) == name);
    let mut entries = vec![
        ("model", GgufValue::String("bert".into())),
        ("normalizer.lowercase", GgufValue::Bool(cleaning.lowercase)),
        ("normalizer.strip_accents", GgufValue::Bool(cleaning.strip_accents)),
        ("unknown_token_id", GgufValue::U32(find(json["model"]["unk_token"].as_str())? as u32)),
    ];
    // (The third is spelt so there.)
    let ends = [("bos_token_id", first), ("cls_token_id", first), ("seperator_token_id", last), ("eos_token_id", last)];
    entries.extend(ends.map(|(key, id)| (key, GgufValue::U32(id))));
    for (key, name) in [("padding_token_id", "[PAD]"), ("mask_token_id", "[MASK]")] {
        entries.extend(find(Some(name)).map(|id| (key, GgufValue::U32(id as u32))));
    }
    words.rename(|piece| piece.strip_prefix(INSIDE).map_or_else(|| format!("{FIRST}{piece}"), String::from));
    Some((entries, words))
}

/// The tokenizer of a GGUF file with this vocabulary. Error: an id of a special token that is beyond it.
pub(super) fn word_piece_tokenizer(file: &GgufFile, mut words: Vocabulary) -> Result<Tokenizer> {
    let find = |key: &str| file.metadata().get(&format!("tokenizer.ggml.{key}"));
    words.rename(|piece| piece.strip_prefix(FIRST).map_or_else(|| format!("{INSIDE}{piece}"), String::from));
    let id = |keys: &[&str], default: Option<u64>| keys.iter().find_map(|key| find(key)?.as_u64()).or(default);
    let token = |id: u64| {
        let token = usize::try_from(id).ok().and_then(|id| words.tokens.get(id));
        token
            .cloned()
            .ok_or_else(|| file.error(None, format!("tokenizer.ggml: special token {id} of {}", words.tokens.len())))
    };
    // llama.cpp's defaults are the ids of BERT's first vocabulary.
    let (first, last) = (id(&["cls_token_id", "bos_token_id"], Some(101)), id(&["seperator_token_id"], Some(102)));
    let ends = [first, last].map(|id| id.unwrap_or(u64::MAX));
    let others = [id(&["padding_token_id"], None), id(&["mask_token_id"], None)];
    let specials = Specials {
        unknown: token(id(&["unknown_token_id"], Some(100)).unwrap_or(u64::MAX))?,
        first: token(ends[0])?,
        last: token(ends[1])?,
        others: others.into_iter().flatten().map(token).collect::<Result<_>>()?,
    };
    let flag = |key: &str, default: bool| find(key).and_then(GgufValue::as_bool).unwrap_or(default);
    let lowercase = flag("normalizer.lowercase", true);
    let strip_accents = flag("normalizer.strip_accents", lowercase);
    let cleaning = Cleaning { lowercase, strip_accents, chinese_words: true };
    let json = word_piece_json(&words.tokens, &specials, cleaning);
    let json = json.map_err(|token| file.error(None, format!("tokenizer.ggml.tokens: no {token:?}")))?;
    let [first, last] = ends.map(|id| Some(id as u32));
    Tokenizer::from_json(file.path(), json.to_string().as_bytes(), (first, last))
}

impl Vocabulary {
    /// Gives pieces, not special tokens, other names.
    fn rename(&mut self, other: impl Fn(&str) -> String) {
        let pieces = self.tokens.iter_mut().zip(&self.types).filter(|(_, kind)| **kind == token_type::NORMAL);
        pieces.for_each(|(token, _)| *token = other(token));
    }
}
