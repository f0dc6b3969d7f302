//! Text sources, tokenizers and datasets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hybridq::data::{NgramBaselines, Split, TextSource, TextSplit, TokenBatch, TokenDataset, Tokenizer};
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap()
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

/// A subword vocabulary with merges, written by hand: bytes, "th", "the", " the" and `<|endoftext|>`.
fn small_gpt2(folder: &Path) {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let mut vocab = BTreeMap::new();
    for byte in 0..=255u8 {
        let character = if printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        vocab.insert(character.to_string(), u32::from(byte));
    }
    for (token, id) in [("th", 256), ("the", 257), ("\u{120}the", 258), ("<|endoftext|>", 259)] {
        vocab.insert(token.to_string(), id);
    }
    write(folder, "encoder.json", serde_json::to_string(&vocab).unwrap());
    write(folder, "vocab.bpe", "#version: 0.2\nt h\nth e\n\u{120} the\n");
}

const AWKWARD: [&str; 12] = [
    "",
    " ",
    "\n\n  \r\n\t",
    "the thethe  the\nThe",
    "caf\u{e9} na\u{ef}ve \u{fffd} \u{feff}bom",
    "e\u{301} \u{1F469}\u{200D}\u{1F469}\u{200D}\u{1F467} \u{1F1E9}\u{1F1EA}",
    "\u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c} \u{0645}\u{0631}\u{062d}\u{0628}\u{0627}",
    "\u{0}\u{1}\u{7f}\u{80}\u{9f}\u{a0}\u{ad}",
    "it's we'll they've I'M x'sy",
    "<|endoftext|",
    "a\u{2028}b\u{3000}c\u{10ffff}",
    "1234567890 3.14 --- *** ((nested))",
];

/// The ids of [`AWKWARD`] under GPT-2's vocabulary, by `ByteLevelBPETokenizer` of the Python package tokenizers 0.23.3.
#[rustfmt::skip]
const AWKWARD_IDS: [&[u32]; 12] = [
    &[],
    &[220],
    &[628, 220, 220, 201, 198, 197],
    &[1169, 262, 1169, 220, 262, 198, 464],
    &[66, 1878, 2634, 41492, 20543, 27332, 119, 123, 65, 296],
    &[68, 136, 223, 50169, 102, 447, 235, 41840, 102, 447, 235, 41840, 100, 12520, 229, 102, 8582, 229, 103],
    &[19526, 254, 25001, 121, 171, 120, 234, 10310, 244, 45911, 234, 47048, 26897, 148, 255, 39848, 12919],
    &[188, 189, 221, 126, 222, 126, 253, 1849, 3907],
    &[270, 338, 356, 1183, 484, 1053, 314, 6, 44, 2124, 338, 88],
    &[27, 91, 437, 1659, 5239, 91],
    &[64, 447, 101, 65, 5099, 222, 66, 176, 237, 123, 123],
    &[10163, 2231, 30924, 3829, 513, 13, 1415, 11420, 17202, 14808, 77, 7287, 4008],
];

#[test]
fn byte_level_is_the_bytes() {
    let tokenizer = Tokenizer::bytes();
    assert_eq!((tokenizer.vocabulary(), tokenizer.bos(), tokenizer.eos()), (256, Some(10), None));
    for text in AWKWARD {
        let ids = tokenizer.encode(text).unwrap();
        assert!(ids.iter().map(|&id| id as u8).eq(text.bytes()));
        assert_eq!(tokenizer.decode(&ids), text);
    }
    assert_eq!(tokenizer.decode(&[0xC3, 0x28, 0xE2, 0x82]), String::from_utf8_lossy(&[0xC3, 0x28, 0xE2, 0x82]));
    assert!(tokenizer.check_vocabulary(256).is_ok());
    assert!(tokenizer.check_vocabulary(255).unwrap_err().to_string().contains("byte-level"));
}

#[test]
fn byte_level_survives_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::bytes().save(folder.path()).unwrap();
    assert!(Tokenizer::load(folder.path()).unwrap().is_byte_level());
    // The crate `tokenizers` reads the file as the same map.
    let reference = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    for text in AWKWARD {
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        assert_eq!(reference.encode(text, true).unwrap().get_ids(), ids);
        assert_eq!(reference.decode(&ids, true).unwrap(), text);
    }
}

#[test]
fn gpt2_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    small_gpt2(folder.path());
    for path in [folder.path().to_path_buf(), folder.path().join("encoder.json"), folder.path().join("vocab.bpe")] {
        let tokenizer = Tokenizer::load(&path).unwrap();
        assert_eq!((tokenizer.vocabulary(), tokenizer.bos(), tokenizer.eos()), (260, Some(259), Some(259)));
        assert!(!tokenizer.is_byte_level());
        let ids = tokenizer.encode("the the\u{e9}thx").unwrap();
        assert_eq!(ids, [257, 258, 0xC3, 0xA9, 256, u32::from(b'x')]);
        assert_eq!(tokenizer.encode("a<|endoftext|>").unwrap(), [97, 259]);
        for text in AWKWARD {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), text);
        }
    }
    let saved = tempfile::tempdir().unwrap();
    Tokenizer::load(folder.path()).unwrap().save(saved.path()).unwrap();
    let again = Tokenizer::load(saved.path()).unwrap();
    assert_eq!((again.encode("the the").unwrap(), again.bos()), (vec![257, 258], Some(259)));
}

#[test]
fn files_that_are_no_tokenizer_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| Tokenizer::load(path).unwrap_err().to_string();
    assert!(message(folder.path()).contains("tokenizer.json"));
    assert!(message(&folder.path().join("none.json")).contains("none.json"));
    for (content, number) in
        [("", 0), ("{}", 1), ("[1,2]", 2), ("{\"model\":{\"type\":\"XYZ\"}}", 3), ("\u{0}\u{1}", 4)]
    {
        let path = write(folder.path(), &format!("t{number}.json"), content);
        let text = message(&path);
        assert!(text.contains(&format!("t{number}.json")) && text.lines().count() == 1, "{text}");
    }
    write(folder.path(), "vocab.json", "{\"a\": 0}");
    assert!(message(folder.path()).contains("merges.txt or vocab.bpe"));
    // A merge of tokens that are not there, and one longer than every token, at which the crate panics.
    write(folder.path(), "vocab.json", "{\"t\": 0, \"h\": 1}");
    for merge in ["x y", "t h"] {
        let merges = format!("#version: 0.2\n{merge}\n");
        write(folder.path(), "merges.txt", &merges);
        let text = message(folder.path());
        assert!(text.contains("vocab.json") && text.lines().count() == 1, "{text}");
    }
}

/// Damaged tokenizer files are refused or read, without a panic that reaches the caller.
#[test]
fn damaged_tokenizers_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    small_gpt2(folder.path());
    Tokenizer::load(folder.path()).unwrap().save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let good = std::fs::read(&path).unwrap();
    let mut stream = RandomStream::new(13, 0, 0, 0);
    let mut refused = 0;
    for _ in 0..400 {
        let mut bytes = good.clone();
        let end = if stream.below(2) == 0 { 900 } else { bytes.len() as u64 };
        let (at, byte) = (stream.below(end) as usize, b"0123456789[]{},:\"atf"[stream.below(20) as usize]);
        match stream.below(3) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => drop(bytes.remove(at)),
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        match Tokenizer::load(&path) {
            Ok(tokenizer) => drop(tokenizer.encode_prompt("the end").map(|ids| tokenizer.decode(&ids))),
            Err(error) => {
                refused += 1;
                assert!(
                    error.to_string().contains("tokenizer.json") && error.to_string().lines().count() == 1,
                    "{error}"
                );
            }
        }
    }
    assert!(refused > 100, "{refused} refused: the mutations are too mild");
}

#[test]
fn a_folder_is_read_without_what_is_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "b.txt", "bee");
    write(root, "a/z.md", "zed");
    write(root, "a.txt", "ay");
    write(root, ".gitignore", "ignored.txt\nbuild/\n");
    write(root, "ignored.txt", "no");
    write(root, "build/x.txt", "no");
    write(root, "a/.gitignore", "*.log\n");
    write(root, "a/x.log", "no");
    write(root, "x.log", "log of the root");
    write(root, ".git/config", "no");
    write(root, ".hidden", "no");
    write(root, "runs/1/metrics.jsonl", "no");
    write(root, "target/debug/x.txt", "no");
    write(root, "a/target/x.txt", "no");
    write(root, "my-run/metrics.jsonl", "no");
    write(root, "my-run/checkpoints/x.txt", "no");
    write(root, "binary", b"a\0b");
    write(root, "latin1", b"caf\xe9");
    write(root, "empty", b"");
    let source = TextSource::open(root).unwrap();
    let names: Vec<&str> = source.files().iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["a.txt", "a/z.md", "b.txt", "x.log"]);
    assert_eq!((source.files()[2].bytes, source.bytes()), (3, 23));
    let digest = source.digest();
    assert_eq!(digest, TextSource::open(root).unwrap().digest());
    write(root, "b.txt", "Bee");
    assert_ne!(digest, TextSource::open(root).unwrap().digest());

    write(root, "late-nul", [b"a".repeat(9000), b"\0".to_vec()].concat());
    write(root, "late-latin1", [b"a".repeat(9000), b"\xe9".to_vec()].concat());
    write(root, ".dot/inside", "seen if asked for");
    assert_eq!(TextSource::open(root).unwrap().files().len(), 4);
    assert_eq!(TextSource::open(root.join(".dot")).unwrap().files()[0].path, "inside");

    let named = TextSource::open(root.join("target")).unwrap();
    assert_eq!(named.files()[0].path, "debug/x.txt", "a folder given by name is read");
}

#[cfg(unix)]
#[test]
fn links_are_followed_only_where_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "text/a", "ay");
    std::os::unix::fs::symlink(folder.path().join("text"), folder.path().join("link")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("text/a"), folder.path().join("text/b")).unwrap();
    let names = |path: &str| -> Vec<String> {
        let source = TextSource::open(folder.path().join(path)).unwrap();
        source.files().iter().map(|file| file.path.clone()).collect()
    };
    assert_eq!((names("text"), names("link")), (vec!["a".to_string()], vec!["a".to_string()]));
}

#[test]
fn sha256_is_the_published_one() {
    let folder = tempfile::tempdir().unwrap();
    let source = TextSource::open(write(folder.path(), "abc", "abc")).unwrap();
    assert_eq!(source.files()[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(source.files()[0].path, "abc");
}

#[test]
fn sources_without_text_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| TextSource::open(path).unwrap_err().to_string();
    assert!(message(folder.path()).contains("folder without text"));
    assert!(message(&write(folder.path(), "nothing.txt", "")).contains("nothing.txt: empty file"));
    assert!(message(&folder.path().join("missing.txt")).contains("missing.txt"));
}

#[test]
fn the_split_is_the_anchors() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..997).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let source = TextSource::open(write(folder.path(), "text", &text)).unwrap();
    let split = TextSplit::new(&source, None, &Tokenizer::bytes());
    assert_eq!((split.training[0].len(), split.validation[0].len()), (997 * 9 / 10, 997 - 997 * 9 / 10));
    assert_eq!([split.training[0], split.validation[0]].concat(), text.as_bytes());

    // 15 bytes of three-byte characters: byte 13 is inside the last.
    let source = TextSource::open(write(folder.path(), "cjk", "\u{4f60}".repeat(5))).unwrap();
    assert_eq!(TextSplit::new(&source, None, &Tokenizer::bytes()).training[0].len(), 13);
    small_gpt2(folder.path());
    let subword = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(TextSplit::new(&source, None, &subword).training[0].len(), 12);
}

#[test]
fn windows_of_a_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let text: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let source = TextSource::open(write(folder.path(), "text", &text)).unwrap();
    let data = TokenDataset::new(&context(), &Tokenizer::bytes(), &source, None).unwrap();
    assert_eq!((data.tokens(Split::Training), data.tokens(Split::Validation)), (4500, 500));

    let mut batch = TokenBatch::default();
    data.read(Split::Training, &[0, 4499 - 16], 16, &mut batch);
    let view = batch.view();
    assert_eq!((view.sequences, view.length), (2, 16));
    assert!(view.tokens[..16].iter().copied().eq(0..16));
    assert!(view.targets[..16].iter().copied().eq(1..17));
    assert_eq!(view.targets[31], u32::from(text[4499]));

    // numpy: np.linspace(0, 500 - 16 - 1, 7).astype(int) and np.linspace(0, 483, 1)
    assert_eq!(data.evaluation_offsets(7, 16).unwrap(), [0, 80, 161, 241, 322, 402, 483]);
    assert_eq!(data.evaluation_offsets(1, 16).unwrap(), [0]);
    assert_eq!(data.partition(1500).unwrap(), [0, 1500]);
    assert_eq!(data.partition(1499).unwrap(), [0, 1499, 2998]);
    assert_eq!(data.target_bytes(7, 16), 16);

    let offsets = data.random_offsets(1, 2, 64, 256).unwrap();
    assert_eq!(offsets, data.random_offsets(1, 2, 64, 256).unwrap());
    assert_ne!(offsets, data.random_offsets(1, 3, 64, 256).unwrap());
    assert_ne!(offsets, data.random_offsets(2, 2, 64, 256).unwrap());
    let all = data.random_offsets(0, 0, 4000, 4490).unwrap();
    assert_eq!((all.iter().min(), all.iter().max()), (Some(&0), Some(&9)), "every offset occurs, none outside");

    assert!(data.check_length(499).is_ok());
    let short = data.check_length(500).unwrap_err().to_string();
    assert!(
        short.contains("text: too short: 500 validation tokens") && short.contains("more than the sequence length 500"),
        "{short}"
    );
    assert!(data.random_offsets(0, 0, 1, 4500).unwrap_err().to_string().contains("4500 training tokens"));
    assert!(data.check_length(0).is_err() && data.check_length(usize::MAX).is_err());
    assert!(data.evaluation_offsets(0, 16).is_err() && data.evaluation_offsets(usize::MAX, 16).is_err());
}

#[test]
fn files_are_joined_by_bos() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "text/1", "0123456789");
    write(folder.path(), "text/2", "abcdefghijabcdefghij");
    let source = TextSource::open(folder.path().join("text")).unwrap();
    let data = TokenDataset::new(&context(), &Tokenizer::bytes(), &source, None).unwrap();
    let mut batch = TokenBatch::default();
    data.read(Split::Training, &[0], 27, &mut batch);
    let text: Vec<u8> = batch.view().tokens.iter().map(|&id| id as u8).collect();
    assert_eq!(text, b"012345678\nabcdefghijabcdefgh"[..27]);
    assert_eq!((data.tokens(Split::Training), data.tokens(Split::Validation)), (28, 4));

    let split = TextSplit::new(&source, None, &Tokenizer::bytes());
    let joined = NgramBaselines::measure(b"012345678\nabcdefghijabcdefgh", b"9\nij").unwrap();
    assert_eq!(NgramBaselines::of(&split).unwrap(), joined);

    let validation = TextSource::open(write(folder.path(), "validation", "0123")).unwrap();
    let data = TokenDataset::new(&context(), &Tokenizer::bytes(), &source, Some(&validation)).unwrap();
    assert_eq!((data.tokens(Split::Training), data.tokens(Split::Validation)), (31, 4));
}

#[test]
fn subword_windows_know_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    small_gpt2(folder.path());
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    write(folder.path(), "v/1", "the the\u{1F600}th x");
    write(folder.path(), "v/2", "the");
    let training = TextSource::open(write(folder.path(), "t", "the x")).unwrap();
    let validation = TextSource::open(folder.path().join("v")).unwrap();
    let data = TokenDataset::new(&context(), &tokenizer, &training, Some(&validation)).unwrap();
    // the| the|F0|9F|98|80|th| |x|BOS|the
    assert_eq!(data.tokens(Split::Validation), 11);
    let bytes: Vec<u64> = (0..10).map(|offset| data.target_bytes(offset, 1)).collect();
    assert_eq!(bytes, [4, 4, 0, 0, 0, 2, 1, 1, 0, 3]);
    assert_eq!(data.target_bytes(0, 10), 15);

    let latin1 = TextSource::open(write(folder.path(), "latin1", b"caf\xe9 au lait")).unwrap();
    assert!(TokenDataset::new(&context(), &Tokenizer::bytes(), &latin1, None).is_ok());
    let error = TokenDataset::new(&context(), &tokenizer, &latin1, None).unwrap_err().to_string();
    assert!(error.contains("latin1") && error.contains("UTF-8"), "{error}");
}

/// Long texts are cut into pieces; the ids are those of the whole text.
#[test]
fn cutting_long_texts_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    small_gpt2(folder.path());
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let text = "the end\n\n  the \u{e9} th.\n the\u{1F600}they\n".repeat(20_000);
    let json = folder.path().join("tokenizer.json");
    tokenizer.save(folder.path()).unwrap();
    let whole = tokenizers::Tokenizer::from_file(json).unwrap().encode(text.as_str(), false).unwrap();
    assert!(tokenizer.encode(&text).unwrap() == whole.get_ids());
}

/// GPT-2's own files, where they are at hand: `HYBRIDQ_TEST_DATA` names the folder that holds `tokenizer/gpt2`.
#[test]
fn gpt2s_own_files() {
    let Some(folder) = std::env::var_os("HYBRIDQ_TEST_DATA") else {
        eprintln!("SKIPPED gpt2s_own_files: HYBRIDQ_TEST_DATA does not name a folder with tokenizer/gpt2");
        assert!(!required("test-data"), "HYBRIDQ_REQUIRE asks for test-data");
        return;
    };
    let tokenizer = Tokenizer::load(Path::new(&folder).join("tokenizer/gpt2")).unwrap();
    assert_eq!((tokenizer.vocabulary(), tokenizer.bos()), (50_257, Some(50_256)));
    assert_eq!(tokenizer.encode("Hello world! It's 2026.").unwrap(), [15496, 995, 0, 632, 338, 1160, 2075, 13]);
    for (text, ids) in AWKWARD.into_iter().zip(AWKWARD_IDS) {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), text);
    }
}

fn required(what: &str) -> bool {
    std::env::var("HYBRIDQ_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item == what))
}

proptest! {
    /// Id by id, a decoder shows what the whole text is, and never a part of a character.
    #[test]
    fn streaming_is_lossy_decoding(bytes in prop::collection::vec(prop_oneof![
        any::<u8>(), Just(0xE2), Just(0x82), Just(0xAC), Just(0xF0), Just(0x9F), Just(b'a'),
    ], 0..40)) {
        let tokenizer = Tokenizer::bytes();
        let mut decoder = tokenizer.decoder(true);
        let mut shown = String::new();
        for (index, &byte) in bytes.iter().enumerate() {
            shown += &decoder.push(byte.into());
            let whole = String::from_utf8_lossy(&bytes[..=index]).into_owned();
            prop_assert!(whole.starts_with(&shown));
            prop_assert!(whole.chars().count() <= shown.chars().count() + 3, "held back more than a character");
        }
        shown += &decoder.finish();
        prop_assert_eq!(shown, String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn subword_text_comes_back(text in "\\PC{0,40}") {
        let folder = tempfile::tempdir().unwrap();
        small_gpt2(folder.path());
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()), text);
    }
}
