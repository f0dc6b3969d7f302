#![no_main]
//! Any bytes as a `tokenizer.json`.

use hybridq::data::Tokenizer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    hybridq_fuzz::allow_caught_panics();
    let path = hybridq_fuzz::file("tokenizer.json", bytes);
    if let Ok(tokenizer) = Tokenizer::load(&path)
        && let Ok(ids) = tokenizer.encode("The tea, 中文 \n\n")
    {
        tokenizer.decode(&ids);
        let _ = tokenizer.gguf_metadata(tokenizer.vocabulary());
    }
});
