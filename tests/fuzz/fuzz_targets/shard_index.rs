#![no_main]
//! Any bytes as the index of a model's shards.

use hybridq::formats::SafetensorsFolder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    hybridq_fuzz::file("model.safetensors.index.json", bytes);
    let _ = SafetensorsFolder::open(hybridq_fuzz::folder());
});
