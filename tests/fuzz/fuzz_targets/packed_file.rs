#![no_main]
//! Any bytes as a packed model.

use std::sync::Arc;

use hybridq::formats::SafetensorsFile;
use hybridq::models::Model;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = hybridq_fuzz::file("m.packed", bytes);
    if let Ok(file) = SafetensorsFile::open(&path) {
        let _ = Model::load_packed(&Arc::new(file));
    }
});
