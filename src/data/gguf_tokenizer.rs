//! Tokenizers as GGUF metadata, and back.
//!
//! llama.cpp has three kinds that are known here: "gpt2", merges over bytes written as printable characters, "llama",
//! SentencePiece's, which joins the neighbours that make the token of the highest score, and "bert", WordPiece.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::byte_level::byte_level_char;
use super::gguf_word_piece::{word_piece_entries, word_piece_tokenizer};
use super::sentence_piece::{merges_of_scores, scores_of_merges};
use super::tokenizer::{NEWLINE, Tokenizer};
use crate::formats::{GgufArray, GgufFile, GgufValue};
use crate::{Error, Result};

/// The words that Llama 3's tokenizer cuts a text into before it merges.
const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens.
pub(super) mod token_type {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// What all kinds have.
#[derive(Default)]
pub(super) struct Vocabulary {
    pub tokens: Vec<String>,
    pub types: Vec<i32>,
}

impl Tokenizer {
    /// The metadata by which llama.cpp tokenizes as this tokenizer does, for a model of `vocabulary` ids: what the tokenizer
    /// has not is filled up with unused tokens. Bytes have NUL as the end of a text, because llama.cpp must have one.
    ///
    /// Errors: more ids than the model's; a tokenizer that llama.cpp has no equal of.
    pub fn gguf_metadata(&self, vocabulary: usize) -> Result<Vec<(String, GgufValue)>> {
        self.check_vocabulary(vocabulary)?;
        let mut entries = Vec::new();
        let mut add = |key: &str, value: GgufValue| entries.push((format!("tokenizer.ggml.{key}"), value));
        let Some(json) = self.subword_json()? else {
            let tokens = (0..=255).map(|byte| byte_level_char(byte).to_string()).collect();
            let words = Vocabulary { tokens, types: vec![token_type::NORMAL; 256] };
            add("model", GgufValue::String("gpt2".into()));
            add("pre", GgufValue::String("gpt-2".into()));
            add("merges", GgufValue::Array(GgufArray::String(Vec::new())));
            add("bos_token_id", GgufValue::U32(NEWLINE.into()));
            add("eos_token_id", GgufValue::U32(0));
            add("add_bos_token", GgufValue::Bool(false));
            words.add_to(vocabulary, &mut entries);
            return Ok(entries);
        };
        let json: Value = serde_json::from_str(&json).expect("the crate writes JSON");
        let refuse = |found: &dyn std::fmt::Display| {
            Err(Error::Unsupported(format!("no export to gguf: llama.cpp has no tokenizer with {found}")))
        };
        let model = &json["model"];
        if model["type"] == "WordPiece" {
            let ends = self.encode_prompt("")?;
            let Some((own, words)) = word_piece_entries(&json, &ends) else {
                return refuse(&"this normalizer, pre_tokenizer or post_processor");
            };
            own.into_iter().for_each(|(key, value)| add(key, value));
            words.add_to(vocabulary, &mut entries);
            return Ok(entries);
        }
        if model["type"] != "BPE" {
            return refuse(&format!("a model of type {}", model["type"]));
        }
        let merges = merges_of(model);
        let mut words = Vocabulary::of_json(&json);
        if json["decoder"]["type"] == "ByteLevel" {
            let Some(pre) = words_of(&json["pre_tokenizer"]).filter(|_| json["normalizer"].is_null()) else {
                return refuse(&"this normalizer or pre_tokenizer");
            };
            add("model", GgufValue::String("gpt2".into()));
            add("pre", GgufValue::String(pre.into()));
            add("merges", GgufValue::Array(GgufArray::String(merges)));
        } else {
            let Some(scores) = scores_of_merges(&words.tokens, &merges).filter(|_| model["byte_fallback"] == true)
            else {
                return refuse(&"these merges (they follow no scores, or there is no byte_fallback)");
            };
            words.mark_bytes(model["unk_token"].as_str());
            add("model", GgufValue::String("llama".into()));
            add("pre", GgufValue::String("default".into()));
            let mut scores = scores;
            scores.resize(vocabulary, 0.0);
            add("scores", GgufValue::Array(GgufArray::F32(scores)));
            let blank = json["normalizer"].to_string().contains("\"Prepend\"");
            add("add_space_prefix", GgufValue::Bool(blank));
        }
        let before = self.encode_prompt("")?;
        add("add_bos_token", GgufValue::Bool(self.bos().is_some() && before.first() == self.bos().as_ref()));
        for (key, id) in [("bos_token_id", self.bos()), ("eos_token_id", self.eos())] {
            if let Some(id) = id {
                add(key, GgufValue::U32(id));
            }
        }
        words.add_to(vocabulary, &mut entries);
        Ok(entries)
    }

    /// The tokenizer of a GGUF file; bytes if the file has none. Errors: a kind that is not known here, missing or
    /// damaged entries, each named.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let find = |key: &str| file.metadata().get(&format!("tokenizer.ggml.{key}"));
        let fail = |key: &str, message: String| Err(file.error(None, format!("tokenizer.ggml.{key}: {message}")));
        let kind = match find("model").map(|value| value.as_str()) {
            None | Some(Some("none" | "no_vocab")) => return Ok(Tokenizer::bytes()),
            Some(Some(kind)) => kind,
            Some(None) => return fail("model", "expected a name".into()),
        };
        let words = Vocabulary::of_file(file)?;
        if words.tokens.is_empty() {
            return fail("tokens", "expected some".into());
        }
        let id = |key: &str| {
            let id = find(key).and_then(GgufValue::as_u64).and_then(|id| u32::try_from(id).ok());
            id.filter(|&id| (id as usize) < words.tokens.len())
        };
        let (bos, eos) = (id("bos_token_id"), id("eos_token_id"));
        let starts = find("add_bos_token").and_then(GgufValue::as_bool).unwrap_or(kind == "llama");
        let before = bos.filter(|_| starts).map(|bos| (bos, words.tokens[bos as usize].as_str()));
        if kind == "bert" {
            return word_piece_tokenizer(file, words);
        }
        let json = match kind {
            "gpt2" => {
                let Some(GgufArray::String(merges)) = find("merges").and_then(GgufValue::as_array) else {
                    return fail("merges", "expected strings".into());
                };
                if merges.is_empty() && words.is_bytes() {
                    return Ok(Tokenizer::bytes());
                }
                let pre = find("pre").and_then(GgufValue::as_str).unwrap_or("default");
                let Some(pre_tokenizer) = pre_tokenizer_of(pre) else {
                    return fail("pre", format!("expected gpt-2 or llama-bpe, found {pre:?}"));
                };
                byte_level_bpe(&words, merges, pre_tokenizer)
            }
            "llama" => {
                let Some(GgufArray::F32(scores)) = find("scores").and_then(GgufValue::as_array) else {
                    return fail("scores", "expected numbers".into());
                };
                if scores.len() < words.tokens.len() {
                    return fail("scores", format!("expected {}, found {}", words.tokens.len(), scores.len()));
                }
                let blank = find("add_space_prefix").and_then(GgufValue::as_bool).unwrap_or(true);
                let merges = merges_of_scores(&words.tokens, scores, |id| words.types[id] == token_type::NORMAL);
                let merges = merges.map_err(|error| file.error(None, format!("tokenizer.ggml.tokens: {error}")))?;
                sentence_piece(&words, merges, blank)
            }
            other => return fail("model", format!("expected gpt2, llama or bert, found {other:?}")),
        };
        let json = with_start(json, before).to_string();
        Tokenizer::from_json(file.path(), json.as_bytes(), (bos, eos))
    }
}

impl Vocabulary {
    /// Tokens by id; ids without a token are unused ones.
    pub(super) fn of_json(json: &Value) -> Self {
        let mut by_id = BTreeMap::new();
        for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
            by_id.insert(id.as_u64().unwrap_or(0) as usize, (token.clone(), token_type::NORMAL));
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let kind = if added["special"] == true { token_type::CONTROL } else { token_type::USER_DEFINED };
            let content = added["content"].as_str().unwrap_or_default();
            by_id.insert(added["id"].as_u64().unwrap_or(0) as usize, (content.to_string(), kind));
        }
        let mut words = Vocabulary::default();
        for (id, (token, kind)) in by_id {
            words.fill(id);
            words.tokens.push(token);
            words.types.push(kind);
        }
        words
    }

    fn of_file(file: &GgufFile) -> Result<Self> {
        let find = |key: &str| file.metadata().get(&format!("tokenizer.ggml.{key}")).and_then(GgufValue::as_array);
        let Some(GgufArray::String(tokens)) = find("tokens") else {
            return Err(file.error(None, "tokenizer.ggml.tokens: expected strings"));
        };
        let mut types = match find("token_type") {
            None => vec![token_type::NORMAL; tokens.len()],
            Some(GgufArray::I32(types)) => types.clone(),
            Some(GgufArray::U32(types)) => types.iter().map(|&kind| kind as i32).collect(),
            Some(_) => return Err(file.error(None, "tokenizer.ggml.token_type: expected integers")),
        };
        types.resize(tokens.len(), token_type::NORMAL);
        // Unused ones at the end only fill up the model's rows.
        let used = types.iter().rposition(|&kind| kind != token_type::UNUSED).map_or(0, |last| last + 1);
        let words = Vocabulary { tokens: tokens[..used].to_vec(), types: types[..used].to_vec() };
        let mut sorted: Vec<&str> = words.tokens.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(file.error(None, format!("tokenizer.ggml.tokens: {:?} occurs twice", pair[0]))),
            None => Ok(words),
        }
    }

    /// Unused tokens up to `len`.
    fn fill(&mut self, len: usize) {
        for id in self.tokens.len()..len {
            self.tokens.push(format!("[PAD{id}]"));
            self.types.push(token_type::UNUSED);
        }
    }

    fn mark_bytes(&mut self, unknown: Option<&str>) {
        for (token, kind) in self.tokens.iter().zip(&mut self.types) {
            if Some(token.as_str()) == unknown {
                *kind = token_type::UNKNOWN;
            } else if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') {
                *kind = token_type::BYTE;
            }
        }
    }

    fn is_bytes(&self) -> bool {
        let mut bytes = (0..=255).map(|byte| byte_level_char(byte).to_string());
        self.tokens.len() == 256 && self.tokens.iter().all(|token| Some(token) == bytes.next().as_ref())
    }

    fn add_to(mut self, vocabulary: usize, entries: &mut Vec<(String, GgufValue)>) {
        self.fill(vocabulary);
        entries.push(("tokenizer.ggml.tokens".into(), GgufValue::Array(GgufArray::String(self.tokens))));
        entries.push(("tokenizer.ggml.token_type".into(), GgufValue::Array(GgufArray::I32(self.types))));
    }

    fn vocab(&self) -> Value {
        let entries = self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id)));
        Value::Object(entries.collect())
    }

    fn added(&self) -> Value {
        let added = self.tokens.iter().zip(&self.types).enumerate().filter_map(|(id, (token, &kind))| {
            let special = matches!(kind, token_type::CONTROL | token_type::UNKNOWN);
            (special || kind == token_type::USER_DEFINED).then(|| {
                json!({"id": id, "content": token, "special": special, "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false})
            })
        });
        Value::Array(added.collect())
    }
}

/// Merges as "a b", however they are written.
fn merges_of(model: &Value) -> Vec<String> {
    let merges = model["merges"].as_array().into_iter().flatten();
    let text = |part: &Value| part.as_str().unwrap_or_default().to_string();
    merges
        .map(|merge| merge.as_array().map_or(text(merge), |pair| format!("{} {}", text(&pair[0]), text(&pair[1]))))
        .collect()
}

/// llama.cpp's name of a pre-tokenizer, if it has one.
fn words_of(pre_tokenizer: &Value) -> Option<&'static str> {
    if pre_tokenizer["type"] == "ByteLevel" {
        let plain = pre_tokenizer["add_prefix_space"] != true && pre_tokenizer["use_regex"] != false;
        return plain.then_some("gpt-2");
    }
    let [split, bytes] = &pre_tokenizer["pretokenizers"].as_array()?[..] else { return None };
    let plain = bytes["type"] == "ByteLevel" && bytes["add_prefix_space"] != true && bytes["use_regex"] == false;
    (plain && split["pattern"]["Regex"] == LLAMA3_WORDS).then_some("llama-bpe")
}

fn pre_tokenizer_of(name: &str) -> Option<Value> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    match name {
        "gpt-2" | "phi-2" => Some(bytes(true)),
        "llama-bpe" | "llama3" | "llama-v3" => {
            let split =
                json!({"type": "Split", "pattern": {"Regex": LLAMA3_WORDS}, "behavior": "Isolated", "invert": false});
            Some(json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]}))
        }
        _ => None,
    }
}

fn tokenizer_json(words: &Vocabulary, model: Value, rest: Value) -> Value {
    let mut json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": words.added(),
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": model});
    json.as_object_mut().expect("an object").extend(rest.as_object().cloned().unwrap_or_default());
    json
}

fn byte_level_bpe(words: &Vocabulary, merges: &[String], pre_tokenizer: Value) -> Value {
    let ignore_merges = pre_tokenizer["type"] == "Sequence"; // Llama 3: a word that is a token is that token
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
        "vocab": words.vocab(), "merges": merges});
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    tokenizer_json(words, model, json!({"pre_tokenizer": pre_tokenizer, "decoder": level}))
}

fn sentence_piece(words: &Vocabulary, merges: Vec<[String; 2]>, blank: bool) -> Value {
    let unknown = words.types.iter().position(|&kind| kind == token_type::UNKNOWN).map(|id| &words.tokens[id]);
    let model = json!({"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": words.vocab(), "merges": merges});
    let blanks = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let (mut normalizers, mut decoders) = (
        vec![blanks],
        vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ],
    );
    if blank {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    tokenizer_json(
        words,
        model,
        json!({"normalizer": {"type": "Sequence", "normalizers": normalizers},
               "decoder": {"type": "Sequence", "decoders": decoders}}),
    )
}

/// Puts a token before every text.
fn with_start(mut json: Value, start: Option<(u32, &str)>) -> Value {
    if let Some((id, token)) = start {
        let first = json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        json["post_processor"] = json!({"type": "TemplateProcessing", "single": [first, text], "pair": [first, text],
            "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}});
    }
    json
}
