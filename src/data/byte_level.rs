//! Bytes as printable characters, the way GPT-2 writes them in vocabulary files.
#![forbid(unsafe_code)]

/// GPT-2's printable character for a byte: itself where it is printable Latin-1, else the next from U+0100 on.
pub(super) fn byte_level_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|&lower| !printable(lower)).count() as u32;
    char::from_u32(0x100 + place).expect("U+0100 to U+0143 are characters")
}

/// A `tokenizer.json` whose 256 ids are the bytes.
pub(super) fn byte_level_json() -> String {
    let vocab: serde_json::Map<String, serde_json::Value> =
        (0..=255u8).map(|byte| (byte_level_char(byte).to_string(), byte.into())).collect();
    let level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    });
    format!("{json:#}\n")
}
