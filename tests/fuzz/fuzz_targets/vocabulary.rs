#![no_main]
//! Any bytes as BERT's `vocab.txt`, or, cut at the first zero, as GPT-2's vocabulary and merges.

use std::path::Path;

use hybridq::data::Tokenizer;

fn read(path: &Path) {
    if let Ok(tokenizer) = Tokenizer::load(path)
        && let Ok(ids) = tokenizer.encode("The tea, 中文 \n\n")
    {
        tokenizer.decode(&ids);
        let _ = tokenizer.gguf_metadata(tokenizer.vocabulary());
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    hybridq_fuzz::allow_caught_panics();
    match bytes.iter().position(|&byte| byte == 0) {
        None => read(&hybridq_fuzz::file("vocab.txt", bytes)),
        Some(end) => {
            hybridq_fuzz::file("merges.txt", &bytes[end + 1..]);
            read(&hybridq_fuzz::file("vocab.json", &bytes[..end]));
        }
    }
});
