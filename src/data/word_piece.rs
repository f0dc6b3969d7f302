//! WordPiece, BERT's tokenizer (Wu et al. 2016; Devlin et al. 2019): text is cleaned and cut into words, words into the
//! longest pieces known. As a `tokenizer.json`, from `vocab.txt`.
#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// What a piece inside a word begins with.
pub(super) const INSIDE: &str = "##";
/// Longer words are unknown ones.
const MAX_WORD_CHARS: usize = 100;

/// How text is cleaned before it is cut.
#[derive(Clone, Copy)]
pub(super) struct Cleaning {
    pub lowercase: bool,
    pub strip_accents: bool,
    /// Whether each Chinese character is a word.
    pub chinese_words: bool,
}

/// Tokens with a meaning of their own.
pub(super) struct Specials {
    pub unknown: String,
    pub first: String,
    pub last: String,
    /// Padding and mask, where the vocabulary has them.
    pub others: Vec<String>,
}

/// The `tokenizer.json` of a vocabulary. Error: the name of a special token that it lacks.
pub(super) fn word_piece_json(
    tokens: &[String],
    specials: &Specials,
    cleaning: Cleaning,
) -> std::result::Result<Value, String> {
    let vocab: Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let id = |token: &str| vocab.get(token).cloned().ok_or_else(|| token.to_string());
    let Specials { unknown, first, last, others } = specials;
    let mut added = Vec::new();
    for token in [unknown, first, last].into_iter().chain(others) {
        added.push(json!({"id": id(token)?, "content": token, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}));
    }
    added.sort_by_key(|token| token["id"].as_u64());
    let special = |token: &str, part: u32| json!({"SpecialToken": {"id": token, "type_id": part}});
    let text = |name: &str, part: u32| json!({"Sequence": {"id": name, "type_id": part}});
    let described = |token: &str| Ok::<_, String>(json!({"id": token, "ids": [id(token)?], "tokens": [token]}));
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": cleaning.chinese_words,
            "strip_accents": cleaning.strip_accents, "lowercase": cleaning.lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [special(first, 0), text("A", 0), special(last, 0)],
            "pair": [special(first, 0), text("A", 0), special(last, 0), text("B", 1), special(last, 1)],
            "special_tokens": {first: described(first)?, last: described(last)?}},
        "decoder": {"type": "WordPiece", "prefix": INSIDE, "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": INSIDE,
            "max_input_chars_per_word": MAX_WORD_CHARS, "vocab": vocab},
    }))
}

/// The `tokenizer.json` of a `vocab.txt` (a token a line, its id the line's number), with what the `tokenizer_config.json`
/// beside it says. Errors: the system's, text that is not UTF-8, a missing special token.
pub(super) fn read_vocab_txt(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let tokens: Vec<String> = text.lines().map(String::from).collect();
    let config_path = path.with_file_name("tokenizer_config.json");
    let config: Value = match std::fs::read(&config_path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&config_path, None, error.to_string().escape_debug().to_string()))?,
        Err(_) => Value::Null,
    };
    let flag = |key: &str, default: bool| config[key].as_bool().unwrap_or(default);
    let name = |key: &str, default: &str| {
        let named = config[key].as_str().or(config[key]["content"].as_str());
        named.unwrap_or(default).to_string()
    };
    let lowercase = flag("do_lower_case", true);
    let cleaning = Cleaning {
        lowercase,
        strip_accents: flag("strip_accents", lowercase),
        chinese_words: flag("tokenize_chinese_chars", true),
    };
    let others = [name("pad_token", "[PAD]"), name("mask_token", "[MASK]")];
    let specials = Specials {
        unknown: name("unk_token", "[UNK]"),
        first: name("cls_token", "[CLS]"),
        last: name("sep_token", "[SEP]"),
        others: others.into_iter().filter(|token| tokens.contains(token)).collect(),
    };
    let missing = |token: String| Error::format(path, None, format!("not BERT's vocabulary: no token {token:?}"));
    word_piece_json(&tokens, &specials, cleaning).map_err(missing)
}

/// How the tokenizer of a `tokenizer.json` cleans text; `None` if it does not work as BERT's.
pub(super) fn cleaning_of(json: &Value) -> Option<Cleaning> {
    let (normalizer, model) = (&json["normalizer"], &json["model"]);
    let known = normalizer["type"] == "BertNormalizer"
        && normalizer["clean_text"] == true
        && json["pre_tokenizer"]["type"] == "BertPreTokenizer"
        && model["continuing_subword_prefix"] == INSIDE;
    let lowercase = normalizer["lowercase"].as_bool()?;
    known.then(|| Cleaning {
        lowercase,
        strip_accents: normalizer["strip_accents"].as_bool().unwrap_or(lowercase),
        chinese_words: normalizer["handle_chinese_chars"] == true,
    })
}
