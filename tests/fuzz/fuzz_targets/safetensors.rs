#![no_main]
//! Any bytes as a safetensors file.

use hybridq::formats::{SafetensorsFile, inspect};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = hybridq_fuzz::file("m.safetensors", bytes);
    let _ = inspect(&path);
    if let Ok(file) = SafetensorsFile::open(&path) {
        for tensor in file.tensors() {
            assert_eq!(file.bytes(&tensor.name).unwrap().len(), tensor.bytes());
        }
    }
});
