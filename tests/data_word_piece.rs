//! BERT's vocabularies against transformers' own tokenizer, and through GGUF metadata.

use std::path::Path;

use hybridq::data::Tokenizer;
use hybridq::formats::{GgufFile, GgufValue, write_gguf};

/// A vocabulary by hand.
#[rustfmt::skip]
const SMALL: [&str; 61] = [
    "[PAD]", "the", "##the", "[UNK]", "th", "##e", "caf", "##é", "na", "##ive", "##ïve", "[CLS]", "[SEP]", "e", "你", "好", "，",
    "it", "'", "s", "we", "##ll", "ll", "they", "ve", "i", "m", "I", "M", "x", "##y", "sy", "[MASK]", "[", "]", "a", "b", "c",
    "mask", "1", "##2", "##3", "##45", "##67890", "3", ".", "14", "-", "*", "(", ")", "nest", "##ed", "The", "\u{301}", "bom",
    "istanbul", "stra", "##ße", "##sse", "strasse",
];

const AWKWARD: [&str; 13] = [
    "",
    " ",
    "\n\n  \r\n\t",
    "the thethe  the\nThe",
    "caf\u{e9} na\u{ef}ve \u{fffd} \u{feff}bom",
    "e\u{301} \u{1F469}\u{200D}\u{1F469}\u{200D}\u{1F467} \u{1F1E9}\u{1F1EA}",
    "\u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c} \u{0645}\u{0631}\u{062d}\u{0628}\u{0627}",
    "\u{0}\u{1}\u{7f}\u{80}\u{9f}\u{a0}\u{ad}",
    "it's we'll they've I'M x'sy",
    "[MASK] [mask] [SEP]",
    "a\u{2028}b\u{3000}c\u{10ffff}",
    "1234567890 3.14 --- *** ((nested))",
    "\u{130}stanbul STRASSE stra\u{df}e \u{1c5}",
];

/// Ids of [`AWKWARD`] by `BertTokenizer` of transformers 5.23.0.
#[rustfmt::skip]
const LOWER_CASE: [&[u32]; 13] = [
    &[], &[], &[], &[1, 1, 2, 1, 1], &[6, 5, 8, 9, 55], &[13, 3, 3], &[14, 15, 16, 3, 3, 3], &[],
    &[17, 18, 19, 20, 18, 22, 23, 18, 24, 25, 18, 26, 29, 18, 31], &[32, 33, 38, 34, 12], &[35, 36, 3],
    &[39, 40, 41, 42, 43, 44, 45, 46, 47, 47, 47, 48, 48, 48, 49, 49, 51, 52, 50, 50], &[56, 60, 57, 58, 3],
];
#[rustfmt::skip]
const CASED: [&[u32]; 13] = [
    &[], &[], &[], &[1, 1, 2, 1, 53], &[6, 7, 8, 10, 55], &[3, 3, 3], &[14, 15, 16, 3, 3, 3], &[],
    &[17, 18, 19, 20, 18, 22, 23, 18, 24, 27, 18, 28, 29, 18, 31], &[32, 33, 38, 34, 12], &[35, 36, 3],
    &[39, 40, 41, 42, 43, 44, 45, 46, 47, 47, 47, 48, 48, 48, 49, 49, 51, 52, 50, 50], &[3, 3, 57, 58, 3],
];
/// The same under a vocabulary of 30,522 pieces.
#[rustfmt::skip]
const LARGE: [&[u32]; 13] = [
    &[], &[], &[], &[1996, 1996, 10760, 1996, 1996], &[7668, 15743, 8945, 2213], &[1041, 100, 100],
    &[100, 100, 1989, 1745, 100, 1295, 17149, 29820, 29816, 25573], &[],
    &[2009, 1005, 1055, 2057, 1005, 2222, 2027, 1005, 2310, 1045, 1005, 1049, 1060, 1005, 25353],
    &[103, 1031, 7308, 1033, 102], &[1037, 1038, 100],
    &[13138, 19961, 2575, 2581, 2620, 21057, 1017, 1012, 2403, 1011, 1011, 1011, 1008, 1008, 1008, 1006, 1006, 9089, 2098, 1007, 1007],
    &[9960, 2358, 8180, 3366, 2358, 27807, 100],
];

fn small(folder: &Path, config: &str) {
    std::fs::write(folder.join("vocab.txt"), SMALL.join("\n") + "\n").unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), config).unwrap();
}

fn check(tokenizer: &Tokenizer, expected: [&[u32]; 13], ends: [u32; 2]) {
    for (text, ids) in AWKWARD.iter().zip(expected) {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        let whole: Vec<u32> = [&ends[..1], ids, &ends[1..]].concat();
        assert_eq!(tokenizer.encode_prompt(text).unwrap(), whole, "{text:?}");
    }
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(ends[0]), Some(ends[1])));
}

#[test]
fn vocabularies_are_read_as_transformers_reads_them() {
    for (config, expected) in [("{}", LOWER_CASE), (r#"{"do_lower_case": false}"#, CASED)] {
        let folder = tempfile::tempdir().unwrap();
        small(folder.path(), config);
        for path in [folder.path().to_path_buf(), folder.path().join("vocab.txt")] {
            let tokenizer = Tokenizer::load(path).unwrap();
            assert_eq!(tokenizer.vocabulary(), SMALL.len());
            check(&tokenizer, expected, [11, 12]);
        }
        // As tokenizer.json, and as llama.cpp's metadata.
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        check(&Tokenizer::load(saved.path()).unwrap(), expected, [11, 12]);
        let path = folder.path().join("m.gguf");
        write_gguf(&path, &tokenizer.gguf_metadata(70).unwrap(), &[]).unwrap();
        check(&Tokenizer::from_gguf(&GgufFile::open(&path).unwrap()).unwrap(), expected, [11, 12]);
    }
}

/// A published vocabulary, where it is at hand: `HYBRIDQ_TEST_DATA` names the folder that holds `tokenizer/bert`.
#[test]
fn a_large_vocabulary() {
    let Some(folder) = std::env::var_os("HYBRIDQ_TEST_DATA") else {
        eprintln!("SKIPPED a_large_vocabulary: HYBRIDQ_TEST_DATA does not name a folder with tokenizer/bert");
        let required = std::env::var("HYBRIDQ_REQUIRE").is_ok_and(|list| list.split(',').any(|x| x == "test-data"));
        assert!(!required, "HYBRIDQ_REQUIRE asks for test-data");
        return;
    };
    let tokenizer = Tokenizer::load(Path::new(&folder).join("tokenizer/bert")).unwrap();
    check(&tokenizer, LARGE, [101, 102]);
}

#[test]
fn damaged_vocabularies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = |vocabulary: &[u8], config: &str| {
        std::fs::write(folder.path().join("vocab.txt"), vocabulary).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(message.lines().count() == 1, "{message}");
        message
    };
    assert!(message(b"[PAD]\n[UNK]\nthe\n[SEP]\n", "{}").contains("no token \"[CLS]\""));
    assert!(message(b"", "{}").contains("no token \"[UNK]\""));
    assert!(message(b"\xff\xfe[CLS]", "{}").contains("vocab.txt"));
    assert!(message(b"[UNK]\n[CLS]\n[SEP]\n", "{").contains("tokenizer_config.json"));
    assert!(message(b"[UNK]\n[CLS]\n[SEP]\n", r#"{"cls_token": {"content": "<s>"}}"#).contains("no token \"<s>\""));

    small(folder.path(), r#"{"tokenize_chinese_chars": false}"#);
    let refused = Tokenizer::load(folder.path()).unwrap().gguf_metadata(61).unwrap_err().to_string();
    assert!(refused.contains("llama.cpp has no tokenizer with this normalizer"), "{refused}");
    small(folder.path(), "{}");
    let mut entries = Tokenizer::load(folder.path()).unwrap().gguf_metadata(61).unwrap();
    entries.retain(|entry| entry.0 != "tokenizer.ggml.cls_token_id" && entry.0 != "tokenizer.ggml.bos_token_id");
    entries.push(("tokenizer.ggml.cls_token_id".into(), GgufValue::U32(1 << 30)));
    let path = folder.path().join("m.gguf");
    write_gguf(&path, &entries, &[]).unwrap();
    let refused = Tokenizer::from_gguf(&GgufFile::open(&path).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("special token 1073741824 of 61"), "{refused}");
}
