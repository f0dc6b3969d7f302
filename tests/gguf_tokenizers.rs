//! Tokenizers as GGUF metadata, and back.

use hybridq::data::Tokenizer;
use hybridq::formats::{GgufArray, GgufFile, GgufValue, write_gguf};

/// Tokenizers through GGUF metadata: the same ids for texts they were not made of.
#[test]
fn tokenizers_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["", "the thermal tea", " then\n\nhe  ate\tit", "Äther 中文 🙂", "tttthhheee", "a<|end|>b <s>"];
    for (name, json) in [("bytes", byte_level_bpe()), ("pieces", sentence_piece())] {
        let path = folder.path().join(format!("{name}.json"));
        std::fs::write(&path, json).unwrap();
        let original = Tokenizer::load(&path).unwrap();
        let entries = original.gguf_metadata(original.vocabulary() + 5).unwrap();
        let gguf = folder.path().join(format!("{name}.gguf"));
        write_gguf(&gguf, &entries, &[]).unwrap();
        let read = Tokenizer::from_gguf(&GgufFile::open(&gguf).unwrap()).unwrap();
        assert_eq!(
            (read.vocabulary(), read.bos(), read.eos()),
            (original.vocabulary(), original.bos(), original.eos())
        );
        for text in texts {
            assert_eq!(read.encode(text).unwrap(), original.encode(text).unwrap(), "{name} {text:?}");
            assert_eq!(read.encode_prompt(text).unwrap(), original.encode_prompt(text).unwrap(), "{name} {text:?}");
            let ids = original.encode(text).unwrap();
            assert_eq!(read.decode(&ids), original.decode(&ids), "{name} {text:?}");
        }
        let file = GgufFile::open(&gguf).unwrap();
        let Some(GgufArray::String(tokens)) = file.metadata()["tokenizer.ggml.tokens"].as_array() else { panic!() };
        assert_eq!(tokens.len(), original.vocabulary() + 5);
        let message = original.gguf_metadata(3).unwrap_err().to_string();
        assert!(message.contains("at most the model's 3 ids"), "{message}");
    }
    let entries = Tokenizer::bytes().gguf_metadata(260).unwrap();
    write_gguf(folder.path().join("b.gguf"), &entries, &[]).unwrap();
    assert!(Tokenizer::from_gguf(&GgufFile::open(folder.path().join("b.gguf")).unwrap()).unwrap().is_byte_level());
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = Tokenizer::load({
        let path = folder.path().join("t.json");
        std::fs::write(&path, sentence_piece()).unwrap();
        path
    });
    let entries = good.unwrap().gguf_metadata(300).unwrap();
    let with = |key: &str, value: Option<GgufValue>| {
        let key = format!("tokenizer.ggml.{key}");
        let mut entries: Vec<_> = entries.iter().filter(|entry| entry.0 != key).cloned().collect();
        entries.extend(value.map(|value| (key, value)));
        let path = folder.path().join("t.gguf");
        write_gguf(&path, &entries, &[]).unwrap();
        Tokenizer::from_gguf(&GgufFile::open(&path).unwrap()).unwrap_err().to_string()
    };
    let strings =
        |words: &[&str]| Some(GgufValue::Array(GgufArray::String(words.iter().map(|w| w.to_string()).collect())));
    assert!(with("model", Some(GgufValue::String("t5".into()))).contains("expected gpt2, llama or bert, found \"t5\""));
    assert!(with("model", Some(GgufValue::U8(1))).contains("tokenizer.ggml.model"));
    assert!(with("scores", None).contains("tokenizer.ggml.scores"));
    assert!(with("scores", Some(GgufValue::Array(GgufArray::F32(vec![0.0])))).contains("scores: expected"));
    assert!(with("tokens", None).contains("tokenizer.ggml.tokens"));
    assert!(with("tokens", strings(&[])).contains("tokens: expected some"));
    assert!(with("tokens", strings(&["a", "b", "a"])).contains("\"a\" occurs twice"));
    let unigram = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": false}}"#;
    std::fs::write(folder.path().join("u.json"), unigram).unwrap();
    let message = Tokenizer::load(folder.path().join("u.json")).unwrap().gguf_metadata(9).unwrap_err().to_string();
    assert!(message.contains("llama.cpp has no tokenizer with a model of type \"Unigram\""), "{message}");
}

/// GPT-2's form: 256 bytes, a few merges, a special token.
fn byte_level_bpe() -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255u8 {
        let c = if printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        vocab.insert(c.to_string(), byte.into());
    }
    let merges = ["t h", "th e", "Ġ t", "Ġ the", "a t", "e r"];
    for (id, merge) in merges.iter().enumerate() {
        vocab.insert(merge.replace(' ', ""), (256 + id).into());
    }
    let end = vocab.len();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": end, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    })
    .to_string()
}

/// Llama's form: SentencePiece merges, byte fall-back, BOS before every text.
fn sentence_piece() -> String {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend("▁theaimrl".chars().map(String::from));
    let merges = ["t h", "▁ t", "▁t h", "▁ th", "▁t he", "▁th e", "h e", "a t", "e r"];
    let mut made: Vec<String> = Vec::new();
    for merge in merges {
        let word = merge.replace(' ', "");
        if !tokens.contains(&word) && !made.contains(&word) {
            made.push(word);
        }
    }
    tokens.extend(made);
    let vocab: serde_json::Map<String, serde_json::Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let added = ["<unk>", "<s>", "</s>"].iter().enumerate().map(|(id, token)| {
        serde_json::json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    });
    let start =
        serde_json::json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "post_processor": {"type": "TemplateProcessing", "single": start, "pair": start,
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    })
    .to_string()
}
