#![no_main]
//! Any bytes as a GGUF file: header, model and tokenizer are read or refused.

use std::sync::OnceLock;

use hybridq::data::Tokenizer;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::{GgufFile, inspect};
use hybridq::models::Model;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    hybridq_fuzz::allow_caught_panics();
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    let context = CONTEXT.get_or_init(|| Context::new(ContextOptions { threads: Some(1), isa: None }).unwrap());
    let path = hybridq_fuzz::file("m.gguf", bytes);
    let _ = inspect(&path);
    if let Ok(file) = GgufFile::open(&path) {
        for tensor in file.tensors() {
            assert_eq!(file.bytes(tensor).len(), tensor.range.len());
        }
        let _ = Model::load_gguf(context, &file);
        let _ = Tokenizer::from_gguf(&file);
    }
});
